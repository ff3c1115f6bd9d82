"""`jrt read`: a state in a file or in the cache, and mistakes said before anything is read."""

from __future__ import annotations

import importlib.util
import json
import stat
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from safetensors import safe_open

from jrtcli.cli import main


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent.parent / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = _load("tiny_checkpoint")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("read") / "model")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("read") / "jrt", "jrt_rnn")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "jrt" / "states"


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "doc.txt"
    path.write_text(tiny.TEXT)
    return path


@pytest.fixture
def read(folder: Path, document: Path) -> Callable[..., int]:
    return lambda *arguments: main(["read", str(document), "--model", str(folder), *arguments])


def test_the_state_goes_to_the_file(
    read: Callable[..., int], tmp_path: Path, document: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "doc.state"
    assert read("-o", str(path), "--template", "ccq") == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2 of 2 readings (template ccq)" in captured.err and str(path) in captured.err
    assert f"document    {document} ({len(tiny.TEXT)} characters)" in captured.err
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["facts"])["pieces"][0]["name"] == str(document)


def test_json_and_quiet(read: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "doc.state"
    assert read("-o", str(path), "-t", "cqcq", "--json", "-q", "--state-dtype", "bfloat16") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    said = json.loads(captured.out)
    assert said["file"] == str(path) and said["bytes"] == path.stat().st_size
    assert (said["identity"]["part"], said["identity"]["state_dtype"]) == ("1 of 2 readings", "bfloat16")


def test_without_a_file_it_is_kept_for_the_next_asking(
    read: Callable[..., int], document: Path, folder: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read("--template", "ccq") == 2
    assert "not worth a place in the cache" in capsys.readouterr().err
    document.write_text(tiny.TEXT * 5)
    assert read("--template", "ccq") == 0
    capsys.readouterr()
    assert len(list(cache.iterdir())) == 1
    assert read("--template", "ccq") == 0
    assert "where it was already" in capsys.readouterr().err
    asked = ["ask", "-d", str(document), "-Q", "Who?", "-m", str(folder), "-t", "ccq"]
    assert main(asked) == 0
    assert "tokens reused (cache, " in capsys.readouterr().err


def test_several_documents_are_one_state(
    folder: Path, document: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("The colour is mauve.")
    path = tmp_path / "both.state"
    assert main(["read", str(document), str(other), "-o", str(path), "-t", "cq", "-m", str(folder)]) == 0
    assert main(["ask", "--state", str(path), "-Q", "Colour?", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["document"]["name"] == f"{document}, {other}"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "DOC"),
        (["{doc}", "-m", "{model}", "-t", "qcq", "-o", "{dir}/a"], 2, "question before the document"),
        (["{doc}", "-m", "{encoder}", "-t", "cqcq", "-o", "{dir}/a"], 1, "take template cq or ccq"),
        (["{doc}", "-o", "{doc}"], 1, "doc.txt: is there and is not a document's state"),
        (["{doc}", "-o", "{dir}/nowhere/a"], 1, "there is no folder"),
        (["{doc}", "-o", "{dir}"], 1, "is there and is not a document's state"),
        (["{doc}", "-o", "{dir}/a", "--state-dtype", "int8"], 2, "--state-dtype"),
        (["{doc}", "--state-dtype", "bfloat16"], 2, "-o FILE"),
        (["{dir}/missing.txt", "-o", "{dir}/a"], 1, "missing.txt"),
        (["{doc}", "-t", "nope", "-o", "{dir}/a"], 2, "no template"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    code: int,
    words: str,
    document: Path,
    folder: Path,
    encoder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled = [a.format(doc=document, dir=tmp_path, model=folder, encoder=encoder) for a in arguments]
    found = main(["read", *filled])
    captured = capsys.readouterr()
    assert found == code, captured.err
    assert captured.out == "" and words in captured.err and captured.err.count("\n") == 1
    assert document.read_text() == tiny.TEXT and not (tmp_path / "a").exists()


def test_a_cache_that_is_off_or_too_small_is_said(
    read: Callable[..., int],
    document: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    document.write_text(tiny.TEXT * 5)
    monkeypatch.setenv("JRT_STATE_QUOTA", "0")
    assert read("-t", "ccq") == 2
    assert "the cache is off" in capsys.readouterr().err
    monkeypatch.setenv("JRT_STATE_QUOTA", "1KB")
    assert read("-t", "ccq") == 2
    assert "larger than the whole cache" in capsys.readouterr().err
