"""Tokenizer files: what `tokenizers` and `sentencepiece` read, behind the four things that jrt needs of them.

A text is encoded as a beginning (with the family's own beginning-of-text token and leading space) or as a
continuation (with neither), so that the pieces of a prompt can be encoded one by one. What looks like a
special token in a text is text: a document cannot end a prompt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from jrtcli.errors import CheckpointError
from jrtcli.tokenizer_json import BYTE_TOKEN, JsonVocabulary, from_gpt2

PATTERNS = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "vocab.json", "merges.txt", "encoder.json", "vocab.bpe",
)  # fmt: skip
"""Names of tokenizer files in a repository."""

_PAIRS = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))


class Vocabulary(Protocol):
    """A tokenizer as read from its files.

    prefix_ids: what every text begins with. spaced: whether a beginning gets a space in front. hash: SHA-256
    of the files. exact: whether the bytes of tokens, joined, are the text they stand for.
    """

    size: int
    bos_id: int | None
    eos_id: int | None
    prefix_ids: tuple[int, ...]
    spaced: bool
    lowercases: bool
    exact: bool
    hash: str

    def encode(self, text: str, *, first: bool) -> tuple[Sequence[int], Sequence[int]]:
        """Ids, and for each the number of characters of `text` up to its end (prefix_ids end at 0)."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token adds to a text: none for a special token or an id without a token."""

    def begins(self, ids: list[int]) -> bool:
        """Whether ids are those of a beginning with a space in front, which is none of the text's."""

    def decode(self, ids: list[int]) -> str:
        """The text of a continuation, by the library's own decoder; for where they are not `exact`."""


def read_vocabulary(path: Path) -> Vocabulary:
    """The tokenizer of a folder or file. Raises CheckpointError where there is none or it is damaged."""
    found = _find(path)
    if found is None:
        raise CheckpointError(
            f"{path} has no tokenizer: no tokenizer.json, tokenizer.model, or encoder.json with vocab.bpe"
        )
    try:
        data = [file.read_bytes() for file in found]
        digest = hashlib.sha256(b"\0".join(data)).hexdigest()
        config = _settings(found[0].parent)
        if len(found) == 2:
            return JsonVocabulary(from_gpt2(*found), config, digest)
        if found[0].suffix == ".json":
            return JsonVocabulary(data[0].decode("utf-8"), config, digest)
        return SentencePieceVocabulary(data[0], config, digest)
    except CheckpointError:
        raise
    except Exception as error:
        # tokenizers and sentencepiece raise bare Exception and RuntimeError.
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{found[0]} is not a tokenizer that can be read ({reason})") from error


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder brings a tokenizer of its own."""
    return _find(folder) is not None


def _find(path: Path) -> tuple[Path, ...] | None:
    if path.is_file():
        for pair in _PAIRS:
            if path.name in pair:
                both = tuple(path.parent / name for name in pair)
                return both if all(file.is_file() for file in both) else None
        return (path,) if path.suffix in (".json", ".model") else None
    if (path / "tokenizer.json").is_file():
        return (path / "tokenizer.json",)
    if (path / "tokenizer.model").is_file():
        return (path / "tokenizer.model",)
    for names in _PAIRS:
        if all((path / name).is_file() for name in names):
            return tuple(path / name for name in names)
    # GPT-NeoX was published as 20B_tokenizer.json.
    others = sorted(path.glob("*_tokenizer.json"))
    return (others[0],) if len(others) == 1 else None


def _settings(folder: Path) -> dict[str, Any]:
    """What tokenizer_config.json and special_tokens_map.json say, the latter over the former."""
    merged: dict[str, Any] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        try:
            value = json.loads((folder / name).read_text("utf-8-sig"))
        except (OSError, ValueError, RecursionError):
            # Both are optional, and only name tokens.
            continue
        merged.update(value if isinstance(value, dict) else {})
    return merged


class SentencePieceVocabulary:
    """A tokenizer.model, read by `sentencepiece`."""

    exact = True

    def __init__(self, data: bytes, config: dict[str, Any], digest: str) -> None:
        from sentencepiece import SentencePieceProcessor

        self.hash = digest
        self._first = SentencePieceProcessor(model_proto=data)
        # A protobuf message with another one appended is the two merged: normalizer_spec (field 3) with
        # add_dummy_prefix (3) and remove_extra_whitespaces (4) off.
        self._rest = SentencePieceProcessor(model_proto=data + b"\x1a\x04\x18\x00\x20\x00")
        self.size = int(self._first.vocab_size())
        bos, eos = int(self._first.bos_id()), int(self._first.eos_id())
        self.bos_id = bos if bos >= 0 else None
        self.eos_id = eos if eos >= 0 else None
        # LLaMA's and Mistral's own tokenizer class adds BOS unless its configuration says otherwise.
        adds = config.get("add_bos_token", True) is not False
        self.prefix_ids: tuple[int, ...] = (self.bos_id,) if adds and self.bos_id is not None else ()
        self.spaced = self._first.encode("a") != self._rest.encode("a")
        self.lowercases = self._first.decode(self._first.encode("A")) == "a"

    def encode(self, text: str, *, first: bool) -> tuple[list[int], list[int]]:
        ids: list[int] = (self._first if first else self._rest).encode(text)
        prefix = self.prefix_ids if first else ()
        # The characters that begin in a token; the space put in front is none of the text's.
        ends, at = [], -1 if first and self.spaced else 0
        for token in ids:
            at += sum(byte & 0xC0 != 0x80 for byte in self.token_bytes(token))
            ends.append(max(at, 0))
        return [*prefix, *ids], [0] * len(prefix) + ends

    @lru_cache(maxsize=1 << 16)  # noqa: B019  (a vocabulary lives as long as the program)
    def token_bytes(self, token: int) -> bytes:
        if not 0 <= token < self.size or self._first.is_control(token) or self._first.is_unknown(token):
            return b""
        name = self._first.id_to_piece(token)
        byte = BYTE_TOKEN.fullmatch(name) if self._first.is_byte(token) else None
        return bytes([int(byte[1], 16)]) if byte else name.replace("▁", " ").encode()

    def begins(self, ids: list[int]) -> bool:
        return self.spaced and bool(self.prefix_ids) and ids[:1] == [self.prefix_ids[0]]

    def decode(self, ids: list[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")
