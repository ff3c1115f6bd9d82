"""The file of a state: whatever is cut off, flipped or foreign is refused in one line, never read."""

from __future__ import annotations

import json
import os
import stat
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from jrtcli.errors import StateError
from jrtcli.state_file import FORMAT, read_file, sealed, write_file

FACTS = {"identity": {"checkpoint": 'a "name"', "sha256": "0" * 64}, "words": 'größe "sha256":"' + "0" * 64}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tensors = {
        "layers.0.kv": torch.randn(2, 3),
        "ids": torch.arange(5),
        "text": torch.tensor([65, 66]).byte(),
    }
    write_file(tmp_path / "a.state", sealed(tensors, FACTS))
    return tmp_path / "a.state"


def refusal(path: Path) -> str:
    with pytest.raises(StateError) as error:
        read_file(path).load()
    said = str(error.value)
    assert said.startswith(f"{path}: ") and "\n" not in said
    return said


def test_what_was_written_is_read(path: Path) -> None:
    file = read_file(path)
    assert file.facts == FACTS and file.nbytes == path.stat().st_size
    tensors = file.load()
    assert tensors["ids"].tolist() == [0, 1, 2, 3, 4]
    assert file.tensors["layers.0.kv"] == ("F32", (2, 3))
    header = read_file(path, whole=False)
    assert (header.facts, header.tensors, header.raw) == (file.facts, file.tensors, None)


def test_every_prefix_is_refused(path: Path, tmp_path: Path) -> None:
    raw = path.read_bytes()
    cut = tmp_path / "cut.state"
    said = set()
    for size in range(len(raw)):
        cut.write_bytes(raw[:size])
        said.add(refusal(cut).split(": ")[1].split(" ")[1])
    assert said == {"not", "truncated"}
    for size in (len(raw) // 2, len(raw) - 1):
        cut.write_bytes(raw[:size])
        assert "is truncated" in refusal(cut)
    cut.write_bytes(raw + b"x")
    assert "is damaged" in refusal(cut)


def test_every_bit_counts(path: Path, tmp_path: Path) -> None:
    raw = path.read_bytes()
    flipped = tmp_path / "flipped.state"
    for at in range(len(raw)):
        changed = bytearray(raw)
        changed[at] ^= 1 << (at % 8)
        flipped.write_bytes(changed)
        refusal(flipped)
    for at in range(8, 8 + struct.unpack("<Q", raw[:8])[0], 7):
        for bit in range(8):
            changed = bytearray(raw)
            changed[at] ^= 1 << bit
            flipped.write_bytes(changed)
            refusal(flipped)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"notes",
        b"%PDF-1.7 " * 40,
        b"\x7fELF" + bytes(500),
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 2**63) + b"{" * 90,
        struct.pack("<Q", 40) + b"{" * 40,
        struct.pack("<Q", 24) + b'{"__metadata__":{"a":1}}',
        struct.pack("<Q", 30_000) + b"[" * 30_000,
    ],
)
def test_a_file_of_something_else_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    assert "is not a document's state" in refusal(path)


def test_safetensors_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    assert "is not a document's state" in refusal(path)
    save_file({"weight": torch.zeros(3)}, path, {"format": FORMAT, "facts": "{}", "sha256": "0" * 64})
    assert "is damaged: its checksum" in refusal(path)
    later = FORMAT.replace(" 1", " 2")
    save_file({"weight": torch.zeros(3)}, path, {"format": later, "facts": "{}", "sha256": "0" * 64})
    assert f"has the format {later!r}" in refusal(path)


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "missing.state")
    assert "folder or a device" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "folder or a device" in refusal(tmp_path / "pipe")


def test_in_an_open_folder_no_link_is_followed(path: Path, tmp_path: Path) -> None:
    (tmp_path / "link.state").symlink_to(path)
    assert read_file(tmp_path / "link.state").facts == FACTS
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        assert read_file("a.state", directory=directory).facts == FACTS
        with pytest.raises(StateError, match="cannot be read"):
            read_file("link.state", directory=directory)
    finally:
        os.close(directory)


def test_writing_is_whole_or_not_at_all(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()

    def full(_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_file(path, [b"half"])
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.state"]


def test_a_link_in_the_place_of_a_file_is_replaced(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(target)
    write_file(link, [b"state"])
    assert target.read_text() == "mine" and not link.is_symlink() and link.read_bytes() == b"state"


def test_the_facts_are_json_in_the_header(path: Path) -> None:
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    assert header["__metadata__"]["format"] == FORMAT
    assert json.loads(header["__metadata__"]["facts"]) == FACTS
