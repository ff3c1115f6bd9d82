"""Layers that two or more architectures share: norm, gates, rotary positions, softmax attention, the block.

B batch, T tokens, H heads, P head dim, D model dim, I inner dim of the MLP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jrt_kernels.registry import named, resolve
from jrtcli.models.linear import Linear
from jrtcli.models.span import LayerState, Span, turns

if TYPE_CHECKING:
    from jrt_kernels.jit.plan import Plan
    from jrt_kernels.jit.program import Room


def tap_major(weight: Tensor) -> Tensor:
    """weight (C, 1, W) of a depthwise convolution -> (C, W), W-major in memory as `short_conv` wants it."""
    wide = weight[:, 0].to(torch.promote_types(weight.dtype, torch.float32))
    return wide.t().contiguous().t()


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension, in fp32; the result in the weight's dtype."""

    def __init__(self, dim: int, eps: float, backend: str = "torch") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps
        self.gated_norm = resolve("gated_norm", backend)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(1, -1, x.shape[-1])
        y: Tensor = self.gated_norm(rows, self.weight, eps=self.eps, dtype=self.weight.dtype)[0]
        return y.view(x.shape)


class Pointwise:
    """What stands between matrix products a value at a time: PyTorch's, or compiled where a model runs so.

    x, y (B, T, D); compiled code takes fp32 and bf16 without gradients, anything else is PyTorch's.
    """

    def __init__(self, backend: str) -> None:
        self.compiled = named("gated_norm", backend) == "numba"

    def _serves(self, *tensors: Tensor) -> bool:
        if not self.compiled:
            return False
        from jrt_kernels.jit.pointwise import serves

        return serves(*tensors)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """x + y. Compiled it is x that is changed: of the residual stream nobody keeps an old state."""
        if x.dtype == torch.float32 and x.is_contiguous() and self._serves(x, y):
            from jrt_kernels.jit.pointwise import add_to

            return add_to(x, y)
        return x + y

    def gated(self, x: Tensor, gate: Tensor, *, activated: bool = True) -> Tensor:
        """x silu(gate), or x gate."""
        if self._serves(x, gate):
            from jrt_kernels.jit.pointwise import gated

            return gated(x, gate, activated=activated)
        return x * F.silu(gate) if activated else x * gate

    def log_sigmoid(self, x: Tensor, factor: float) -> Tensor:
        """factor log(sigmoid(x)), at least in fp32."""
        if self._serves(x):
            from jrt_kernels.jit.pointwise import log_sigmoid

            return log_sigmoid(x, factor)
        return F.logsigmoid(x.to(torch.promote_types(x.dtype, torch.float32))) * factor

    def rotate(self, x: Tensor, span: Span, dims: int, base: float, scale: float) -> Tensor:
        """x (B, T, H, P) times scale, with rotary positions on its first dims."""
        half = -(-dims // 2)
        if half % 16 == 0 and self._serves(x):
            from jrt_kernels.jit.pointwise import rotary

            return rotary(x, *span.turns(dims, base), scale)
        x = rotate(x, span.positions, dims, base)
        return x if scale == 1 else x * scale


class SwiGLU(nn.Module):
    """fc2(y * silu(gate)) with [y, gate] = fc1(x): the second half is the gate (flash-attn's order)."""

    def __init__(
        self, dim: int, inner: int, backend: str, *, bias1: bool = False, bias2: bool = False
    ) -> None:
        super().__init__()
        self.pointwise = Pointwise(backend)
        self.fc1 = Linear(dim, 2 * inner, bias=bias1)
        self.fc2 = Linear(inner, dim, bias=bias2)

    def forward(self, x: Tensor) -> Tensor:
        y, gate = self.fc1(x).chunk(2, dim=-1)
        out: Tensor = self.fc2(self.pointwise.gated(y, gate))
        return out

    def plan(self, plan: Plan, x: Room) -> Room:
        """The same for one token, as stages."""
        both = plan.product(x, self.fc1.matrix, self.fc1.bias)
        inner = self.fc2.in_features
        return plan.product(plan.gated(both, both.part(inner), inner), self.fc2.matrix, self.fc2.bias)


def rotate(x: Tensor, positions: Tensor, dims: int, base: float) -> Tensor:
    """Rotary positions on the first dims of x (B, T, H, P), positions (B, T), halves not interleaved."""
    if dims == 0:
        return x
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    cos, sin = (y[:, :, None] for y in turns(positions, dims, base, wide))  # (B, T, 1, half)
    half = cos.shape[-1]
    y = x.to(wide)
    a, b, rest = y[..., :half], y[..., half : 2 * half], y[..., 2 * half :]
    return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], dim=-1).to(x.dtype)


