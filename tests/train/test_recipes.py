"""The example recipes on small data, checkpoints that start other models, metrics in TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import jrtcli
from jrtcli.cli import main
from jrtcli.errors import UsageError
from jrtcli.train import board, loop
from jrtcli.train.config import Recipe, load_recipe
from jrtcli.train.events import Noted
from jrtcli.train.start import warm_start

SMALL = ["data.tokens_per_step=700", "data.document_tokens=96", "precision=fp32", "tensorboard=off"]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """Texts and rows made of the project's own words."""
    folder = tmp_path_factory.mktemp("material")
    (folder / "texts").mkdir()
    said = (root / "LICENSE").read_text().split("\n\n")
    for i, part in enumerate(said[:60]):
        (folder / "texts" / f"{i:02d}.txt").write_text(part)
    with (folder / "rows.jsonl").open("w") as rows:
        for i in range(30):
            context = f"The keeper of lamp {i} is called Ann {i}. It was lit in {1900 + i}."
            for question, answer in (("Who keeps the lamp?", f"Ann {i}"), ("Lit when?", str(1900 + i))):
                rows.write(json.dumps({"context": context, "question": question, "answers": [answer]}) + "\n")
    return folder


def changes(material: Path, *more: str) -> list[str]:
    paths = [f"data.text_paths=['{material / 'texts'}']", f"data.qa_paths=['{material / 'rows.jsonl'}']"]
    given = [
        *SMALL,
        *paths,
        f"cache={material / 'cache'}",
        "eval.questions=2",
        "eval.max_new_tokens=2",
        *more,
    ]
    return [x for change in given for x in ("--set", change)]


