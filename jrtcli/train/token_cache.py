"""Text tokenised once: all tokens of some files in one array on disk, and where each document begins."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from jrtcli.errors import UsageError
from jrtcli.train.cache import cached, file_identity
from jrtcli.train.text_files import Piece, find_files, pieces

BATCH_CHARS = 1 << 20
END_TOKENS = ("<eos>", "<|endoftext|>", "</s>")
_FORMAT = 1


class Tokens(NamedTuple):
    """ids (N,): all tokens, memory-mapped; bounds (D + 1,) int64: document d is ids[bounds[d]:bounds[d +
    1]]."""

    ids: np.ndarray
    bounds: np.ndarray


def tokenise(
    paths: Sequence[str],
    tokenizer: Tokenizer,
    root: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """The cache folder of these files under this tokenizer, made where there is none.

    Each document ends with the tokenizer's end of text, where it has one. on_progress: bytes of files done,
    of all. Raises UsageError where there are no files or no tokens in them, JrtError where one cannot be
    read.
    """
    files = find_files(paths)
    facts = [_FORMAT, hashlib.sha256(tokenizer.to_str().encode()).hexdigest(), *map(file_identity, files)]
    total = sum(file.stat().st_size for file in files)
    ends = [tokenizer.token_to_id(name) for name in END_TOKENS]
    end = next((token for token in ends if token is not None), None)
    kind = np.uint16 if tokenizer.get_vocab_size() <= 1 << 16 else np.uint32

    def make(folder: Path) -> None:
        with (folder / "tokens.bin").open("wb") as out:
            bounds = _write(files, tokenizer, end, kind, out, lambda done: on_progress(done, total))
        if bounds[-1] == 0:
            raise UsageError(f"{', '.join(paths)}: there is no text in these files")
        np.save(folder / "bounds.npy", np.array(bounds, dtype=np.int64))
        meta = {"dtype": np.dtype(kind).name, "tokens": bounds[-1], "files": [str(file) for file in files]}
        (folder / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")

    return cached(root, "text", facts, make)


def _write(
    files: Sequence[Path],
    tokenizer: Tokenizer,
    end: int | None,
    kind: Any,
    out: IO[bytes],
    on_progress: Callable[[int], None],
) -> list[int]:
    """Writes all tokens to `out`; where the documents begin, and the number of tokens."""
    bounds, held = [0], list[Piece]()
    chars = length = done = 0

    def flush(read_bytes: int) -> None:
        nonlocal chars, length
        encoded = tokenizer.encode_batch_fast([piece.text for piece in held], add_special_tokens=False)
        for piece, encoding in zip(held, encoded, strict=True):
            ids = encoding.ids
            if piece.ends and (ids or length > bounds[-1]) and end is not None:
                ids = [*ids, end]
            np.array(ids, dtype=kind).tofile(out)
            length += len(ids)
            if piece.ends and length > bounds[-1]:
                bounds.append(length)
        held.clear()
        chars = 0
        on_progress(read_bytes)

    for file in files:
        for piece in pieces(file):
            held.append(piece)
            chars += len(piece.text)
            if chars >= BATCH_CHARS:
                flush(done + piece.read_bytes)
        done += file.stat().st_size
    flush(done)
    return bounds


def open_tokens(folder: str | Path) -> Tokens:
    """The tokens of a cache folder; they stay on the disk until they are read."""
    folder = Path(folder)
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    ids = np.memmap(folder / "tokens.bin", dtype=meta["dtype"], mode="r")
    return Tokens(ids, np.load(folder / "bounds.npy"))
