"""The table of known checkpoints: complete, consistent, and found under every name it goes by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import jrt_prompts
from jrtcli import hub, known
from jrtcli.models import ARCHITECTURES
from jrtcli.tokens import FAMILIES

ENTRIES = [entry for entry in known.known() if not entry.bundled]
BY_NAME = {entry.name: entry for entry in ENTRIES}

# The rows of Tables 1 and 2 of arXiv 2407.05483 that have a published checkpoint.
TABLE_1 = """
    attn-1b mamba-1b based-1b attn-1b-50bn mamba-1b-50b based-1b-50b gla-1.3b-100b gla-2.7b-100b
    mamba-130m mamba-370m mamba-1.4b mamba-2.8b mamba2-130m mamba2-370m mamba2-1.3b mamba2-2.7b
"""
TABLE_2 = """
    attn-360m-30b mamba-360m-30b based-360m-30b jrt-360m-30b attn-1b mamba-1b based-1b
    attn-1b-50bn mamba-1b-50b based-1b-50b jrt-1b-50b
"""


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_an_entry_names_things_that_exist(entry: known.Known) -> None:
    assert entry.architecture in ARCHITECTURES
    assert entry.tokenizer in FAMILIES
    assert hub.is_repo_id(entry.hub_id)
    assert entry.template in jrt_prompts.list_templates()
    assert entry.context == 2048
    assert entry.size_bytes in (2 * entry.parameters, 4 * entry.parameters)


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(ENTRIES)
    assert known.TINY not in BY_NAME


@pytest.mark.parametrize(("table", "names"), [("1", TABLE_1), ("2", TABLE_2)])
def test_every_row_of_the_paper_is_there(table: str, names: str) -> None:
    assert {entry.name for entry in ENTRIES if table in entry.paper_tables} == set(names.split())


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [
        ("mamba-130m", 0.517),
        ("mamba-370m", 1.49),
        ("mamba-790m", 3.17),
        ("mamba-1.4b", 5.49),
        ("mamba-2.8b", 11.1),
        ("mamba2-130m", 0.258),
        ("mamba2-370m", 0.737),
        ("mamba2-780m", 1.56),
        ("mamba2-1.3b", 2.69),
        ("mamba2-2.7b", 5.41),
        ("gla-1.3b-100b", 2.73),
        ("based-360m-30b", 1.45),
        ("jrt-360m-30b", 1.43),
        ("jrt-1b-50b", 5.5),
        ("mamba-360m-30b", 1.43),
        ("mamba-1b-50b", 5.28),
        ("attn-360m-30b", 1.44),
        ("attn-1b-50bn", 5.22),
    ],
)
def test_sizes_are_those_the_hub_shows(name: str, gigabytes: float) -> None:
    digits = 3 - len(str(int(gigabytes))) if gigabytes >= 1 else 3
    assert round(BY_NAME[name].size_bytes / 1e9, digits) == pytest.approx(gigabytes, abs=10**-digits / 2)


@pytest.mark.parametrize("name", ["mamba-130m", "MAMBA-130M", "state-spaces/mamba-130m"])
def test_found_by_name_or_hub_id(name: str) -> None:
    assert known.find(name) == BY_NAME["mamba-130m"]


@pytest.mark.parametrize("name", ["mamba-1.4b-hf", "state-spaces/mamba-1.4b-hf"])
def test_the_transformers_copies_are_other_repositories(name: str) -> None:
    copy = known.find(name)
    assert copy is not None
    assert (copy.name, copy.hub_id) == ("mamba-1.4b-hf", "state-spaces/mamba-1.4b-hf")
    assert copy.parameters == BY_NAME["mamba-1.4b"].parameters


@pytest.mark.parametrize(
    "name", ["", "mamba", "mamba2-130m-hf", "mamba-1b-hf", "someone/mamba-130m", "../tiny"]
)
def test_other_names_are_not_known(name: str) -> None:
    assert known.find(name) is None


def test_the_bundled_ones_are_described_by_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "BUNDLED", tmp_path / "none")
    assert known.find("tiny") is None
    monkeypatch.setattr(known, "BUNDLED", tmp_path)
    for name, architecture in (("another", "based"), ("tiny", "jrt_rnn"), ("zero", "gla")):
        folder = tmp_path / name
        folder.mkdir()
        save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5)}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"model_type": architecture}))
        (folder / "jrt.json").write_text(json.dumps({"template": "qcq", "context_tokens": 512}))
    (tmp_path / "zero" / "config.json").unlink()  # half a checkpoint is none
    tiny, other = known.find("tiny"), known.find("another")
    assert tiny is not None and other is not None
    assert tiny.bundled and other.bundled
    assert (tiny.architecture, tiny.parameters, tiny.context, tiny.template) == ("jrt_rnn", 17, 512, "qcq")
    assert (other.name, other.architecture) == ("another", "based")
    assert tiny.size_bytes == (tmp_path / "tiny" / "model.safetensors").stat().st_size
    assert known.folder_here(other) == tmp_path / "another"
    assert [entry.name for entry in known.known() if entry.bundled] == ["tiny", "another"]
