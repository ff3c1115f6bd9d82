"""Checkpoints small enough for tests: random weights, a tokenizer of their own, in the published form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from jrtcli.models import architecture
from jrtcli.models.hybrid import HybridConfig

TEXT = """510(k) Summary
Device name: Acu-Ray 300 Bone Densitometer
Submitter: Northwind Medical Devices, Inc.
Contact person: Maria Kowalski
Date prepared: March 14, 2015
Predicate device: K130277 DensiScan, Osteo Systems
The device is intended for the measurement of bone mineral density. Question: Answer:
"""
"""What the tokenizer was trained on, and the document that tests ask about."""


def save_tokenizer(folder: Path, *, lowercase: bool = False, size: int = 400) -> None:
    """A byte-level BPE with an end-of-text token, as tokenizer.json."""
    tokenizer = Tokenizer(models.BPE())
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))


def model(kind: str = "based", *, enc_length: int | None = None, seed: int = 0) -> Any:
    """A hybrid of one convolution, one linear attention and one window, random weights, 432 rows."""
    torch.manual_seed(seed)
    attention = {"num_heads": 2, "feature_dim": 8}
    config = {
        "model_type": kind,
        "n_layer": 3,
        "n_embd": 32,
        "n_head": 2,
        "n_inner": 64,
        "vocab_size": 430,
        "pad_vocab_size_multiple": 8,
        "rotary_emb_fraction": 1.0,
        "mixer": {"expand_proj": 2},
        "alt_mixer": attention if enc_length is None else {**attention, "enc_length": enc_length},
        "alt_mixer_layers": [1],
        "alt_mixer_2": {"window_size": 16, "num_heads": 2},
        "alt_mixer_2_layers": [2],
    }
    built: Any = architecture(kind)
    built = built(HybridConfig.from_dict(config), published=config)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.normal_(std=0.3 if parameter.dim() > 1 else 0.1)
    return built.eval().requires_grad_(False)


def save(
    folder: Path, kind: str = "based", *, lowercase: bool = False, enc_length: int | None = None
) -> Path:
    """A whole checkpoint folder: config.json, model.safetensors, tokenizer.json, jrt.json."""
    folder.mkdir(parents=True, exist_ok=True)
    config, weights = model(kind, enc_length=enc_length).to_checkpoint()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: x.contiguous() for name, x in weights.items()}, folder / "model.safetensors")
    (folder / "jrt.json").write_text(json.dumps({"template": "cqcq", "context_tokens": 2048}))
    save_tokenizer(folder, lowercase=lowercase)
    return folder
