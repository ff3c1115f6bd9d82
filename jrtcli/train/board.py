"""TensorBoard: the metrics as event files, where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jrtcli.errors import UsageError


def open_board(folder: Path, step: int, wanted: str) -> Any:
    """A writer of event files for a run that goes on from `step`, or None.

    wanted: "auto" (where tensorboard is installed), "on", "off". Raises UsageError for "on" without it.
    """
    if wanted == "off":
        return None
    if importlib.util.find_spec("tensorboard") is None:
        if wanted == "on":
            raise UsageError("tensorboard = 'on' needs it: pip install 'jrt[tensorboard]'")
        return None
    # What an interrupted run wrote after its last checkpoint is hidden.
    return _writer()(str(folder), purge_step=step + 1 if step else None)


def _writer() -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter


def scalars(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """(name, value) of the numbers of a metrics row; those of a table as table/name."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and name != "step":
            yield prefix + name, float(value)
