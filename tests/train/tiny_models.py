"""Models of every architecture small enough for tests, as a recipe's [model] has them, and a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from jrtcli.models import architecture

ROWS = 288  # more than the tokenizer has: the last one can stand for masked tokens
_HYBRID: dict[str, Any] = {
    "n_embd": 16,
    "n_layer": 3,
    "n_head": 2,
    "n_inner": 256,
    "vocab_size": ROWS,
    "rotary_emb_fraction": 1.0,
}
_BASED = {
    **_HYBRID,
    "mixer": {"expand_proj": 2},
    "alt_mixer": {"num_heads": 2, "feature_dim": 4, "qkv_conv": 3, "q_norm": True},
    "alt_mixer_layers": [1],
    "alt_mixer_2": {"window_size": 8},
    "alt_mixer_2_layers": [2],
}
CONFIGS: dict[str, dict[str, Any]] = {
    "mamba": {"d_model": 16, "n_layer": 2, "vocab_size": ROWS, "ssm_cfg": {"d_state": 4}},
    "mamba2": {
        "d_model": 16,
        "n_layer": 2,
        "vocab_size": ROWS,
        "ssm_cfg": {"layer": "Mamba2", "d_state": 8, "headdim": 8},
    },
    "gla": {
        "model_type": "gla",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_heads": 2,
        "vocab_size": ROWS,
        "intermediate_size": 32,
    },
    "based": _BASED,
    "jrt_rnn": _BASED,
    "transformer": _HYBRID,
}

WORDS = (
    "the lamp of the harbour stands on a red tower and the keeper walks to it at dusk with oil and a "
    "cloth while boats come home past the rocks in rain or fog Question Answer colour who when where is"
)


def save_tokenizer(folder: Path) -> Path:
    """A byte-level BPE of at most 280 tokens, <eos> the first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS], trainer)
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def save(folder: Path, name: str, *, seed: int = 0) -> Path:
    """A whole checkpoint folder of an architecture, its weights random and large enough to say something."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model: Any = architecture(name).from_config(CONFIGS[name])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3.0)
    config, weights = model.to_checkpoint()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({key: x.contiguous() for key, x in weights.items()}, folder / "model.safetensors")
    (folder / "jrt.json").write_text(json.dumps({"template": "cq", "context_tokens": 2048}))
    save_tokenizer(folder)
    return folder
