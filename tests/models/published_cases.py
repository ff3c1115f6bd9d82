"""Tiny random checkpoints in the published forms: what a trainer's config.json and weight files look like.

Each builder gives a Case: the files, and the formulas of `written_out.py` with what its config.json means.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


ref = _load("written_out")
Weights = dict[str, Tensor]
Config = dict[str, Any]
FORMS = ("model.safetensors", "pytorch_model.bin")
ROWS = 48


class Draw:
    """Seeded random weights that keep every term visible in the logits."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, std: float = 1.0) -> Tensor:
        return std * torch.randn(*shape, generator=self.generator)

    def linear(self, out: int, into: int) -> Tensor:
        return self(out, into, std=1.3 / math.sqrt(into))


@dataclass(frozen=True)
class Case:
    """config.json, weights under canonical names, what they mean; how the file spells and stores them."""

    config: Config
    weights: Weights
    means: Callable[..., Tensor]
    encoder: int = 0
    stored: Callable[[str], torch.dtype] = lambda name: torch.float32
    spell: Callable[[str], str] = lambda name: name
    leave_out: tuple[str, ...] = ()
    extra: Weights = field(default_factory=dict)
    form: str = "model.safetensors"
    shards: int = 1

    def write(self, folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(self.config))
        files = {
            self.spell(k): v.to(self.stored(k)).clone()
            for k, v in self.weights.items()
            if k not in self.leave_out
        } | self.extra
        save: Any = save_file if self.form == FORMS[0] else torch.save
        if self.shards == 1:
            save(files, folder / self.form)
            return
        stem, suffix = self.form.rsplit(".", 1)
        where = {}
        for s in range(self.shards):
            name = f"{stem}-{s + 1:05d}-of-{self.shards:05d}.{suffix}"
            part = dict(list(files.items())[s :: self.shards])
            where |= dict.fromkeys(part, name)
            save(part, folder / name)
        index = {"metadata": {"total_size": 1}, "weight_map": where}
        (folder / f"{self.form}.index.json").write_text(json.dumps(index))

    def reference(self, ids: Tensor, **options: Any) -> Tensor:
        """(B, L, V): the file's numbers, in fp64."""
        wide = {k: v.to(self.stored(k)).double() for k, v in self.weights.items()}
        masks = options.pop("mask", None)
        rows = [
            self.means(wide, row, **options, **({} if masks is None else {"mask": masks[b]}))
            for b, row in enumerate(ids)
        ]
        return torch.stack(rows)


def prefixed(name: str) -> str:
    """As prefix-linear-attention's trainer saved them."""
    return f"model.{name}"


def half_but_few(name: str) -> torch.dtype:
    return torch.float32 if name.endswith((".D", "A_log", "dt_bias")) else torch.float16


METRICS = {f"{split}_metrics.num-tokens.count": torch.tensor(7) for split in ("train", "val", "test")}


def state_space(
    seed: int, second: bool, *, d: int = 20, layers: int = 2, tied: bool = True, **sizes: int
) -> Weights:
    """Mamba (n, rank) or Mamba-2 (n, heads, groups, inner) under state-spaces' names."""
    r = Draw(seed)
    inner, n, taps = sizes.get("inner", 2 * d), sizes.get("n", 16), sizes.get("taps", 4)
    heads, groups, rank = sizes.get("heads", 4), sizes.get("groups", 1), sizes.get("rank", 2)
    mixed = inner + 2 * groups * n if second else inner
    w = {"backbone.embedding.weight": r(ROWS, d), "backbone.norm_f.weight": 1 + r(d, std=0.2)}
    w["lm_head.weight"] = w["backbone.embedding.weight"] if tied else r.linear(ROWS, d)
    for i in range(layers):
        at = f"backbone.layers.{i}.mixer."
        w[f"backbone.layers.{i}.norm.weight"] = 1 + r(d, std=0.2)
        w |= {f"{at}conv1d.weight": r(mixed, 1, taps, std=0.5), f"{at}conv1d.bias": r(mixed, std=0.2)}
        w |= {f"{at}in_proj.weight": r.linear(inner + mixed + (heads if second else 0), d)}
        w |= {f"{at}out_proj.weight": r.linear(d, inner)}
        if second:
            w |= {f"{at}A_log": r(heads), f"{at}D": r(heads), f"{at}dt_bias": r(heads) - 1}
            w |= {f"{at}norm.weight": 1 + r(inner, std=0.2)}
        else:
            w |= {
                f"{at}A_log": r(inner, n),
                f"{at}D": r(inner),
                f"{at}x_proj.weight": r.linear(rank + 2 * n, inner),
            }
            w |= {f"{at}dt_proj.weight": r.linear(inner, rank), f"{at}dt_proj.bias": r(inner) - 1}
    return w


