"""The shapes of published models by name: with random weights they are as fast as with trained ones.

Sizes from the models' config.json files and papers; what speed does not depend on is left out.
"""

from __future__ import annotations

import json
from math import ceil
from pathlib import Path
from typing import Any

import torch

from jrtcli.errors import UsageError
from jrtcli.models import architecture


def _mamba(width: int, layers: int) -> dict[str, Any]:
    return {
        "model_type": "mamba",
        "architectures": ["MambaForCausalLM"],
        "vocab_size": 50280,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "state_size": 16,
    }


def _mamba2(width: int, layers: int) -> dict[str, Any]:
    return {
        "model_type": "mamba2",
        "architectures": ["Mamba2ForCausalLM"],
        "vocab_size": 50288,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "state_size": 128,
        "num_heads": width * 2 // 64,
        "head_dim": 64,
        "n_groups": 1,
        "tie_word_embeddings": True,
    }


def _gla(width: int, layers: int, inner: int) -> dict[str, Any]:
    return {
        "model_type": "gla",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_heads": 4,
        "expand_k": 0.5,
        "expand_v": 1,
        "intermediate_size": inner,
        "vocab_size": 32000,
    }


def _hybrid(
    kind: str, width: int, layers: int, inner: int, linear: list[int], **mixer: Any
) -> dict[str, Any]:
    return {
        "model_type": kind,
        "n_embd": width,
        "n_layer": layers,
        "n_head": 16,
        "n_inner": inner,
        "vocab_size": 50257,
        "pad_vocab_size_multiple": 8,
        "rotary_emb_fraction": 1.0,
        "mixer": {"use_bias": True, "expand_proj": 4},
        "alt_mixer": {"num_heads": 16, "feature_dim": 16, **mixer},
        "alt_mixer_layers": linear,
        "alt_mixer_2": {"window_size": 256},
        "alt_mixer_2_layers": [at + 1 for at in linear],
    }


_AT_360M, _AT_1B = [1, 6, 11, 16, 21], [1, 6, 11, 16, 21, 27, 33]

SHAPES: dict[str, dict[str, Any]] = {
    "mamba-130m": _mamba(768, 24),
    "mamba-370m": _mamba(1024, 48),
    "mamba-1.4b": _mamba(2048, 48),
    "mamba2-130m": _mamba2(768, 24),
    "mamba2-370m": _mamba2(1024, 48),
    "mamba2-1.3b": _mamba2(2048, 48),
    "gla-340m": _gla(1024, 24, 2816),
    "gla-1.3b": _gla(2048, 24, 5632),
    "based-360m": _hybrid("based", 1024, 27, 2048, _AT_360M),
    "based-1b": _hybrid("based", 1792, 36, 3584, _AT_1B),
    "jrt-360m": _hybrid("jrt_rnn", 1024, 26, 2048, _AT_360M, enc_length=1024),
    "jrt-1b": _hybrid("jrt_rnn", 1792, 36, 3584, _AT_1B, enc_length=1024),
}
"""Name -> config.json. The tests add small ones."""


def write_random(name: str, folder: Path) -> Path:
    """A checkpoint of a shape with fresh fp32 weights (seed 0), in the format that its family publishes.

    One that is there already is kept. Raises UsageError for a folder that holds something else.
    """
    from safetensors.torch import save_file

    target = folder / name
    made = target / "config.json"
    if made.is_file():
        if json.loads(made.read_text()) != SHAPES[name]:
            raise UsageError(f"{target} holds another model: name another folder, or remove it")
        return target
    target.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = architecture(SHAPES[name]["model_type"]).from_config(SHAPES[name])
    weights = {key: x.contiguous() for key, x in model.to_checkpoint()[1].items()}
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    made.write_text(json.dumps(SHAPES[name]))
    return target


def transformer_shape(parameters: int, width: int, vocab_rows: int) -> dict[str, int]:
    """Llama's fields of a Transformer++ of about so many parameters: heads of 64, SwiGLU of 8/3."""
    inner = 256 * ceil(8 * width / 3 / 256)
    layer = 4 * width**2 + 3 * width * inner
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": max(1, round((parameters - vocab_rows * width) / layer)),
        "num_attention_heads": max(1, width // 64),
        "vocab_size": vocab_rows,
    }
