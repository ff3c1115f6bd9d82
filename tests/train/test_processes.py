"""Two processes compute what one does: the same losses, checkpoints of one form, and a run that goes on."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jrtcli.train.sharing import share
from jrtcli.train.text_data import TextConfig, assemble


def _beside(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


tiny_models = _beside("tiny_models")
ROOT = Path(__file__).resolve().parent.parent.parent

RECIPE = """
steps = 6
tokenizer = "tokenizer.json"
cache = "cache"
precision = "fp32"
template = "qcq"
log_every = 2
save_every = 2
ema = 0.9
tensorboard = "off"
[model]
architecture = "jrt_rnn"
config = CONFIG
[objective]
kind = "jrt"
[optimizer]
muon = false    # its steps are computed in bf16, which makes much of a last bit
warmup_steps = 2
[eval]
every = 6
text_tokens = 64
questions = 2
max_new_tokens = 2
sets = ["qa-dev:32"]
[data]
generator = 0.0
text = 1.0
text_paths = ["text"]
text_tokens = 24
qa = 1.0
qa_paths = ["rows.jsonl"]
document_tokens = 32
tokens_per_step = 160
"""


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with text and rows that two processes can share, and its run in one process."""
    folder = tmp_path_factory.mktemp("shared")
    tiny_models.save_tokenizer(folder)
    (folder / "text").mkdir()
    words = tiny_models.WORDS.split()
    for i in range(60):
        (folder / "text" / f"{i:02d}.txt").write_text(" ".join(words[i % 9 :][: 8 + i]))
    with (folder / "rows.jsonl").open("w") as rows:
        for i in range(30):
            for part in ("lamp", "boat"):
                context = f"The lamp {i} is {words[i]}. The boat {i} is {words[i + 2]}."
                answer = words[i] if part == "lamp" else words[i + 2]
                row = {"context": context, "question": f"what is the {part}?", "answers": [answer]}
                rows.write(json.dumps(row) + "\n")
    config = toml(tiny_models.CONFIGS["jrt_rnn"])
    (folder / "recipe.toml").write_text(RECIPE.replace("CONFIG", config))
    run(folder, "one", 1)
    return folder


def run(folder: Path, output: str, processes: int, *changes: str) -> str:
    """Train as a user would; what all processes say. The launch file is that for GPUs, on CPUs."""
    line = [sys.executable]
    if processes > 1:
        file = ROOT / "examples" / "accelerate" / "ddp.yaml"
        line += ["-m", "accelerate.commands.launch", "--config_file", str(file)]
        line += ["--num_processes", str(processes), "--num_cpu_threads_per_process", "1"]
    given = [x for change in changes for x in ("--set", change)]
    line += ["-m", "jrtcli", "train", str(folder / "recipe.toml"), "--output", str(folder / output), *given]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def run_sharded(folder: Path, output: str, *changes: str) -> str:
    """The same under FSDP."""
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    line += [str(Path(__file__).parent / "fsdp_run.py"), str(folder / "recipe.toml")]
    roots = os.pathsep.join(str(ROOT / name) for name in (".", "kernels", "prompts"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": roots}
    line += [str(folder / output), *changes]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def losses(folder: Path, output: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / output / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "tokens_per_s"} for row in rows]


def same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for row, wanted in zip(found, expected, strict=True):
        assert row.keys() == wanted.keys()
        for name, value in wanted.items():
            assert row[name] == pytest.approx(value, rel=1e-4), (row["step"], name)


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_and_go_on(folder: Path) -> None:
    said = run(folder, "two", 2)
    assert "in 2 processes" in said and said.count("started:") == 1
    same(losses(folder, "two"), losses(folder, "one"))
    ours, theirs = (load_file(folder / name / "last" / "model.safetensors") for name in ("two", "one"))
    for name, expected in theirs.items():
        assert torch.allclose(ours[name], expected, rtol=1e-3, atol=1e-4), name


@pytest.mark.slow
def test_a_stopped_run_of_two_processes_goes_on(folder: Path) -> None:
    # The time limit stops it at once; what it saved then goes on in two processes, and ends in one.
    run(folder, "stopped", 2, "minutes=0.00001")
    run(folder, "stopped", 2)
    same(losses(folder, "stopped"), losses(folder, "one"))


@pytest.mark.slow
def test_a_sharded_run_goes_on_in_one_process(folder: Path) -> None:
    """FSDP: the same losses, and a checkpoint that has nothing of the sharding."""
    run_sharded(folder, "sharded", "minutes=0.00001")
    run_sharded(folder, "sharded")
    same(losses(folder, "sharded"), losses(folder, "one"))
    saved = torch.load(folder / "sharded" / "trainer.pt", weights_only=True)
    wanted = torch.load(folder / "one" / "trainer.pt", weights_only=True)
    for part in ("objective", "average"):
        for name, expected in wanted[part].items():
            assert torch.allclose(saved[part][name], expected, rtol=1e-3, atol=1e-4), name
    assert saved["optimizers"][0]["state"].keys() == wanted["optimizers"][0]["state"].keys()
    for index, expected in wanted["optimizers"][0]["state"].items():
        assert saved["optimizers"][0]["state"][index]["exp_avg"].shape == expected["exp_avg"].shape


@pytest.mark.slow
def test_muon_on_slices_takes_the_steps_of_muon(folder: Path) -> None:
    changes = ("optimizer.muon=true", "steps=2", "eval.every=0", "optimizer.warmup_steps=0")
    run_sharded(folder, "slices", *changes)
    run(folder, "wholes", 1, *changes)
    ours, theirs = (load_file(folder / name / "last" / "model.safetensors") for name in ("slices", "wholes"))
    for name, expected in theirs.items():
        assert torch.dist(ours[name], expected) < 0.02 * expected.norm(), name  # Muon computes in bf16


def batch(kind: str, sizes: list[int]) -> Any:
    import numpy as np

    rows = [np.arange(10, 10 + n) for n in sizes]
    config = TextConfig("", 0, max(sizes), sum(sizes), kind=kind, mask_token=5, encoder_tokens=(4,))
    return assemble(rows, config, np.random.default_rng(0))


@pytest.mark.parametrize("sizes", [[8, 8, 8], [8, 5, 9]], ids=["rows", "pack"])
def test_every_sequence_is_computed_once(sizes: list[int]) -> None:
    whole = batch("jrt", sizes)
    parts = [share(whole, rank, 2, "cpu", has_encoder=True) for rank in range(2)]
    assert all(there for _, there in parts)
    assert sum(int((x.weights > 0).sum()) for x, _ in parts) == int((whole.weights > 0).sum())
    assert sum(int((x.masked >= 0).sum()) for x, _ in parts) == 3  # one of each encoder of four
    assert sum(x.tokens.numel() for x, _ in parts) == sum(sizes)
    first = parts[0][0]
    assert len(first.encoder_lengths) == 2 and torch.equal(parts[0][0].totals, parts[1][0].totals)
    if first.cu_seqlens is not None:
        assert first.cu_seqlens.tolist() == [0, 8, 17]


def test_a_process_without_a_row_adds_nothing() -> None:
    inputs, there = share(batch("jrt", [8]), 1, 2, "cpu", has_encoder=True)
    assert not there and inputs.tokens.shape == (1, 8)
    assert not inputs.weights.any() and bool((inputs.masked == -1).all())
