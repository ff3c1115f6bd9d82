"""Text to token ids and back: the tokenizer of a checkpoint, its streaming decoder, and a prompt as ids."""

from __future__ import annotations

import codecs
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from jrtcli import hub
from jrtcli.errors import CheckpointError
from jrtcli.vocabulary import PATTERNS, Vocabulary, has_tokenizer, read_vocabulary

if TYPE_CHECKING:
    from jrt_prompts import Prompt

FAMILIES: dict[str, tuple[str, ...]] = {
    "gpt-neox-20b": ("EleutherAI/gpt-neox-20b",),
    "gpt2": ("openai-community/gpt2", "gpt2"),
    "mistral-7b-v0.1": ("mistralai/Mistral-7B-v0.1",),
}
"""Tokenizers of checkpoints that bring none: family -> the hub ids that have it, the first one downloaded."""

_WINDOW_TOKENS = 16
"""A decoder that looks at neighbours is taken to look no further."""

_LONG_CHARACTERS = 2000
_REMEMBERED = 4
"""Texts: two readings of a document, and two that hold a question."""

_SURROGATE = re.compile("[\ud800-\udfff]")


class Tokenizer:
    """A vocabulary as the rest of jrt uses it. Made by `load_tokenizer`.

    source: where it came from, a folder, file or hub id. size: one more than the highest id. hash: SHA-256 of
    its files. lowercases: whether it loses capitals. bos_id, eos_id: None where it has none.
    """

    def __init__(self, vocabulary: Vocabulary, source: str) -> None:
        self._vocabulary = vocabulary
        self.source = source
        self.size = vocabulary.size
        self.bos_id = vocabulary.bos_id
        self.eos_id = vocabulary.eos_id
        self.lowercases = vocabulary.lowercases
        self.hash = vocabulary.hash

    def encode(self, text: str, *, first: bool) -> list[int]:
        """Ids of a text that begins a prompt (`first`: with BOS or a leading space where the family has them)
        or continues one. Lone surrogates become U+FFFD; names of special tokens are plain text."""
        return list(self.encode_with_ends(text, first=first)[0])

    def encode_with_ends(self, text: str, *, first: bool) -> tuple[Sequence[int], Sequence[int]]:
        """Ids, and for each the number of characters of `text` up to its end."""
        return self._vocabulary.encode(whole_characters(text), first=first)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, without special tokens; bytes that are no UTF-8 become U+FFFD.

        The space that some families put in front of a text is dropped where the ids begin with their BOS, and
        kept in a continuation, where it is the model's.
        """
        vocabulary, ids = self._vocabulary, list(ids)
        if vocabulary.exact:
            text = b"".join(map(vocabulary.token_bytes, ids)).decode("utf-8", "replace")
        else:
            text = vocabulary.decode(ids)
        return text.removeprefix(" ") if vocabulary.begins(ids) else text

    def stream(self) -> TokenStream:
        """A decoder for ids that come one at a time."""
        return TokenStream(self._vocabulary)


class Remembering(Tokenizer):
    """A tokenizer that still knows the ids of the last few long texts: a document shown to many questions."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer._vocabulary, tokenizer.source)
        self._recall = lru_cache(maxsize=_REMEMBERED)(super().encode_with_ends)

    def encode_with_ends(self, text: str, *, first: bool) -> tuple[Sequence[int], Sequence[int]]:
        """As of Tokenizer; what it returns is shared between calls and not to be changed."""
        if len(text) < _LONG_CHARACTERS:
            return super().encode_with_ends(text, first=first)
        return self._recall(text, first=first)


