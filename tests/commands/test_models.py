"""`jrt models`: the table for people, the same facts as JSON, nothing fetched."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from jrtcli import known
from jrtcli.cli import main

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no way to reach the network."""

    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tmp_path / "hub"


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bundled" / "tiny"
    folder.mkdir(parents=True)
    save_file({"a": torch.zeros(1000, 1500)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "jrt_rnn"}))
    (folder / "jrt.json").write_text(json.dumps({"template": "qcq", "context_tokens": 640}))
    monkeypatch.setattr(known, "BUNDLED", folder.parent)
    return folder


def in_cache(cache: Path, repo_id: str, *files: str) -> Path:
    repo = cache / f"models--{repo_id.replace('/', '--')}"
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True, exist_ok=True)
    (repo / "refs").mkdir(exist_ok=True)
    (repo / "refs" / "main").write_text(COMMIT)
    for file in files:
        (snapshot / file).write_text('{"weight_map": {"a": "model-00001-of-00001.safetensors"}}')
    return snapshot


def as_json(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    assert main(["models", "--json"]) == 0
    out = capsys.readouterr().out
    return {entry["name"]: entry for entry in json.loads(out)}


def test_the_table(bundled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["model", "architecture", "parameters"]
    assert len(lines) == 1 + sum(1 for _ in known.known())
    assert " ".join(lines[1].split()) == "tiny* jrt_rnn 1.5M own 640 6 MB qcq yes bundled"
    row = next(line for line in lines if line.startswith("mamba-1.4b "))
    assert " ".join(row.split()) == (
        "mamba-1.4b mamba 1.37B gpt-neox-20b 2048 5.49 GB cqcq state-spaces/mamba-1.4b"
    )
    assert "* the default" in err


def test_json_has_every_field(bundled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys)
    assert set(found) == {entry.name for entry in known.known()}
    assert [name for name, entry in found.items() if entry["default"]] == ["tiny"]
    assert found["tiny"]["on_this_machine"]
    assert found["tiny"]["folder"] == str(bundled)
    jrt = found["jrt-1b-50b"]
    assert jrt["hub_id"] == "hazyresearch/JRT-1B-50B"
    assert (jrt["architecture"], jrt["tokenizer"], jrt["context"]) == ("jrt_rnn", "gpt2", 2048)
    assert jrt["paper_tables"] == ["2"]
    assert (jrt["on_this_machine"], jrt["folder"]) == (False, None)


def test_here_means_all_of_it(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snapshot = in_cache(cache, "state-spaces/mamba-370m", "config.json", "pytorch_model.bin")
    in_cache(cache, "state-spaces/mamba2-370m", "config.json")
    shards = in_cache(cache, "fla-hub/gla-2.7B-100B", "config.json", "model.safetensors.index.json")
    found = as_json(capsys)
    here = {name for name, entry in found.items() if entry["on_this_machine"] and entry["hub_id"]}
    assert here == {"mamba-370m"}
    assert found["mamba-370m"]["folder"] == str(snapshot)
    (shards / "model-00001-of-00001.safetensors").touch()
    assert as_json(capsys)["gla-2.7b-100b"]["on_this_machine"]