@pytest.mark.parametrize(
    ("name", "architecture", "said"),
    [
        ("causal_lm", "mamba2", "held-out text"),
        ("jrt_pretrain", "jrt_rnn", "mlm"),
        ("finetune_qa", "jrt_rnn", "recall qa-dev:512"),
    ],
)
def test_examples_run(
    name: str,
    architecture: str,
    said: str,
    material: Path,
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = str(tmp_path / "run")
    short = ["steps=3", "eval.every=3", "log_every=1", "optimizer.warmup_steps=1"]
    if name != "finetune_qa":
        short += ["data.text_tokens=96", "eval.text_tokens=192"]
    if name == "jrt_pretrain":
        short.append("objective.encoder_tokens=[24,72]")
    line = ["train", str(root / "examples" / f"{name}.toml"), "--output", output]
    assert main([*line, *changes(material, *short)]) == 0
    errors = capsys.readouterr().err
    assert said in errors and "done at step 3" in errors
    assert jrtcli.load(Path(output) / "best").identity.architecture == architecture
    assert (Path(output) / "best" / "tokenizer.json").is_file()


def plan(root: Path, material: Path, output: Path, name: str, *more: str) -> Recipe:
    given = changes(material, f"output={output}", *more)[1::2]
    recipe = load_recipe(root / "examples" / f"{name}.toml", given)
    return recipe


@pytest.mark.parametrize("name", ["jrt_pretrain", "finetune_qa"])
def test_an_interrupted_run_of_each_objective_goes_on_the_same(
    name: str, root: Path, material: Path, tmp_path: Path
) -> None:
    small = ["steps=6", "save_every=2", "log_every=2", "eval.every=0"]
    if name == "jrt_pretrain":
        small += ["data.text_tokens=96", "objective.encoder_tokens=30"]

    def losses(output: Path) -> list[Any]:
        rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in row.items() if k != "tokens_per_s"} for row in rows]

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    loop.train(plan(root, material, whole, name, *small))
    seen: list[int] = []

    def stop() -> bool:
        seen.append(1)
        return len(seen) > 3

    assert loop.train(plan(root, material, parts, name, *small), stop=stop).step == 3
    # Two processes make the batches of the rest: a batch is a function of its step.
    loop.train(plan(root, material, parts, name, *small, "workers=1"))
    assert losses(parts) == losses(whole)
    ours, theirs = (load_file(p / "last" / "model.safetensors") for p in (parts, whole))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_from_takes_names_and_folders(
    material: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(root / "examples" / "finetune_qa.toml")
    still = ["steps=1", "eval.every=0", "optimizer.muon_lr=0.0", "optimizer.adamw_lr=0.0", "ema=0.0"]
    line = ["train", recipe, *changes(material, *still), "--output"]
    assert main([*line, str(tmp_path / "a"), "--from", "tiny"]) == 0
    assert main([*line, str(tmp_path / "b"), "--from", str(tmp_path / "a" / "last")]) == 0
    tiny = jrtcli.load("tiny").model
    for name in ("a", "b"):
        tokens = torch.arange(5, 60)[None]
        assert torch.allclose(jrtcli.load(tmp_path / name / "last").model(tokens), tiny(tokens), atol=1e-3)
    capsys.readouterr()
    assert main([*line, str(tmp_path / "c"), "--from", "nowhere"]) == 1
    error = capsys.readouterr().err.strip()
    assert "nowhere" in error and len(error.splitlines()) == 1


def test_jrt_rnn_becomes_causal_and_smaller(
    root: Path, material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The encoder's keys and values become the causal ones; four of sixteen query and key dimensions go."""
    tiny = jrtcli.load("tiny")
    config = {"alt_mixer": {"feature_dim": 12}}
    model, notes = warm_start("based", tiny.folder, config)
    linear = sum(hasattr(layer.mixer, "proj_k_enc") for layer in tiny.model.layers)
    assert notes[0].startswith(f"the encoder's projections of {linear} layers become the causal ones")
    assert notes[1] == "the linear attention keeps 12 of 16 query and key dimensions per head"
    old, new = tiny.model.layers[2].mixer, model.layers[2].mixer
    assert not hasattr(new, "proj_k_enc") and new.feature_dim == 12
    assert torch.equal(old.proj_v_enc.weight, new.proj_v.weight)
    # Every kept row of head h comes from head h; queries, keys, filters and the norm lose the same rows.
    kept = [next(n for n in range(64) if torch.equal(old.proj_q.weight[n], row)) for row in new.proj_q.weight]
    assert [n // 16 for n in kept] == [h for h in range(4) for _ in range(12)]
    assert torch.equal(old.proj_k_enc.weight[kept], new.proj_k.weight)
    filters = torch.cat([old.qkv_conv.weight[:64], old.enc_conv.weight])
    rows = [*kept, *(64 + n for n in kept), *range(128, 256)]
    assert torch.equal(filters[rows], new.qkv_conv.weight)
    assert torch.equal(old.q_norm.weight[kept[:12]], new.q_norm.weight)
    said: list[Any] = []
    output = tmp_path / "causal"
    more = ["steps=1", "eval.every=0", "model.architecture=based"]
    more.append("model.config.alt_mixer.feature_dim=12")
    loop.train(plan(root, material, output, "finetune_qa", *more), on_event=said.append)
    assert [event.text for event in said if isinstance(event, Noted)] == notes
    again = jrtcli.load(output / "last")
    assert again.identity.architecture == "based" and again.model.config.feature_dim == 12

    same, none = warm_start("jrt_rnn", tiny.folder, {})
    tokens = torch.arange(5, 60)[None]
    assert none == [] and torch.allclose(same(tokens), tiny.model(tokens), atol=1e-4)
    back, notes = warm_start("jrt_rnn", output / "last", {})
    assert notes == [f"the encoder's projections of {linear} layers begin as copies of the causal ones"]
    assert torch.equal(back.layers[2].mixer.proj_k_enc.weight, back.layers[2].mixer.proj_k.weight)
    with pytest.raises(UsageError, match="feature_dim: 20"):
        warm_start("jrt_rnn", tiny.folder, {"alt_mixer": {"feature_dim": 20}})
    with pytest.raises(UsageError, match="jrt_rnn checkpoint"):
        warm_start("mamba2", tiny.folder, {})


def test_metrics_go_to_tensorboard(
    root: Path, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int | None) -> None:
            assert Path(folder) == tmp_path / "run" / "tensorboard"

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def flush(self) -> None:
            pass

        def close(self) -> None:
            written.append(("closed", 0.0, 0))

    monkeypatch.setattr(board, "_writer", lambda: Writer)
    more = ["steps=2", "log_every=1", "eval.every=2", "tensorboard=on", "data.text_tokens=96"]
    loop.train(plan(root, material, tmp_path / "run", "causal_lm", *more, "eval.text_tokens=96"))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert ("loss", rows[0]["loss"], 1) in written and ("text", rows[1]["text"], 2) in written
    assert ("held_out/loss", rows[2]["held_out"]["loss"], 2) in written and written[-1][0] == "closed"


def test_tensorboard_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board.importlib.util, "find_spec", lambda name: None)
    assert board.open_board(tmp_path, 0, "auto") is None
    with pytest.raises(UsageError, match=r"jrt\[tensorboard\]"):
        board.open_board(tmp_path, 0, "on")


def test_event_files_are_real_ones(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    writer = board.open_board(tmp_path, 3, "on")
    for name, value in board.scalars({"step": 4, "loss": 1.5, "recall": {"all": 0.5}, "best": True}):
        writer.add_scalar(name, value, 4)
    writer.close()
    (file,) = tmp_path.glob("events.out.tfevents.*")
    data = file.read_bytes()
    assert b"loss" in data and b"recall/all" in data and b"best" in data


def test_layers_put_in_are_silent_at_first(root: Path, material: Path, tmp_path: Path) -> None:
    tiny = jrtcli.load("tiny")
    layers, config = len(tiny.model.layers), tiny.model.config
    model, notes = warm_start(None, tiny.folder, {}, {3: 3, 4: 2})
    assert notes == [f"2 layers are put in, silent at first: the model has {layers + 2}"]
    moved = [i + 2 * (i > 2) for i in range(layers)]
    kinds = [config.kinds[i] for i in (0, 1, 2, 3, 2, *range(3, layers))]
    assert list(model.config.kinds) == kinds
    for was, now in zip(tiny.model.layers, (model.layers[i] for i in moved), strict=True):
        assert torch.equal(was.mlp.fc1.weight, now.mlp.fc1.weight)
    assert torch.equal(model.layers[4].mixer.proj_q.weight, tiny.model.layers[2].mixer.proj_q.weight)
    assert not model.layers[4].mixer.out_proj.weight.any() and not model.layers[3].mlp.fc2.weight.any()
    tokens = torch.arange(5, 60)[None]
    assert torch.allclose(model(tokens), tiny.model(tokens), atol=1e-4)
    with pytest.raises(UsageError, match="places are 0"):
        warm_start(None, tiny.folder, {}, {layers + 1: 0})
    # A recipe's keys are text, and the layers that were silent learn.
    more = ["steps=3", "eval.every=0", "optimizer.warmup_steps=0", "ema=0.0"]
    more += ["model.inserted.3=3", "model.inserted.4=2"]
    loop.train(plan(root, material, tmp_path / "grown", "finetune_qa", *more))
    grown = jrtcli.load(tmp_path / "grown" / "last").model
    assert len(grown.layers) == layers + 2 and grown.layers[4].mixer.out_proj.weight.any()
