"""The library as others import it: the example runs, and weights without a tokenizer are still a model."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import jrtcli
from jrtcli.errors import JrtError


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = _load("tiny_checkpoint")


@pytest.mark.parametrize("kind", ["based", "jrt_rnn"])
def test_the_example_runs(kind: str, tmp_path: Path, root: Path) -> None:
    folder = tiny.save(tmp_path / "model", kind)
    (tmp_path / "doc.txt").write_text(tiny.TEXT)
    command = [
        sys.executable,
        str(root / "examples" / "python_api.py"),
        str(folder),
        str(tmp_path / "doc.txt"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in (
        f"{kind}, ",
        "a state of",
        "segments",
        "ids:",
        "confidence",
        "scores:",
        "evidence:",
        "tokens more",
    ):
        assert words in done.stdout, words


def test_weights_without_a_tokenizer_are_a_model(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    loaded = jrtcli.load(folder)
    assert loaded.model(torch.tensor([[1, 2, 3]])).shape == (1, 3, loaded.model.vocab_size)
    with pytest.raises(JrtError, match="tokenizer"):
        _ = loaded.tokenizer


def test_importing_the_package_is_light(root: Path) -> None:
    code = "import sys, jrtcli; jrtcli.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
