"""Tokenizer files: what `tokenizers` and `sentencepiece` read, behind the four things that jrt needs of them.

A text is encoded as a beginning (with the family's own beginning-of-text token and leading space) or as a
continuation (with neither), so that the pieces of a prompt can be encoded one by one. What looks like a
special token in a text is text: a document cannot end a prompt.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from jrtcli.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FastTokenizer

PATTERNS = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "vocab.json", "merges.txt", "encoder.json", "vocab.bpe",
)  # fmt: skip
"""Names of tokenizer files in a repository."""

_PAIRS = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
_EOS = ("<|endoftext|>", "</s>", "<eos>", "<|eos|>", "[EOS]")
_BOS = ("<s>", "<bos>", "<|bos|>", "[BOS]")
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


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

    def encode(self, text: str, *, first: bool) -> tuple[list[int], list[int]]:
        """Ids, and for each the number of characters of `text` up to its end (prefix_ids end at 0)."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token adds to a text: none for a special token or an id without a token."""

    def decode(self, ids: list[int]) -> str:
        """The text of a continuation, by the library's own decoder; used where not `exact`."""


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
            return JsonVocabulary(_gpt2(*found), config, digest)
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


def _named(config: dict[str, Any], key: str) -> list[str]:
    value = config.get(key)
    value = value.get("content") if isinstance(value, dict) else value
    return [value] if isinstance(value, str) else []


def _gpt2(vocabulary: Path, merges: Path) -> str:
    """GPT-2's two files as a tokenizer.json."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    fast = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    if fast.token_to_id("<|endoftext|>") is not None:
        fast.add_special_tokens(["<|endoftext|>"])
    return fast.to_str()


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
        self.lowercases = any(
            node.get("type") == "Lowercase" or node.get("lowercase") is True
            for node in _nodes(spec.get("normalizer"))
        )
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

    def encode(self, text: str, *, first: bool) -> tuple[list[int], list[int]]:
        encoding = (self._first if first else self._rest).encode(text, add_special_tokens=False)
        prefix = self.prefix_ids if first else ()
        return [*prefix, *encoding.ids], [0] * len(prefix) + [end for _, end in encoding.offsets]

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
        byte = _BYTE_TOKEN.fullmatch(name) if self._byte_fallback else None
        return bytes([int(byte[1], 16)]) if byte else name.replace("▁", " ").encode()

    def decode(self, ids: list[int]) -> str:
        return str(self._rest.decode(ids, skip_special_tokens=True))


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
        self.bos_id = _at_least_0(self._first.bos_id())
        self.eos_id = _at_least_0(self._first.eos_id())
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
        byte = _BYTE_TOKEN.fullmatch(name) if self._first.is_byte(token) else None
        return bytes([int(byte[1], 16)]) if byte else name.replace("▁", " ").encode()

    def decode(self, ids: list[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")


def _at_least_0(token: int) -> int | None:
    return token if token >= 0 else None


def _fast(text: str) -> FastTokenizer:
    from tokenizers import Tokenizer

    fast = Tokenizer.from_str(text)
    fast.no_truncation()
    fast.no_padding()
    fast.encode_special_tokens = True
    return fast


def _nodes(part: Any) -> list[dict[str, Any]]:
    """A component of a tokenizer.json and the members of its sequences."""
    if not isinstance(part, dict):
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
    spec = json.loads(json.dumps(spec))
    changed = False
    for key in ("normalizer", "pre_tokenizer", "decoder"):
        for node in _nodes(spec.get(key)):
            if node.get("type") == "Metaspace" and node.get("prepend_scheme", "always") != "never":
                node["prepend_scheme"], changed = "never", True
                node.pop("add_prefix_space", None)
            elif node.get("type") == "ByteLevel" and key == "pre_tokenizer" and node.get("add_prefix_space"):
                node["add_prefix_space"], changed = False, True
            elif key == "normalizer" and node.get("type") == "Prepend" and node.get("prepend"):
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
