"""The architectures written out term by term: sums over pairs and loops over tokens, one sequence at a time.

A reference to test against. It shares nothing with jrtcli and never reads config.json: what the configuration
next to the weights means is said in the arguments. Weights under the published names, without prefixes.
L tokens, C channels, W taps, h heads, P head dim.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


def conv(x: Tensor, filters: Tensor, bias: Tensor | None) -> Tensor:
    """x (L, C), filters (C, 1, W): y_t = sum_k w_k x_{t - W + 1 + k}, then the bias."""
    width = filters.shape[-1]
    y = torch.zeros_like(x)
    for t in range(len(x)):
        for k in range(width):
            if t - width + 1 + k >= 0:
                y[t] += filters[:, 0, k] * x[t - width + 1 + k]
    return y if bias is None else y + bias


def rms(x: Tensor, weight: Tensor | float, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def mamba(w: Weights, ids: Tensor, *, layers: int, eps: float = 1e-5) -> Tensor:
    x = w["backbone.embedding.weight"][ids]
    for i in range(layers):
        m = {k.split(".mixer.")[1]: v for k, v in w.items() if f"layers.{i}.mixer." in k}
        y = rms(x, w[f"backbone.layers.{i}.norm.weight"], eps) @ m["in_proj.weight"].T
        u, z = (y + m.get("in_proj.bias", 0)).chunk(2, -1)
        u = F.silu(conv(u, m["conv1d.weight"], m.get("conv1d.bias")))
        rank, n = m["dt_proj.weight"].shape[1], m["A_log"].shape[1]
        low, b, c = (u @ m["x_proj.weight"].T).split([rank, n, n], -1)
        dt = F.softplus(low @ m["dt_proj.weight"].T + m["dt_proj.bias"])
        state, out = torch.zeros_like(m["A_log"]), []
        for t in range(len(u)):
            state = torch.exp(-dt[t][:, None] * m["A_log"].exp()) * state + (dt[t] * u[t])[:, None] * b[t]
            out.append(state @ c[t] + m["D"] * u[t])
        x = x + (torch.stack(out) * F.silu(z)) @ m["out_proj.weight"].T + m.get("out_proj.bias", 0)
    return rms(x, w["backbone.norm_f.weight"], eps) @ w["lm_head.weight"].T


def mamba2(
    w: Weights,
    ids: Tensor,
    *,
    layers: int,
    groups: int,
    n: int,
    limit: tuple[float, float],
    eps: float = 1e-5,
) -> Tensor:
    x = w["backbone.embedding.weight"][ids]
    for i in range(layers):
        m = {k.split(".mixer.")[1]: v for k, v in w.items() if f"layers.{i}.mixer." in k}
        inner, heads = m["norm.weight"].shape[0], m["A_log"].shape[0]
        y = rms(x, w[f"backbone.layers.{i}.norm.weight"], eps) @ m["in_proj.weight"].T
        z, u, dt = y.split([inner, inner + 2 * groups * n, heads], -1)
        u = F.silu(conv(u, m["conv1d.weight"], m.get("conv1d.bias")))
        u, b, c = u.split([inner, groups * n, groups * n], -1)
        dt = F.softplus(dt + m["dt_bias"]).clamp(*limit)
        out = torch.zeros_like(u)
        width = inner // heads
        for j in range(heads):
            at, g = slice(j * width, (j + 1) * width), j // (heads // groups)
            state = u.new_zeros(width, n)
            for t in range(len(u)):
                bt, ct = b[t, g * n : (g + 1) * n], c[t, g * n : (g + 1) * n]
                state = torch.exp(-dt[t, j] * m["A_log"][j].exp()) * state + dt[t, j] * u[t, at, None] * bt
                out[t, at] = state @ ct + m["D"][j] * u[t, at]
        parts = (out * F.silu(z)).chunk(groups, -1)
        normed = torch.cat([rms(part, 1.0, eps) for part in parts], -1) * m["norm.weight"]
        x = x + normed @ m["out_proj.weight"].T
    return rms(x, w["backbone.norm_f.weight"], eps) @ w["lm_head.weight"].T


def gla(
    w: Weights, ids: Tensor, *, layers: int, heads: int, kv_heads: int, clamp: float, eps: float
) -> Tensor:
    x = w["model.embeddings.weight"][ids]
    for i in range(layers):
        m = {k.split(f"layers.{i}.")[1]: v for k, v in w.items() if f"model.layers.{i}." in k}
        y = rms(x, m["attn_norm.weight"], eps)
        q, k, v, g = (y @ m[f"attn.{name}_proj.weight"].T for name in "qkvg")
        low = y @ m["attn.gk_proj.0.weight"].T
        gate = F.logsigmoid(low @ m["attn.gk_proj.1.weight"].T + m["attn.gk_proj.1.bias"]) / 16
        gate = torch.maximum(gate, torch.tensor(clamp, dtype=gate.dtype))
        key, value = q.shape[1] // heads, g.shape[1] // heads
        out = []
        for j in range(heads):
            shared = j // (heads // kv_heads)
            mine, here = slice(j * key, (j + 1) * key), slice(shared * key, (shared + 1) * key)
            values = v[:, shared * value : (shared + 1) * value]
            state, rows = q.new_zeros(key, value), []
            for t in range(len(x)):
                state = gate[t, here].exp()[:, None] * state + k[t, here, None] * values[t]
                rows.append(q[t, mine] / key**0.5 @ state)
            out.append(rms(torch.stack(rows), m["attn.g_norm_swish_gate.weight"], eps))
        x = x + (torch.cat(out, -1) * F.silu(g)) @ m["attn.o_proj.weight"].T
        y = rms(x, m["mlp_norm.weight"], eps)
        both = F.silu(y @ m["mlp.gate_proj.weight"].T) * (y @ m["mlp.up_proj.weight"].T)
        x = x + both @ m["mlp.down_proj.weight"].T
    return rms(x, w["model.norm.weight"], eps) @ w["lm_head.weight"].T


def turn(x: Tensor, dims: int, base: float) -> Tensor:
    """Rotary positions on x (L, h, P): pairs (a, a + half), one frequency for every second of `dims`."""
    half = math.ceil(dims / 2)
    y, t = x.clone(), torch.arange(len(x), dtype=x.dtype)[:, None]
    for a in range(half):
        angle = t * base ** (-2 * a / dims)
        y[:, :, a] = x[:, :, a] * angle.cos() - x[:, :, a + half] * angle.sin()
        y[:, :, a + half] = x[:, :, a] * angle.sin() + x[:, :, a + half] * angle.cos()
    return y


@dataclass(frozen=True)
class Hybrid:
    """What a file of the GPT-2 kind means. mixers: "conv", "linear", or ("softmax", earlier keys seen)."""

    mixers: tuple[Any, ...]
    heads: int = 2
    feature: int = 8
    turned: int = 16
    base: float = 10000.0
    encoder: int = 0
    use_mask: bool = True
    log_decay: Tensor | None = None
    eps: float = 1e-5

    def __call__(
        self, w: Weights, ids: Tensor, mask: Tensor | None = None, prompt: int | None = None
    ) -> Tensor:
        """mask (L,): 0 at padding. prompt: tokens read at once, all by default; the rest come one by one."""
        prompt = len(ids) if prompt is None else prompt
        covered = min(self.encoder, prompt)
        # A single token, and more than the encoder takes, are read as if there were no mask.
        mask = mask if self.use_mask and 1 < prompt <= self.encoder else None
        x = w["transformer.embeddings.word_embeddings.weight"][ids]
        for i, kind in enumerate(self.mixers):
            m = {k.split(f"layers.{i}.")[1]: v for k, v in w.items() if f"transformer.layers.{i}." in k}
            y = rms(x, m["norm1.weight"], self.eps)
            if kind == "conv":
                u, v = (y @ m["mixer.in_proj.weight"].T + m.get("mixer.in_proj.bias", 0)).chunk(2, -1)
                y = F.silu(conv(u, m["mixer.conv.conv.weight"], m.get("mixer.conv.conv.bias"))) * v
            else:
                y = self.linear(m, y, mask, covered) if kind == "linear" else self.softmax(m, y, kind[1])
            x = x + y @ m["mixer.out_proj.weight"].T + m.get("mixer.out_proj.bias", 0)
            y, gate = (rms(x, m["norm2.weight"], self.eps) @ m["mlp.fc1.weight"].T).chunk(2, -1)
            x = x + (y * F.silu(gate)) @ m["mlp.fc2.weight"].T
        return rms(x, w["transformer.ln_f.weight"], self.eps) @ w["lm_head.weight"].T

    def softmax(self, m: Weights, y: Tensor, window: int) -> Tensor:
        q, k, v = (y @ m["mixer.Wqkv.weight"].T).view(len(y), 3, self.heads, -1).unbind(1)
        if self.turned:
            q, k = turn(q, self.turned, self.base), turn(k, self.turned, self.base)
        scores = torch.einsum("ihp,jhp->hij", q, k) / q.shape[-1] ** 0.5
        apart = torch.arange(len(y))[:, None] - torch.arange(len(y))
        scores = scores.masked_fill((apart < 0) | (apart > window), -math.inf)
        return torch.einsum("hij,jhp->ihp", scores.softmax(-1), v).flatten(1)

    def linear(self, m: Weights, y: Tensor, mask: Tensor | None, covered: int) -> Tensor:
        def project(name: str, x: Tensor) -> Tensor:
            return (x @ m[f"mixer.proj_{name}.weight"].T).unflatten(-1, (self.heads, -1))

        def weigh(q: Tensor, k: Tensor) -> Tensor:
            s = torch.einsum("ihp,jhp->hij", q, k) / self.feature**0.5
            return 1 + s + s**2 / 2

        q, k, v = (project(name, y) for name in "qkv")
        if mask is not None:
            k = k * mask[:, None, None]  # a key of zeros still has the weight 1
        weights = weigh(q, k).tril()
        below, above = weights.sum(-1), weights
        if self.log_decay is not None:
            apart = (torch.arange(len(y))[:, None] - torch.arange(len(y))).tril()
            factor = (y @ m["mixer.decay_proj.weight"].T).T[:, :, None]
            above = weights * factor * torch.exp(self.log_decay[:, None, None] * apart)
        out = torch.einsum("hij,jhp->ihp", above, v)
        if covered:
            k, v = project("k_enc", y[:covered]), project("v_enc", y[:covered])
            if mask is not None:
                k = k * mask[:covered, None, None]
            weights = weigh(q, k)
            out, below = out + torch.einsum("hij,jhp->ihp", weights, v), below + weights.sum(-1)
        return (out / below.T[..., None]).flatten(1)