class TokenStream:
    """Decodes ids one at a time: whole characters only, and joined they are `Tokenizer.decode` of all."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun = self._drop_space = False
        # For decoders that look at neighbours: the last ids, and what has been said of them.
        self._ids: list[int] = []
        self._said = ""

    def push(self, token: int) -> str:
        """What one more id adds to the text; "" while a character is incomplete."""
        if not self._begun:
            self._begun, self._drop_space = True, self._vocabulary.begins([token])
        if self._vocabulary.exact:
            return self._out(self._utf8.decode(self._vocabulary.token_bytes(token)))
        self._ids.append(token)
        text = self._vocabulary.decode(self._ids)
        whole = text.rstrip("\ufffd")
        if not whole.startswith(self._said):
            return ""
        new, self._said = whole[len(self._said) :], whole
        if len(self._ids) >= 4 * _WINDOW_TOKENS and whole == text:
            self._ids = self._ids[-_WINDOW_TOKENS:]
            self._said = self._vocabulary.decode(self._ids)
        return self._out(new)

    def flush(self) -> str:
        """What is left at the end: an incomplete character as U+FFFD."""
        if self._vocabulary.exact:
            return self._out(self._utf8.decode(b"", final=True))
        text = self._vocabulary.decode(self._ids)
        return self._out(text[len(self._said) :] if text.startswith(self._said) else "")

    def _out(self, text: str) -> str:
        if self._drop_space and text:
            self._drop_space = False
            return text.removeprefix(" ")
        return text


@dataclass(frozen=True)
class SegmentSpan:
    """Where the tokens of one segment of a prompt stand: ids[start:end]."""

    role: str
    start: int
    end: int


@dataclass(frozen=True)
class PromptIds:
    """A prompt as ids.

    spans: one per segment; a token across a border belongs to the segment of its last character, what a
    family puts in front of a text to the first one. cache_points: token counts at the ends of the readings,
    where a state can be saved. head_tokens: the last of them, 0 for a prompt without a document.
    """

    ids: tuple[int, ...]
    spans: tuple[SegmentSpan, ...]
    cache_points: tuple[int, ...]
    head_tokens: int


def encode_prompt(prompt: Prompt, tokenizer: Tokenizer) -> PromptIds:
    """The ids of a prompt, in pieces that end right after each reading of the document.

    So the ids up to the end of a reading do not depend on what follows, and a state saved there serves any
    question. For byte-level BPE (GPT-2, GPT-NeoX) the pieces give the ids of the whole text: these never
    merge across the line break that follows a document.
    """
    ids: list[int] = []
    spans: list[SegmentSpan] = []
    points: list[int] = []
    piece: list[tuple[str, str]] = []
    last = len(prompt.segments) - 1
    for i, segment in enumerate(prompt.segments):
        piece.append((segment.role, whole_characters(segment.text)))
        if segment.role != "context" and i != last:
            continue
        new, ends = tokenizer.encode_with_ends("".join(text for _, text in piece), first=not ids)
        border = 0
        for j, (role, text) in enumerate(piece):
            border += len(text)
            start = spans[-1].end if spans else 0
            end = len(ids) + (len(new) if j == len(piece) - 1 else bisect_right(ends, border))
            spans.append(SegmentSpan(role, start, end))
        ids += new
        if segment.role == "context":
            points.append(len(ids))
        piece = []
    return PromptIds(tuple(ids), tuple(spans), tuple(points), points[-1] if points else 0)


def whole_characters(text: str) -> str:
    """`text` with lone surrogates, which no encoding can hold, as U+FFFD."""
    return _SURROGATE.sub("\ufffd", text) if _SURROGATE.search(text) else text


def load_tokenizer(
    source: str | Path | None = None, *, folder: Path | None = None, family: str | None = None
) -> Tokenizer:
    """The tokenizer named by `source` (a folder, a file, a family, a hub id), else the one in the `folder` of
    the checkpoint, else the one of its `family` from the hub or its cache.

    Raises CheckpointError where there is none.
    """
    if source is not None:
        path = Path(source).expanduser()
        if path.exists():
            return Tokenizer(read_vocabulary(path), str(path))
        name = str(source)
        if name.lower() in FAMILIES:
            return _of_hub(FAMILIES[name.lower()])
        if hub.is_repo_id(name):
            return _of_hub((name,))
        raise CheckpointError(
            f"no tokenizer {name!r}: give a folder, a file, a hub id, or one of {', '.join(FAMILIES)}"
        )
    if folder is not None and has_tokenizer(folder):
        return Tokenizer(read_vocabulary(folder), str(folder))
    if family in FAMILIES:
        return _of_hub(FAMILIES[family])
    raise CheckpointError(f"{folder or 'the checkpoint'} has no tokenizer: name one with --tokenizer")


def _of_hub(repo_ids: Sequence[str]) -> Tokenizer:
    for repo_id in repo_ids:
        for name in PATTERNS:
            found = hub.cached_file(repo_id, name)
            if found is not None and has_tokenizer(found.parent):
                return Tokenizer(read_vocabulary(found.parent), repo_id)
    try:
        folder = hub.snapshot(repo_ids[0], PATTERNS)
    except CheckpointError as error:
        message = str(error).replace("--model FOLDER", "--tokenizer FOLDER")
        raise CheckpointError(f"no tokenizer: {message}") from error
    return Tokenizer(read_vocabulary(folder), repo_ids[0])