class SoftmaxAttention(nn.Module):
    """Causal attention with rotary positions, to the last `window` keys and the own one, or (None) to all.

    scale: factor on the usual P^(-1/2).
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        window: int | None,
        rotary_fraction: float,
        rotary_base: float,
        backend: str,
        scale: float = 1.0,
        qkv_bias: bool = False,
        out_bias: bool = False,
    ) -> None:
        super().__init__()
        self.Wqkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.out_proj = Linear(dim, dim, bias=out_bias)
        self.heads, self.window, self.scale = heads, window, scale
        self.rotary_dims, self.rotary_base = int(rotary_fraction * (dim // heads)), rotary_base
        self.attend = resolve("sliding_window", backend)
        self.pointwise = Pointwise(backend)

    def init_state(self, batch: int, device: torch.device) -> LayerState:
        dim = self.out_proj.in_features
        kept = torch.zeros(batch, self.window or 0, self.heads, dim // self.heads, device=device)
        return {"k": kept, "v": kept.clone(), "length": torch.zeros(batch, dtype=torch.int64, device=device)}

    def forward(self, x: Tensor, state: LayerState, span: Span) -> tuple[Tensor, LayerState]:
        q, k, v = self.Wqkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        q, k = (
            self.pointwise.rotate(y, span, self.rotary_dims, self.rotary_base, scale)
            for y, scale in ((q, self.scale), (k, 1.0))
        )
        o, (keys, values, length) = self.attend(
            q,
            k,
            v,
            window=self.window,
            initial_state=(state["k"], state["v"], state["length"]),
            cu_seqlens=span.cu_seqlens,
        )
        return self.out_proj(o.flatten(-2)), {"k": keys, "v": values, "length": length}

    def plan(self, plan: Plan, x: Room, layer: int) -> Room:
        """The same for one token, as stages; each call gives `turn` and `length{layer}` (HybridLM.given)."""
        from jrt_kernels.jit.program import After, Before, Given, Kept
        from jrt_kernels.jit.stages.window import window

        dim = self.out_proj.in_features
        width = dim // self.heads
        shape = self.window or 0, self.heads, width
        k, v = Kept(layer, "k", shape), Kept(layer, "v", shape)
        qkv, o = plan.product(x, self.Wqkv.matrix, self.Wqkv.bias), plan.room(dim)
        plan.add(
            window, self.heads, width, shape[0], -(-self.rotary_dims // 2), qkv, Given("turn"),
            Given(f"length{layer}"), plan.constants(self.scale * width**-0.5), Before(k), After(k), Before(v),
            After(v), o,
        )  # fmt: skip
        return plan.product(o, self.out_proj.matrix, self.out_proj.bias)


class Block(nn.Module):
    """x + mixer(norm1(x)), then x + mlp(norm2(x)); the residual stream stays fp32."""

    def __init__(self, mixer: nn.Module, mlp: nn.Module, norm: Callable[[], nn.Module], backend: str) -> None:
        super().__init__()
        self.pointwise = Pointwise(backend)
        self.norm1, self.mixer, self.norm2, self.mlp = norm(), mixer, norm(), mlp

    def init_state(self, batch: int, device: torch.device) -> LayerState:
        state: LayerState = self.mixer.init_state(batch, device)  # type: ignore[operator]
        return state

    def forward(self, x: Tensor, state: LayerState, span: Span) -> tuple[Tensor, LayerState]:
        y, state = self.mixer(self.norm1(x), state, span)
        x = self.pointwise.add(x, y)
        return self.pointwise.add(x, self.mlp(self.norm2(x))), state