SSM: Config = {"d_model": 20, "n_layer": 2, "vocab_size": 41, "ssm_cfg": {}, "rms_norm": True}
SSM |= {"residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 16}
HAZY_MAMBA = SSM | {
    "reorder_and_upcast_attn": False,
    "scale_attn_by_inverse_layer_idx": True,
    "n_positions": 2048,
}
HAZY_MAMBA |= {"n_embd": 64, "n_head": 16, "use_flash_attn": True, "fused_mlp": True, "use_fast_path": True}
HF: Config = {"hidden_size": 20, "num_hidden_layers": 2, "vocab_size": ROWS, "conv_kernel": 4, "expand": 2}
HF |= {"layer_norm_epsilon": 1e-5, "use_bias": False, "use_conv_bias": True, "hidden_act": "silu"}
HF_MAMBA = HF | {"model_type": "mamba", "state_size": 16, "intermediate_size": 40, "time_step_rank": 2}
HF_MAMBA |= {
    "d_model": 999,
    "n_layer": 2,
    "d_inner": 7,
    "bos_token_id": 0,
    "time_step_limit": [0.0, math.inf],
}
HF_MAMBA2 = HF | {"model_type": "mamba2", "num_heads": 4, "head_dim": 10, "state_size": 6, "chunk_size": 8}
HF_MAMBA2 |= {"norm_before_gate": True, "tie_word_embeddings": True}
FLOAT_INFINITY = {"__float__": "Infinity"}


def embeddings(name: str) -> str:
    """transformers' spelling."""
    return name.replace("backbone.embedding.", "backbone.embeddings.")


def mamba_case(
    config: Config, seed: int, *, eps: float = 1e-5, sizes: Config | None = None, **how: Any
) -> Case:
    weights = state_space(seed, False, **(sizes or {}))
    return Case(config, weights, lambda w, ids: ref.mamba(w, ids, layers=2, eps=eps), **how)


def mamba2_case(
    config: Config, seed: int, sizes: Config, *, limit: tuple[float, float] = (0.0, math.inf), **how: Any
) -> Case:
    def means(w: Weights, ids: Tensor) -> Tensor:
        groups, n = sizes.get("groups", 1), sizes["n"]
        out: Tensor = ref.mamba2(w, ids, layers=2, groups=groups, n=n, limit=limit)
        return out

    return Case(config, state_space(seed, True, **sizes), means, **how)


GLA: Config = {"model_type": "gla", "attn_mode": "fused_chunk", "hidden_size": 24, "num_hidden_layers": 2}
GLA |= {"num_heads": 2, "expand_k": 0.5, "expand_v": 1, "hidden_ratio": 4, "intermediate_size": None}
GLA |= {"hidden_act": "swish", "clamp_min": None, "use_gk": True, "use_gv": False, "use_short_conv": False}
GLA |= {
    "conv_size": 4,
    "fuse_norm": True,
    "rms_norm_eps": 1e-6,
    "elementwise_affine": True,
    "vocab_size": ROWS,
}
GLA |= {"tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 2048}


def gla_case(
    change: Config, seed: int, *, key: int = 12, value: int = 24, inner: int = 256, clamp: float = -math.inf,
    eps: float = 1e-6, one_file: bool = False, **how: Any,
) -> Case:  # fmt: skip
    config, r, d = GLA | change, Draw(seed), 24
    heads, kv = config["num_heads"], config.get("num_kv_heads") or config["num_heads"]
    w = {"model.embeddings.weight": r(ROWS, d), "model.norm.weight": 1 + r(d, std=0.2)}
    w["lm_head.weight"] = w["model.embeddings.weight"] if config["tie_word_embeddings"] else r.linear(ROWS, d)
    for i in range(2):
        at = f"model.layers.{i}."
        w |= {f"{at}attn_norm.weight": 1 + r(d, std=0.2), f"{at}mlp_norm.weight": 1 + r(d, std=0.2)}
        small_key, small_value = key * kv // heads, value * kv // heads
        q = r.linear(key, d)
        near = (q + r.linear(key, d) / 2)[:small_key]  # no q.k near zero: the norm divides by it at first
        w |= {f"{at}attn.q_proj.weight": q, f"{at}attn.k_proj.weight": near}
        w |= {
            f"{at}attn.v_proj.weight": r.linear(small_value, d),
            f"{at}attn.g_proj.weight": r.linear(value, d),
        }
        w |= {
            f"{at}attn.gk_proj.0.weight": r.linear(16, d),
            f"{at}attn.gk_proj.1.weight": r.linear(small_key, 16),
        }
        w |= {f"{at}attn.gk_proj.1.bias": r(small_key), f"{at}attn.o_proj.weight": r.linear(d, value)}
        w |= {f"{at}attn.g_norm_swish_gate.weight": 1 + r(value // heads, std=0.2)}
        w |= {f"{at}mlp.gate_proj.weight": r.linear(inner, d), f"{at}mlp.up_proj.weight": r.linear(inner, d)}
        w |= {f"{at}mlp.down_proj.weight": r.linear(d, inner)}

    def means(w: Weights, ids: Tensor) -> Tensor:
        out: Tensor = ref.gla(w, ids, layers=2, heads=heads, kv_heads=kv, clamp=clamp, eps=eps)
        return out

    if not one_file:
        return Case(config, w, means, **how)
    dtype = how.get("stored", lambda name: torch.float32)("")
    gone = tuple(k for k in w if k.endswith(("gate_proj.weight", "up_proj.weight")))
    halves = [f"model.layers.{i}.mlp.{{}}_proj.weight" for i in range(2)]
    fused = {k.format("gate"): torch.cat([w[k.format("gate")], w[k.format("up")]]).to(dtype) for k in halves}
    return Case(config, w, means, leave_out=gone, extra=fused, **how)


GPT2: Config = {
    "vocab_size": 41,
    "n_positions": 0,
    "n_embd": 32,
    "n_head": 2,
    "n_inner": 64,
    "rms_norm": True,
}
GPT2 |= {
    "activation_function": "swiglu",
    "layer_norm_epsilon": 1e-5,
    "model_type": "gpt2",
    "architectures": None,
}
GPT2 |= {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "tie_word_embeddings": True}
GPT2 |= {"qkv_proj_bias": False, "out_proj_bias": False, "mlp_fc1_bias": False, "mlp_fc2_bias": False}
GPT2 |= {"pad_vocab_size_multiple": 16, "residual_in_fp32": True, "rotary_emb_fraction": 1}
CONV: Config = {"_target_": "based.models.mixers.convolution.BaseConv", "l_max": 2048, "use_bias": True}
CONV |= {"expand_proj": 4, "kernel_sizes": 3}
LINEAR: Config = {"_target_": "based.models.mixers.linear_attention.LinearAttention", "num_heads": 2}
LINEAR |= {"feature_dim": 8, "parallel_implementation": "fla_parallel"}
LINEAR |= {"feature_map": {"_target_": "based.models.mixers.linear_attention.TaylorExp", "input_dim": 8}}
PREFIX: Config = {
    "_target_": "based.models.mixers.prefix_linear_attention.PrefixLinearAttention",
    "num_heads": 2,
}
PREFIX |= {
    "feature_dim": 8,
    "feature_name": "taylor_exp",
    "enc_length": 12,
    "dec_length": 12,
    "use_mask": True,
}
PREFIX |= {"implementation": "fla_parallel", "num_key_value_heads": 2}
SLIDE: Config = {
    "_target_": "based.models.mixers.slide_attention.SlidingAttention",
    "num_heads": 2,
    "causal": True,
}


def hybrid_case(
    change: Config, means: Any, seed: int, *, inner: int = 64, expand: int = 4, filter_bias: bool = False,
    tied: bool = True, **how: Any,
) -> Case:  # fmt: skip
    config, r = GPT2 | {"n_layer": len(means.mixers)} | change, Draw(seed)
    d, heads, keys = config["n_embd"], means.heads, means.heads * means.feature
    table = r(ROWS, d)
    w = {"transformer.embeddings.word_embeddings.weight": table, "transformer.ln_f.weight": 1 + r(d, std=0.2)}
    w["lm_head.weight"] = table if tied else r.linear(ROWS, d)
    for i, kind in enumerate(means.mixers):
        at = f"transformer.layers.{i}."
        w |= {f"{at}norm1.weight": 1 + r(d, std=0.2), f"{at}norm2.weight": 1 + r(d, std=0.2)}
        w |= {f"{at}mlp.fc1.weight": r.linear(2 * inner, d), f"{at}mlp.fc2.weight": r.linear(d, inner)}
        w[f"{at}mixer.out_proj.weight"] = r.linear(d, expand * d // 2 if kind == "conv" else d)
        if kind == "conv":
            w |= {
                f"{at}mixer.in_proj.weight": r.linear(expand * d, d),
                f"{at}mixer.in_proj.bias": r(expand * d, std=0.2),
            }
            w |= {f"{at}mixer.conv.conv.weight": r(expand * d // 2, 1, 3, std=0.6)}
            w |= {f"{at}mixer.out_proj.bias": r(d, std=0.2)}
            if filter_bias:
                w |= {f"{at}mixer.conv.conv.bias": r(expand * d // 2, std=0.3)}
        elif kind == "linear":
            for name in ("q", "k", "k_enc") if means.encoder else ("q", "k"):
                w[f"{at}mixer.proj_{name}.weight"] = r.linear(keys, d)
            for name in ("v", "v_enc") if means.encoder else ("v",):
                w[f"{at}mixer.proj_{name}.weight"] = r.linear(d, d)
            if means.log_decay is not None or "use_decay_proj" in config.get("alt_mixer", {}):
                w[f"{at}mixer.decay_proj.weight"] = r.linear(heads, d)
        else:
            w[f"{at}mixer.Wqkv.weight"] = r.linear(3 * d, d)
    return Case(config, w, means, encoder=means.encoder, **how)


def based(change: Config, means: Any, seed: int, **how: Any) -> Case:
    """change: over the usual file of a hybrid with these mixers."""
    lists = {
        "alt_mixer_layers": [i for i, kind in enumerate(means.mixers) if kind == "linear"],
        "alt_mixer_2_layers": [i for i, kind in enumerate(means.mixers) if isinstance(kind, tuple)],
    }
    usual = {
        "mixer": CONV,
        "alt_mixer": PREFIX if means.encoder else LINEAR,
        "alt_mixer_2": SLIDE | {"window_size": 10},
    }
    return hybrid_case(usual | lists | change, means, seed, **how)


MIXED = ("conv", "linear", ("softmax", 5), "linear")
OLD_NAMES: Config = {
    "mixer": {
        "_target_": "src.models.mixers.base_conv.BaseConvWithSiLU4",
        "l_max": 2048,
        "expand_proj": 4,
        "use_bias": True,
    },
    "alt_mixer": {
        "_target_": "src.models.mixers.linear_attention.LinearAttention",
        "num_heads": 2,
        "feature_dim": 8,
        "l_max": 2048,
        "feature_map": {"_target_": "src.models.mixers.linear_attention.TaylorExp", "input_dim": 8},
    },
    "alt_mixer_2": {
        "_target_": "src.models.mixers.slide_fa2.SlidingsMHA",
        "window_size": 10,
        "num_heads": 2,
        "do_update": True,
    },
}
DECAY: Config = {
    "fixed_decay": True,
    "decay_const": -3,
    "decay_denom": False,
    "alt_mixer": {
        "_target_": "based.models.mixers.linear_attn.LinearAttention",
        "feature_dim": 8,
        "feature_name": "taylor_exp",
        "num_heads": 2,
        "train_view": "quadratic",
        "use_decay_proj": True,
    },
}
LOG_DECAY = torch.log(1 - 2.0 ** (-3 - torch.arange(2.0))).double()


def all_half(name: str) -> torch.dtype:
    return torch.float16


def all_bfloat(name: str) -> torch.dtype:
    return torch.bfloat16


def old_conv(name: str) -> str:
    return name.replace("mixer.conv.conv.", "mixer.conv1.conv.")


def transformer(change: Config, seed: int, *, d: int, heads: int, turned: int, **how: Any) -> Case:
    means = ref.Hybrid((("softmax", 10**6),) * 2, heads=heads, turned=turned)
    fields = {"n_embd": d, "n_head": heads, "n_inner": None, "rotary_emb_fraction": 0.5, "ff_mult": 4}
    return hybrid_case(fields | change, means, seed, **how)


def jrt(change: Config, seed: int, *, encoder: int = 12, use_mask: bool = True, **how: Any) -> Case:
    mixer = PREFIX | {"enc_length": encoder, "dec_length": encoder, "use_mask": use_mask}
    lengths = {"data_type": "mixed", "enc_length": encoder, "dec_length": encoder, "alt_mixer": mixer}
    return based(lengths | change, ref.Hybrid(MIXED, encoder=encoder, use_mask=use_mask), seed, **how)
