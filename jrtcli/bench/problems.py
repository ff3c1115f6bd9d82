"""What keeps a row from its time: said in the row, so that one backend's trouble is not the others'."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from jrt_kernels.registry import Unsupported
from jrtcli.bench.rows import Row
from jrtcli.errors import JrtError

_LONGEST_NOTE = 200


def attempt(row: Row, fill: Callable[[Row], Row]) -> Row:
    """`fill(row)`, or the row with the reason why there is no time. An interruption goes through."""
    try:
        return fill(row)
    except (Unsupported, JrtError) as error:
        note = str(error)
    except (MemoryError, torch.OutOfMemoryError) as error:
        note = f"out of memory{': ' if str(error) else ''}{str(error).splitlines()[0] if str(error) else ''}"
    except ImportError as error:
        note = f"cannot be imported: {error}"
    except Exception as error:  # whatever a peer raises is its own row's trouble
        lines = str(error).strip().splitlines() or [""]
        note = f"failed: {type(error).__name__}: {lines[0]}"
        if "allocate memory" in str(error):  # what torch's allocator for CPUs says, as a RuntimeError
            note = "out of memory"
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    note = " ".join(note.split())
    short = note if len(note) <= _LONGEST_NOTE else f"{note[: _LONGEST_NOTE - 1]}…"
    return replace(row, samples_ms=(), note=short)


def need_memory(wanted_bytes: float, device: str) -> None:
    """Raises MemoryError where a CPU has less free: Linux would end the program instead of refusing."""
    meminfo = Path("/proc/meminfo")
    if device != "cpu" or not meminfo.is_file():
        return
    for line in meminfo.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable" and wanted_bytes > (free := 1024 * int(value.split()[0])):
            raise MemoryError(f"{wanted_bytes / 2**30:.1f} GiB of inputs, {free / 2**30:.1f} GiB free")
