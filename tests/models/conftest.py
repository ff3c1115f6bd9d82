"""Tiny models with random weights, written out under the published names: config.json and tensors.

The shapes are those of `config.json` in the published formats; only the sizes are small.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

from jrtcli.models import architecture
from jrtcli.models.base import RecurrentLM

VOCAB = 40
Config = dict[str, Any]
Weights = dict[str, Tensor]


class Draw:
    """Random weights of a scale that keeps every layer's contribution visible in the logits."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, std: float = 1.0) -> Tensor:
        return std * torch.randn(*shape, generator=self.generator)

    def linear(self, out: int, into: int, gain: float = 1.0) -> Tensor:
        return self.normal(out, into, std=gain / math.sqrt(into))

    def norm(self, size: int) -> Tensor:
        return 1 + self.normal(size, std=0.2)

    def log_decay(self, *shape: int) -> Tensor:
        return torch.log(1 + 7 * torch.rand(*shape, generator=self.generator))

    def dt_bias(self, size: int) -> Tensor:
        """softplus of it is log-uniform in 0.003..0.3: memories of three to three hundred tokens."""
        dt = torch.exp(math.log(0.003) + math.log(100) * torch.rand(size, generator=self.generator))
        return dt + torch.log(-torch.expm1(-dt))


def mamba(draw: Draw) -> tuple[Config, Weights]:
    d, inner, rank, n = 24, 48, 2, 16
    config = {"d_model": d, "n_layer": 2, "vocab_size": VOCAB - 3, "ssm_cfg": {}, "rms_norm": True}
    config |= {"residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 8}
    weights = {"backbone.embedding.weight": draw.normal(VOCAB, d), "backbone.norm_f.weight": draw.norm(d)}
    for i in range(2):
        at = f"backbone.layers.{i}"
        weights |= {
            f"{at}.norm.weight": draw.norm(d),
            f"{at}.mixer.in_proj.weight": draw.linear(2 * inner, d),
            f"{at}.mixer.conv1d.weight": draw.normal(inner, 1, 4, std=0.5),
            f"{at}.mixer.conv1d.bias": draw.normal(inner, std=0.1),
            f"{at}.mixer.x_proj.weight": draw.linear(rank + 2 * n, inner),
            f"{at}.mixer.dt_proj.weight": draw.linear(inner, rank),
            f"{at}.mixer.dt_proj.bias": draw.dt_bias(inner),
            f"{at}.mixer.A_log": draw.log_decay(inner, n),
            f"{at}.mixer.D": draw.norm(inner),
            f"{at}.mixer.out_proj.weight": draw.linear(d, inner),
        }
    return config, {**weights, "lm_head.weight": weights["backbone.embedding.weight"]}


def mamba2(draw: Draw, groups: int) -> tuple[Config, Weights]:
    """transformers' format, where heads and groups are free."""
    d, heads, p, n = 24, 4, 12, 8
    inner, channels = heads * p, heads * p + 2 * groups * n
    config = {
        "model_type": "mamba2",
        "hidden_size": d,
        "num_hidden_layers": 2,
        "num_heads": heads,
        "head_dim": p,
    }
    config |= {"state_size": n, "n_groups": groups, "conv_kernel": 4, "expand": 2, "chunk_size": 16}
    config |= {"vocab_size": VOCAB, "tie_word_embeddings": True, "time_step_limit": [0.0, float("inf")]}
    config |= {"layer_norm_epsilon": 1e-5, "use_bias": False, "use_conv_bias": True, "hidden_act": "silu"}
    weights = {"backbone.embeddings.weight": draw.normal(VOCAB, d), "backbone.norm_f.weight": draw.norm(d)}
    for i in range(2):
        at = f"backbone.layers.{i}"
        weights |= {
            f"{at}.norm.weight": draw.norm(d),
            f"{at}.mixer.in_proj.weight": draw.linear(inner + channels + heads, d),
            f"{at}.mixer.conv1d.weight": draw.normal(channels, 1, 4, std=0.5),
            f"{at}.mixer.conv1d.bias": draw.normal(channels, std=0.1),
            f"{at}.mixer.dt_bias": draw.dt_bias(heads),
            f"{at}.mixer.A_log": draw.log_decay(heads),
            f"{at}.mixer.D": draw.norm(heads),
            f"{at}.mixer.norm.weight": draw.norm(inner),
            f"{at}.mixer.out_proj.weight": draw.linear(d, inner),
        }
    return config, {**weights, "lm_head.weight": weights["backbone.embeddings.weight"]}


def gla(draw: Draw, fused_mlp: bool) -> tuple[Config, Weights]:
    d, heads, inner = 32, 2, 256
    key, value = d // 2, d
    config = {
        "model_type": "gla",
        "hidden_size": d,
        "num_hidden_layers": 2,
        "num_heads": heads,
        "expand_k": 0.5,
    }
    config |= {"expand_v": 1, "hidden_ratio": 4, "intermediate_size": None, "hidden_act": "swish"}
    config |= {"clamp_min": None, "use_gk": True, "use_gv": False, "use_short_conv": False, "conv_size": 4}
    config |= {"rms_norm_eps": 1e-6, "elementwise_affine": True, "tie_word_embeddings": False}
    config |= {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, "attn_mode": "fused_chunk"}
    weights = {"model.embeddings.weight": draw.normal(VOCAB, d), "model.norm.weight": draw.norm(d)}
    weights["lm_head.weight"] = draw.linear(VOCAB, d, 2.0)
    for i in range(2):
        at = f"model.layers.{i}"
        # Queries and keys that resemble each other: where there is one key only, the output's norm divides by
        # |q.k|, and a product near zero would make any rounding large.
        q = draw.linear(key, d)
        weights |= {
            f"{at}.attn_norm.weight": draw.norm(d),
            f"{at}.attn.q_proj.weight": q,
            f"{at}.attn.k_proj.weight": (q + draw.linear(key, d, 0.5)) / math.sqrt(1.25),
            f"{at}.attn.v_proj.weight": draw.linear(value, d),
            f"{at}.attn.g_proj.weight": draw.linear(value, d),
            f"{at}.attn.gk_proj.0.weight": draw.linear(16, d),
            f"{at}.attn.gk_proj.1.weight": draw.linear(key, 16, 2.0),
            f"{at}.attn.gk_proj.1.bias": draw.normal(key),
            f"{at}.attn.g_norm_swish_gate.weight": draw.norm(value // heads),
            f"{at}.attn.o_proj.weight": draw.linear(d, value),
            f"{at}.mlp_norm.weight": draw.norm(d),
            f"{at}.mlp.down_proj.weight": draw.linear(d, inner),
        }
        gate, up = draw.linear(inner, d), draw.linear(inner, d)
        if fused_mlp:
            weights[f"{at}.mlp.gate_proj.weight"] = torch.cat((gate, up))
        else:
            weights |= {f"{at}.mlp.gate_proj.weight": gate, f"{at}.mlp.up_proj.weight": up}
    return config, weights


def _gpt2(d: int, layers: int, heads: int) -> Config:
    """The fields of the one-line GPT2Config dump that the hazyresearch checkpoints carry."""
    config = {"vocab_size": VOCAB - 3, "n_positions": 0, "n_embd": d, "n_layer": layers, "n_head": heads}
    config |= {
        "activation_function": "swiglu",
        "layer_norm_epsilon": 1e-5,
        "rms_norm": True,
        "fused_mlp": False,
    }
    config |= {"mlp_fc1_bias": False, "mlp_fc2_bias": False, "qkv_proj_bias": False, "out_proj_bias": False}
    config |= {"residual_in_fp32": True, "tie_word_embeddings": True, "pad_vocab_size_multiple": 8}
    return config


def _hazy_ends(draw: Draw, d: int, layers: int, inner: int) -> Weights:
    embedding = draw.normal(VOCAB, d)
    weights = {"transformer.embeddings.word_embeddings.weight": embedding, "lm_head.weight": embedding}
    weights["transformer.ln_f.weight"] = draw.norm(d)
    for i in range(layers):
        at = f"transformer.layers.{i}"
        weights |= {f"{at}.norm1.weight": draw.norm(d), f"{at}.norm2.weight": draw.norm(d)}
        weights |= {f"{at}.mlp.fc1.weight": draw.linear(2 * inner, d)}
        weights |= {f"{at}.mlp.fc2.weight": draw.linear(d, inner)}
    return weights


def based(
    draw: Draw, *, prefix: bool, window: int = 14, decay: bool = False, extras: bool = False
) -> tuple[Config, Weights]:
    """Layers: convolution, linear attention, window, linear attention. `prefix` makes it JRT-RNN.

    `extras` are options that no published checkpoint has: a convolution over q, k, v, a norm of q, and for
    JRT-RNN an encoder of any length.
    """
    d, heads, feature = 32, 2, 8
    config = _gpt2(d, 4, heads) | {"n_inner": 64, "rotary_emb_fraction": 1}
    config |= {"alt_mixer_layers": [1, 3], "alt_mixer_2_layers": [2]}
    config["mixer"] = {"_target_": "BaseConv", "l_max": 2048, "use_bias": True, "expand_proj": 4}
    kind = "PrefixLinearAttention" if prefix else "LinearAttention"
    linear: Config = {"_target_": f"mixers.{kind}", "feature_dim": feature, "num_heads": heads}
    if extras:
        linear |= {"qkv_conv": 3, "q_norm": True}
    if prefix:
        linear |= {"feature_name": "taylor_exp", "use_mask": True}
        if not extras:
            config |= {"data_type": "mixed", "enc_length": 24, "dec_length": 24}
            linear |= {"enc_length": 24, "dec_length": 24}
    else:
        linear["feature_map"] = {"_target_": "mixers.TaylorExp", "input_dim": feature}
        config["fixed_decay"] = decay
        if decay:
            linear |= {"fixed_decay": True, "use_decay_proj": True, "decay_const": -3}
            config |= {"decay_const": -3, "use_decay_proj": True}
    config["alt_mixer"] = linear
    config["alt_mixer_2"] = {
        "_target_": "SlidingAttention",
        "window_size": window,
        "num_heads": heads,
        "causal": True,
    }
    weights = _hazy_ends(draw, d, 4, 256)
    for i in range(4):
        at = f"transformer.layers.{i}.mixer"
        weights[f"{at}.out_proj.weight"] = draw.linear(d, d)
        if i == 0:
            weights |= {
                f"{at}.in_proj.weight": draw.linear(4 * d, d),
                f"{at}.in_proj.bias": draw.normal(4 * d, std=0.1),
                f"{at}.conv.conv.weight": draw.normal(2 * d, 1, 3, std=0.5),
                f"{at}.out_proj.weight": draw.linear(d, 2 * d),
                f"{at}.out_proj.bias": draw.normal(d, std=0.1),
            }
        elif i == 2:
            weights[f"{at}.Wqkv.weight"] = draw.linear(3 * d, d)
        else:
            for name in ("q", "k", "k_enc") if prefix else ("q", "k"):
                weights[f"{at}.proj_{name}.weight"] = draw.linear(heads * feature, d)
            for name in ("v", "v_enc") if prefix else ("v",):
                weights[f"{at}.proj_{name}.weight"] = draw.linear(d, d)
            if extras:
                weights[f"{at}.qkv_conv.weight"] = draw.normal(2 * heads * feature + d, 1, 3, std=0.6)
                weights[f"{at}.q_norm.weight"] = draw.norm(feature)
            if extras and prefix:
                weights[f"{at}.enc_conv.weight"] = draw.normal(heads * feature + d, 1, 3, std=0.6)
            if decay:
                weights[f"{at}.decay_proj.weight"] = draw.linear(heads, d)
    if decay:
        weights["transformer.decay.decay"] = torch.log(1 - torch.exp2(-3 - torch.arange(float(heads))))
    return config, weights


def transformer(draw: Draw, fraction: float, head_dim: int) -> tuple[Config, Weights]:
    heads = 2
    d = heads * head_dim
    config = _gpt2(d, 2, heads) | {"n_inner": None, "rotary_emb_fraction": fraction, "ff_mult": 4}
    weights = _hazy_ends(draw, d, 2, 128)
    for i in range(2):
        at = f"transformer.layers.{i}.mixer"
        weights |= {f"{at}.Wqkv.weight": draw.linear(3 * d, d), f"{at}.out_proj.weight": draw.linear(d, d)}
    return config, weights


@dataclass(frozen=True)
class Tiny:
    """One architecture with one choice of its options."""

    name: str
    architecture: str
    make: Callable[[Draw], tuple[Config, Weights]]

    def model(self, backend: str = "torch", dtype: torch.dtype = torch.float32, seed: int = 0) -> RecurrentLM:
        return _build(self.name, backend, dtype, seed)

    def checkpoint(self, seed: int = 0) -> tuple[Config, Weights]:
        return self.make(Draw(seed))


TINY = {
    tiny.name: tiny
    for tiny in (
        Tiny("mamba", "mamba", mamba),
        Tiny("mamba2", "mamba2", lambda draw: mamba2(draw, 1)),
        Tiny("mamba2-two-groups", "mamba2", lambda draw: mamba2(draw, 2)),
        Tiny("gla", "gla", lambda draw: gla(draw, fused_mlp=False)),
        Tiny("gla-old-mlp", "gla", lambda draw: gla(draw, fused_mlp=True)),
        Tiny("based", "based", lambda draw: based(draw, prefix=False)),
        Tiny("based-decay", "based", lambda draw: based(draw, prefix=False, window=40, decay=True)),
        Tiny("based-extras", "based", lambda draw: based(draw, prefix=False, extras=True)),
        Tiny("jrt_rnn", "jrt_rnn", lambda draw: based(draw, prefix=True)),
        Tiny("jrt_rnn-extras", "jrt_rnn", lambda draw: based(draw, prefix=True, extras=True)),
        Tiny("transformer", "transformer", lambda draw: transformer(draw, 0.5, 16)),
        Tiny("transformer-odd-rotary", "transformer", lambda draw: transformer(draw, 0.5, 14)),
    )
}


@lru_cache(maxsize=64)
def _build(name: str, backend: str, dtype: torch.dtype, seed: int) -> RecurrentLM:
    tiny = TINY[name]
    config, weights = tiny.checkpoint(seed)
    return architecture(tiny.architecture).from_checkpoint(config, weights, backend=backend, dtype=dtype)


@pytest.fixture(params=TINY)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    """Every architecture, with every choice of options that changes its mathematics."""
    return TINY[request.param]
