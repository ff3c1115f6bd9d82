"""--weights and what --dtype auto means: chosen, said, and part of what a state and a run depend on."""

from __future__ import annotations

import importlib.util
import inspect
import json
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer import Typer

import jrtcli
from jrtcli.batch import Answerer, BatchSettings
from jrtcli.cli import COMMANDS, main
from jrtcli.document import load_state, save_state
from jrtcli.errors import StateError, UsageError
from jrtcli.models.linear import Linear, multiplies_bf16
from jrtcli.reader import Reader
from jrtcli.state_identity import StateIdentity


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"of_weights_{name}", Path(__file__).parent / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny_checkpoint = _load("tiny_checkpoint")
TEXT = tiny_checkpoint.TEXT
QUESTION = "Who is the contact person?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint.save(tmp_path_factory.mktemp("plain") / "plain")


@pytest.fixture(scope="module")
def int8(folder: Path) -> Any:
    return jrtcli.load(folder, weights="int8")


def in_bfloat16(folder: Path, to: Path) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    save_file({name: x.bfloat16() for name, x in weights.items()}, to / "model.safetensors")
    return to


def test_int8_is_what_was_asked_for_and_is_said(folder: Path, int8: Any) -> None:
    plain = jrtcli.load(folder)
    assert (plain.weights, plain.numbers) == ("auto", "float32")
    assert (int8.weights, int8.dtype, int8.numbers) == ("int8", "float32", "int8 weights, float32")
    assert any(m.weight.dtype == torch.int8 for m in int8.model.modules() if isinstance(m, Linear))
    assert int8.identity == plain.identity  # of the file, not of what was made of it


@pytest.mark.parametrize(
    ("choices", "said"),
    (({"weights": "int4"}, "take auto or int8"), ({"weights": "int8", "device": "mps"}, "mps")),
)
def test_what_there_is_not_is_said(folder: Path, choices: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        jrtcli.load(folder, **choices)


def test_a_gpu_has_no_int8() -> None:
    from jrtcli.placement import resolve_weights

    with pytest.raises(UsageError, match="runs on a CPU, not on cuda:0"):
        resolve_weights("int8", "cuda:0")


@pytest.mark.parametrize("multiplies", (False, True))
def test_weights_in_bfloat16_stay_so_where_the_processor_multiplies_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, multiplies: bool
) -> None:
    monkeypatch.setattr("jrtcli.models.linear.multiplies_bf16", lambda: multiplies)
    half = in_bfloat16(folder, tmp_path / "half")
    loaded = jrtcli.load(half, device="cpu")
    assert loaded.dtype == ("bfloat16" if multiplies else "float32")
    assert ("this processor multiplies them" in loaded.dtype_reason) == multiplies
    assert jrtcli.load(half, device="cpu", dtype="float32").dtype == "float32"
    assert jrtcli.load(folder, device="cpu").dtype == "float32"


def test_a_processor_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert not multiplies_bf16()
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert multiplies_bf16()


def test_a_state_is_refused_with_other_weights(folder: Path, int8: Any, tmp_path: Path) -> None:
    reader = Reader(int8, template="ccq")
    state = reader.read(TEXT)
    save_state(tmp_path / "of.state", state)
    assert load_state(tmp_path / "of.state", int8).identity == state.identity
    with pytest.raises(StateError, match=r"kind of weights int8 in the state, auto here: .*--weights"):
        load_state(tmp_path / "of.state", jrtcli.load(folder))


def test_a_state_file_from_before_is_of_plain_weights(int8: Any) -> None:
    identity = replace(Reader(int8, template="ccq").read(TEXT).identity, weights="auto")
    values = asdict(identity)
    del values["weights"]
    assert StateIdentity.from_dict(values) == identity


def test_a_run_with_other_weights_is_another_run(folder: Path) -> None:
    plain = Answerer(BatchSettings(model=str(folder), template="cq"))
    int8 = Answerer(BatchSettings(model=str(folder), template="cq", weights="int8"))
    assert "weights" not in plain.run and int8.run["weights"] == "int8"
    assert plain.run_hash != int8.run_hash


def test_alone_and_in_a_batch_the_tokens_are_the_same(int8: Any) -> None:
    model = int8.model
    ids = torch.randint(400, (9, 30), generator=torch.Generator().manual_seed(0))

    def generate(rows: torch.Tensor) -> list[list[int]]:
        logits, state = model.prefill(rows)
        said = []
        for _ in range(12):
            said.append(logits.argmax(-1))
            logits, state = model.step(said[-1], state)
        return torch.stack(said, 1).tolist()

    together = generate(ids)
    assert [generate(row[None])[0] for row in ids] == together
    assert len({tuple(row) for row in together}) > 1


def test_a_state_decides_for_ask_and_the_report_says_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document, state = tmp_path / "a.txt", tmp_path / "a.state"
    document.write_text(TEXT)
    assert main(["read", str(document), "-m", str(folder), "--weights", "int8", "-o", str(state)]) == 0
    capsys.readouterr()
    assert main(["state", "show", str(state)]) == 0
    assert "float32, int8 weights" in capsys.readouterr().out
    ask = ["ask", "--state", str(state), "-Q", QUESTION, "--max-new-tokens", "2"]
    assert main([*ask, "--json"]) == 0
    machine = json.loads(capsys.readouterr().out)["machine"]
    assert (machine["weights"], machine["dtype"]) == ("int8", "float32")
    assert main(ask) == 0
    assert "int8 weights, float32" in capsys.readouterr().err
    assert main(["state", "verify", str(state), "-m", "own"]) == 0


def test_perplexity_and_words_of_int8_are_other_numbers_and_say_so(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "a.txt"
    text.write_text(TEXT)
    asked = ["eval", "perplexity", str(text), "-m", str(folder), "--json", "--quiet"]
    found = []
    for more in ([], ["--weights", "int8"]):
        assert main([*asked, *more]) == 0
        found.append(json.loads(capsys.readouterr().out))
    numbers = [next(iter(each["models"].values()))["numbers"] for each in found]
    assert numbers == ["float32", "int8 weights, float32"]
    plain, int8 = (each["rows"][0]["nll"] for each in found)
    assert plain != int8 and plain == pytest.approx(int8, rel=0.02)
    probe = [
        "probe",
        "--model",
        str(folder),
        "--questions",
        "2",
        "--weights",
        "int8",
        "-o",
        str(tmp_path / "o"),
    ]
    assert main(probe) == 0
    assert json.loads((tmp_path / "o" / "summary.json").read_text())["numbers"] == "int8 weights, float32"


def test_commands_that_load_a_model_say_alike_where_and_how() -> None:
    alike = {"device", "dtype", "weights", "backend", "revision", "tokenizer"}
    checked = []
    for name, (target, _) in COMMANDS.items():
        module, attribute = target.split(":")
        function = getattr(import_module(module), attribute)
        given = set() if isinstance(function, Typer) else set(inspect.signature(function).parameters)
        # `train` makes a model.
        if "backend" in given and name != "train":
            assert alike <= given, name
            checked.append(name)
    assert set(checked) >= {"ask", "batch", "read", "probe", "eval", "eval perplexity", "doctor"}


def test_doctor_says_what_is_done_with_bfloat16_and_checks_int8(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--model", str(folder), "--weights", "int8"]) == 0
    said = capsys.readouterr().out
    assert "multiplied by this processor" in said
    assert "int8 weights, float32, numba" in said
    assert "float32: exact for weights that are not bfloat16" in said
