"""A tokenizer.json, the format of the `tokenizers` library, as a Vocabulary."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jrtcli.freed_memory import give_back

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FastTokenizer

BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
"""How SentencePiece spells a token that is one byte."""

_MANY_TOKENS = 1 << 15
"""From so many on, encoding them took memory worth giving back, and time beside which that is nothing."""

_EOS = ("<|endoftext|>", "</s>", "<eos>", "<|eos|>", "[EOS]")
_BOS = ("<s>", "<bos>", "<|bos|>", "[BOS]")


class JsonVocabulary:
    """A tokenizer.json, read by `tokenizers`."""

    def __init__(self, text: str, config: dict[str, Any], digest: str) -> None:
        spec = json.loads(text)
        self.hash = digest
        self._first = _fast(text)
        continuation = _continuation(spec)
        self.spaced = continuation is not None
        self._rest = self._first if continuation is None else _fast(json.dumps(continuation))
        self.size = max(self._first.get_vocab(with_added_tokens=True).values()) + 1
        normalizers = _nodes(spec.get("normalizer"))
        self.lowercases = any(n.get("type") == "Lowercase" or n.get("lowercase") is True for n in normalizers)
        added = {token["id"]: token for token in spec.get("added_tokens") or []}
        self._special = {i for i, token in added.items() if token.get("special")}
        self._added = {i: token["content"] for i, token in added.items()}
        self.bos_id = self._id(_named(config, "bos_token"), _BOS)
        self.eos_id = self._id(_named(config, "eos_token"), _EOS)
        self.prefix_ids = self._prefix(config)
        kinds = {node.get("type") for node in _nodes(spec.get("decoder"))} - {"Sequence"}
        self._byte_level = kinds == {"ByteLevel"}
        self._byte_fallback = "ByteFallback" in kinds
        self.exact = self._byte_level or (
            bool(kinds)
            and kinds <= {"Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"}
            and all(_is_metaspace(n) for n in _nodes(spec.get("decoder")))
        )

    def _id(self, named: list[str], usual: tuple[str, ...]) -> int | None:
        for name in named or usual:
            found = self._first.token_to_id(name)
            if found is not None:
                return int(found)
        return None

    def _prefix(self, config: dict[str, Any]) -> tuple[int, ...]:
        """What the file's own post-processor puts first, unless tokenizer_config.json says it of BOS."""
        asked = config.get("add_bos_token")
        if isinstance(asked, bool):
            return (self.bos_id,) if asked and self.bos_id is not None else ()
        encoding = self._first.encode("a", add_special_tokens=True)
        count = 0
        while count < len(encoding.ids) and encoding.special_tokens_mask[count]:
            count += 1
        return tuple(encoding.ids[:count])

    def encode(self, text: str, *, first: bool) -> tuple[Sequence[int], Sequence[int]]:
        encoding = (self._first if first else self._rest).encode(text, add_special_tokens=False)
        prefix = self.prefix_ids if first else ()
        # As Python's numbers they would take 36 bytes each, scattered over what is freed here.
        ids, ends = array("i", prefix), array("i", [0] * len(prefix))
        ids.extend(encoding.ids)
        ends.extend(end for _, end in encoding.offsets)
        del encoding
        if len(ids) >= _MANY_TOKENS:
            give_back()
        return ids, ends

    def token_bytes(self, token: int) -> bytes:
        if token in self._special:
            return b""
        if token in self._added:
            return self._added[token].encode()
        name = self._first.id_to_token(token)
        if name is None:
            return b""
        if self._byte_level:
            table = _bytes_of_characters()
            return bytes(table[c] for c in name) if all(c in table for c in name) else name.encode()
        byte = BYTE_TOKEN.fullmatch(name) if self._byte_fallback else None
        return bytes([int(byte[1], 16)]) if byte else name.replace("▁", " ").encode()

    def begins(self, ids: list[int]) -> bool:
        return self.spaced and bool(self.prefix_ids) and ids[:1] == [self.prefix_ids[0]]

    def decode(self, ids: list[int]) -> str:
        return str(self._rest.decode(ids, skip_special_tokens=True))


def from_gpt2(vocabulary: Path, merges: Path) -> str:
    """GPT-2's two files as a tokenizer.json."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    fast = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    if fast.token_to_id("<|endoftext|>") is not None:
        fast.add_special_tokens(["<|endoftext|>"])
    return fast.to_str()


def _named(config: dict[str, Any], key: str) -> list[str]:
    value = config.get(key)
    value = value.get("content") if isinstance(value, dict) else value
    return [value] if isinstance(value, str) else []


def _fast(text: str) -> FastTokenizer:
    from tokenizers import Tokenizer

    fast = Tokenizer.from_str(text)
    fast.no_truncation()
    fast.no_padding()
    fast.encode_special_tokens = True
    return fast


def _nodes(part: Any) -> list[dict[str, Any]]:
    """A component of a tokenizer.json and the members of its sequences."""
    if part is None:
        return []
    inner = [member for key in ("normalizers", "pretokenizers", "decoders") for member in part.get(key) or []]
    return [part, *(node for member in inner for node in _nodes(member))]


def _is_metaspace(node: dict[str, Any]) -> bool:
    """Whether a decoder does no more than write `▁` as a space (and strip the one in front)."""
    if node.get("type") == "Replace":
        return node.get("pattern") == {"String": "▁"} and node.get("content") == " "
    return node.get("type") != "Metaspace" or node.get("replacement", "▁") == "▁"


def _continuation(spec: dict[str, Any]) -> dict[str, Any] | None:
    """The same tokenizer without a space in front of a text; None where there is none anyway."""
    parts = ("normalizer", "pre_tokenizer", "decoder")
    # The vocabulary, megabytes of it, is shared with the original.
    spec = spec | {key: deepcopy(spec.get(key)) for key in parts}
    changed = False
    for key in parts:
        for node in _nodes(spec.get(key)):
            if node.get("type") == "Metaspace" and node.get("prepend_scheme", "always") != "never":
                node["prepend_scheme"], changed = "never", True
                node.pop("add_prefix_space", None)
            elif node.get("type") == "ByteLevel" and key == "pre_tokenizer" and node.get("add_prefix_space"):
                node["add_prefix_space"], changed = False, True
            elif key == "normalizer" and node.get("type") == "Prepend" and node.get("prepend") in ("▁", " "):
                node["prepend"], changed = "", True
            elif key == "decoder" and node.get("type") == "Strip" and node.get("start"):
                node["start"], changed = 0, True
    return spec if changed else None


@lru_cache(maxsize=1)
def _bytes_of_characters() -> dict[str, int]:
    """The printable characters that byte-level BPE writes bytes as (GPT-2's bytes_to_unicode, inverted)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
