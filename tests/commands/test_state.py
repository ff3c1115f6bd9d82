"""`jrt state`: what a state was read with, whether it is in order, and how it goes."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType

import pytest

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
    return tiny.save(tmp_path_factory.mktemp("state") / "model")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "jrt" / "states"


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "doc.txt"
    path.write_text(tiny.TEXT * 9)
    return path


@pytest.fixture
def saved(folder: Path, document: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "doc.state"
    assert main(["read", str(document), "-o", str(path), "-m", str(folder), "-t", "ccq"]) == 0
    capsys.readouterr()
    return path


@pytest.fixture
def cached(folder: Path, document: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> list[Path]:
    for template in ("ccq", "cq"):
        assert main(["read", str(document), "-m", str(folder), "-t", template]) == 0
    capsys.readouterr()
    return sorted(cache.iterdir())


def test_show(saved: Path, document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["state", "show", str(saved)]) == 0
    out = capsys.readouterr().out
    assert f"document    {document}" in out and "2 of 2 readings, template ccq" in out
    assert main(["state", "show", str(saved), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["identity"]["template"] == "ccq" and said["bytes"] == saved.stat().st_size
    assert said["tensors"]["ids"] == ["I64", [said["identity"]["tokens"]]]
    os.truncate(saved, saved.stat().st_size - 1)
    assert main(["state", "show", str(saved)]) == 1
    assert "is truncated" in capsys.readouterr().err


def test_ls(cached: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    cached[0].write_text("foreign")
    assert main(["state", "ls"]) == 0
    captured = capsys.readouterr()
    assert "doc.txt" in captured.out and "is not a document's state" in captured.out
    assert "2 states, " in captured.err
    assert main(["state", "ls", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {row["key"] for row in said} == {path.stem for path in cached}
    assert [row["usable"] for row in sorted(said, key=lambda row: row["key"])] == [False, True]


def test_ls_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["state", "ls"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "" and "0 states" in captured.err


def test_verify_a_file(
    saved: Path, document: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["state", "verify", str(saved)]) == 0
    assert capsys.readouterr().out == f"{saved}: whole and unchanged\n"
    for model in ("own", str(folder)):
        assert main(["state", "verify", str(saved), "-m", model, "-d", str(document)]) == 0
        assert "fits model, of" in capsys.readouterr().out
    assert main(["state", "verify", str(saved), "-m", "tiny-causal"]) == 1
    assert "checkpoint model in the state, tiny-causal here" in capsys.readouterr().err
    other = tmp_path / "other.txt"
    other.write_text("Something else.")
    assert main(["state", "verify", str(saved), "-d", str(other)]) == 1
    assert "document" in capsys.readouterr().err


def test_verify_everything(cached: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["state", "verify"]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("whole and unchanged") == 2 and "2 of 2" in captured.err
    raw = bytearray(cached[0].read_bytes())
    raw[-1] ^= 1
    cached[0].write_bytes(raw)
    assert main(["state", "verify"]) == 1
    captured = capsys.readouterr()
    assert "checksum" in captured.err and captured.out.count("whole and unchanged") == 1


def test_rm(cached: list[Path], saved: Path, document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["state", "rm", cached[0].stem[:12], str(saved)]) == 0
    assert not cached[0].exists() and cached[1].exists() and not saved.exists()
    assert main(["state", "rm", cached[1].stem[:12], str(document)]) == 1
    assert document.exists() and cached[1].exists()  # a mistake in one name removes nothing
    assert "is not a document's state" in capsys.readouterr().err
    assert main(["state", "rm", "--all"]) == 0
    assert not cached[1].exists()


def test_prune(cached: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["state", "prune"]) == 0
    assert "removed 0 states" in capsys.readouterr().err
    assert main(["state", "prune", "--max-size", "1KB", "--dry-run"]) == 0
    assert "would remove 2 states" in capsys.readouterr().err and cached[0].exists()
    os.utime(cached[0], (0, 0))
    assert main(["state", "prune", "--unused", "1"]) == 0
    captured = capsys.readouterr()
    assert cached[0].stem[:8] in captured.out and not cached[0].exists() and cached[1].exists()
    cached[1].write_text("foreign")
    assert main(["state", "prune"]) == 0
    assert not cached[1].exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "command"),
        (["nope"], 2, "nope"),
        (["show", "{dir}/missing"], 1, "neither a file nor"),
        (["show", "abcdef"], 1, "neither a file nor"),
        (["rm"], 2, "--all"),
        (["rm", "{dir}/missing", "--all"], 2, "--all"),
        (["prune", "--max-size", "much"], 2, "--max-size"),
        (["verify", "{dir}/doc.txt"], 1, "is not a document's state"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    code: int,
    words: str,
    document: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["state", *(a.format(dir=tmp_path) for a in arguments)]) == code
    captured = capsys.readouterr()
    assert captured.out == "" and words in captured.err and captured.err.count("\n") == 1


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("show", "ls", "verify", "rm", "prune"):
        assert main(["state", name, "--help"]) == 0
        assert f"jrt state {name}" in capsys.readouterr().out
