"""`jrt train`: what it prints, the exit codes, and one line for every mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jrtcli.cli import main
from jrtcli.commands.train import describe
from jrtcli.train.events import Evaluated, Noted, Preparing, Progress, Saved, Started

RECIPE = """
steps = 4
tokenizer = "TOKENIZER"
log_every = 2
save_every = 2
precision = "fp32"
[model]
architecture = "jrt_rnn"
[model.config]
n_embd = 32
n_layer = 2
n_head = 2
n_inner = 256
vocab_size = 2048
rotary_emb_fraction = 1
alt_mixer_layers = [1]
alt_mixer_2_layers = [0]
mixer = { expand_proj = 4 }
alt_mixer = { feature_dim = 8, num_heads = 2, qkv_conv = 3, q_norm = true }
alt_mixer_2 = { window_size = 16, num_heads = 2 }
[eval]
every = 4
questions = 2
sets = ["train:64"]
max_new_tokens = 2
[data]
tokens_per_step = 512
document_tokens = 64
lm_weight = 0.0
"""


@pytest.fixture
def recipe(tmp_path: Path, root: Path) -> Path:
    path = tmp_path / "recipe.toml"
    tokenizer = root / "jrtcli" / "bundled" / "tiny" / "tokenizer.json"
    path.write_text(RECIPE.replace("TOKENIZER", str(tokenizer)))
    return path


def test_trains_resumes_and_starts_a_sibling(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    assert main(["train", str(recipe), "--output", str(output)]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() == str(output / "best")
    assert "step 2/4" in shown.err and "recall train:64" in shown.err and "done at step 4" in shown.err
    files = {path.name for path in (output / "best").iterdir()}
    assert files == {"config.json", "model.safetensors", "tokenizer.json", "jrt.json", "training.json"}
    training = json.loads((output / "best" / "training.json").read_text())
    assert training["recipe"]["seed"] == 0 and training["versions"]["torch"]

    assert main(["train", str(recipe), "--output", str(output), "--quiet"]) == 0  # nothing is left to do
    assert capsys.readouterr().err == ""
    assert main(["train", str(recipe), "--output", str(output), "--set", "steps=6"]) == 2
    error = capsys.readouterr().err.strip()
    assert "steps" in error and "--resume" in error and len(error.splitlines()) == 1
    assert main(["train", str(recipe), "--output", str(output), "--set", "steps=6", "--resume"]) == 0
    assert "resumed at step 4" in capsys.readouterr().err

    # A causal model warms up a JRT-RNN: the encoder's projections begin as copies.
    causal, sibling = tmp_path / "causal", tmp_path / "sibling"
    options = ["--set", "eval.every=0", "--set", "steps=1", "--quiet"]
    architecture = ["--set", "model.architecture=based"]
    assert main(["train", str(recipe), *options, *architecture, "--output", str(causal)]) == 0
    start = ["--set", f"model.init_from={causal / 'last'}", "--set", "optimizer.muon_lr=0.0"]
    assert main(["train", str(recipe), *options, *start, "--output", str(sibling)]) == 0
    from safetensors.torch import load_file

    weights = load_file(sibling / "last" / "model.safetensors")
    mixer = "transformer.layers.1.mixer."
    assert weights[f"{mixer}proj_k.weight"].equal(weights[f"{mixer}proj_k_enc.weight"])
    assert f"{mixer}enc_conv.weight" in weights


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["none.toml"], "none.toml", 2),
        (["RECIPE", "--set", "stepz=3"], "stepz", 2),
        (["RECIPE", "--set", "data.document_token=3"], "data.document_token", 2),
        (["RECIPE", "--set", "model.architecture=lstm"], "lstm", 2),
        (["RECIPE", "--set", "tokenizer=gone.json"], "gone.json", 2),
        (["RECIPE", "--set", "eval.sets=['trian:64']"], "trian:64", 2),
        (["RECIPE", "--set", "model.init_from=gone"], "gone", 1),
        (["RECIPE", "--resume"], "no checkpoint", 2),
        (["RECIPE", "--resume", "--fresh"], "exclude", 2),
    ],
)
def test_mistakes_are_one_line(
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
    code: int,
) -> None:
    line = [str(recipe) if a == "RECIPE" else a for a in arguments]
    assert main(["train", *line, "--output", str(tmp_path / "run")]) == code
    error = capsys.readouterr().err.strip()
    assert said in error and len(error.splitlines()) == 1


def test_ctrl_c_saves_and_says_130(recipe: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    line = [sys.executable, "-m", "jrtcli", "train", str(recipe), "--output", str(output)]
    more = ["--set", "steps=100000", "--set", "eval.every=0", "--set", "log_every=1"]
    child = subprocess.Popen(
        [*line, *more], env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 90
    while not (output / "metrics.jsonl").exists() or not (output / "metrics.jsonl").read_text():
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "interrupted at step" in errors and "Traceback" not in errors
    assert (output / "trainer.pt").exists() and (output / "last" / "model.safetensors").exists()


def test_events_as_lines() -> None:
    place = Path("runs/x")
    assert "started: 1,000 parameters" in describe(Started(0, 10, 1000, "cpu", "bf16", place))
    assert describe(Started(3, 10, 1000, "cpu", "bf16", place)).startswith("resumed at step 3")
    means = {"loss": 1.5, "ce": 1.25, "tag_loss": 9.0}
    line = describe(Progress(5, 10, 1, 2_000_000, 7000.0, 120.0, 0.0, means))
    assert line == "step 5/10 stage 2 loss 1.500 ce 1.250 2.00 Mtok 7,000 tokens/s 2 min left"
    assert "waited" in describe(Progress(5, 10, 1, 2_000_000, 7000.0, 120.0, 3.0, means))
    assert "7,000 tokens/s (data 90,000)" in describe(
        Progress(5, 10, 1, 2_000_000, 7000.0, 120.0, 0.0, means, 90_000.0)
    )
    evaluated = Evaluated(5, {"train:256": 0.5, "all": 0.5}, 48, True, 3.0)
    assert "train:256 50.0%" in describe(evaluated) and "(best so far)" in describe(evaluated)
    assert describe(Saved(5, place)) == "step 5 saved runs/x"
    losses = {"text": 2.5, "mlm": 3.0, "loss": 2.6}
    both = describe(Evaluated(5, {"all": 0.5}, 4, False, 3.0, losses))
    assert both == "step 5 recall all 50.0% of 4 questions, held-out text 2.500 mlm 3.000 loss 2.600 in 3s"
    assert describe(Evaluated(5, {}, 0, True, 3.0, losses)).startswith("step 5 held-out text 2.500")
    assert describe(Preparing("tokenising text", 2_500_000, 10_000_000)) == "tokenising text: 2.5 of 10.0 MB"
    assert describe(Noted("the model is causal")) == "the model is causal"
    assert "bf16 in 4 processes, into" in describe(Started(0, 10, 1000, "cuda", "bf16", place, 4))
