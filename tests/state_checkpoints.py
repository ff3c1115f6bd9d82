"""Small checkpoints of every architecture with a tokenizer, for tests of what is saved of a reading."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from pathlib import Path
from types import ModuleType

from safetensors.torch import save_file


def load_module(path: Path) -> ModuleType:
    """A Python file beside the tests, as a module of its own."""
    spec = importlib.util.spec_from_file_location(f"of_states_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_HERE = Path(__file__).parent
tiny_checkpoint = load_module(_HERE / "tiny_checkpoint.py")
_models = load_module(_HERE / "models" / "conftest.py")
_models.VOCAB = 440  # as many rows as the small tokenizer needs

KINDS = ("mamba", "mamba2", "gla", "based-extras", "jrt_rnn-extras", "transformer")
"""One of each architecture; the encoder of this JRT-RNN has any length."""


def save(folder: Path, name: str, *, seed: int = 0) -> Path:
    """A checkpoint folder of one of the small models that the tests of the architectures use."""
    config, weights = _models.TINY[name].checkpoint(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({key: x.clone().contiguous() for key, x in weights.items()}, folder / "model.safetensors")
    tiny_checkpoint.save_tokenizer(folder)
    return folder


def text(seed: int, words: int = 60) -> str:
    """A document of random words and line breaks."""
    draw = random.Random(seed)
    known = tiny_checkpoint.TEXT.split()
    return "".join(
        draw.choice(known) + draw.choice([" ", " ", " ", "\n", ", ", "\n\n"]) for _ in range(words)
    )
