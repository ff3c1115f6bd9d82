"""The rows of a task: where their file lies, and its lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jrtcli.compressed import Damaged
from jrtcli.errors import DocumentError, UsageError
from jrtcli.lines import Lines, Source
from jrtcli.strict_json import Wrong, parse
from jrtcli.tasks.task import Task

ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst")


def find_rows(name: str, data: Sequence[str]) -> Path | None:
    """The file of a task's rows among what the user named: FILE, NAME=FILE, or a folder with NAME.jsonl (or
    .gz, .zst), or with a folder NAME that holds one such file.

    A FILE without a name is every task's. Raises UsageError for what is not there.
    """
    whole = None
    for given in data:
        wanted, equals, path = given.partition("=")
        if equals and not Path(given).exists():
            if not Path(path).is_file():
                raise UsageError(f"--data {given}: there is no file {path}")
            if wanted == name:
                return Path(path)
        elif Path(given).is_dir():
            if (found := _in_folder(name, Path(given))) is not None:
                return found
        elif Path(given).is_file():
            whole = whole or Path(given)
        else:
            raise UsageError(f"--data {given}: there is no such file or folder")
    return whole


def _in_folder(name: str, folder: Path) -> Path | None:
    for ending in ENDINGS:
        if (path := folder / f"{name}{ending}").is_file():
            return path
    inside = [p for ending in ENDINGS for p in sorted((folder / name).glob(f"*{ending}"))]
    if len(inside) > 1:
        raise UsageError(
            f"--data {folder}: {len(inside)} files in {folder / name}: name one, --data {name}={inside[0]}"
        )
    return inside[0] if inside else None


def missing(task: Task, length: int | None) -> str:
    """Why a task has no rows, and how to bring them."""
    dataset = task.dataset(length)
    return (
        f"{task.name}: its rows are not here. They are {dataset} on the Hugging Face hub: where there is a"
        f" network, `python -c \"import datasets; datasets.load_dataset('{dataset}', split='validation')"
        f".to_json('{task.name}.jsonl')\"`; then --data {task.name}=FILE"
    )


def read_rows(path: str | Path) -> Iterator[tuple[dict[str, Any], str]]:
    """The rows of a jsonl file, gzip and zstd too, each with its place (file:line). Raises DocumentError."""
    try:
        for line in Lines(Source(path).chunks()):
            where = f"{path}:{line.number}"
            if line.data is None:
                raise DocumentError(f"{where}: the line is too long")
            if line.data.strip():
                yield parse(line.data.removeprefix(b"\xef\xbb\xbf")), where
    except Wrong as error:
        raise DocumentError(f"{where}: {error}") from None
    except Damaged as error:
        raise DocumentError(f"{path}: {error}") from None


def task_rows(task: Task, path: str | Path, limit: int | None = None) -> list[tuple[dict[str, Any], str]]:
    """The rows of a task, the first `limit` of the file, each with its place. Raises DocumentError."""
    made: list[tuple[dict[str, Any], str]] = []
    for given, where in read_rows(path):
        if limit is not None and len(made) >= limit:
            break
        made.append((task.row(given, where), where))
    if not made:
        raise DocumentError(f"{path}: there is no row")
    return made
