"""The published tables of the paper as grids: which cells make them, and the number printed in each.

Source: arXiv 2407.05483v1, Tables 1, 2, 4 and 14; percent of answers that contain the gold (v0 scoring).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jrtcli.errors import UsageError
from jrtcli.evaluate.grid import Cell
from jrtcli.tasks.task import ONCE, TWICE

_TABLE_1 = """
attn-1b         | 74.4/86.1 41.4/52.5 28.2/31.9 39.0/53.1 49.5/49.3 22.3/33.6
mamba-1b        | 23.3/40.3 15.5/31.8 19.4/25.8 26.6/48.5 46.4/51.1 21.3/32.1
based-1b        | 48.6/58.9 27.6/44.7 19.7/28.4 31.0/46.7 44.1/51.9 19.5/34.6
attn-1b-50bn    | 83.7/89.2 50.8/65.0 32.8/37.5 41.1/58.1 56.6/58.8 21.5/37.9
mamba-1b-50b    | 41.9/55.7 32.6/45.4 26.9/33.9 31.5/53.5 54.9/56.7 20.4/33.8
based-1b-50b    | 60.2/68.3 37.1/54.0 29.4/35.2 38.9/56.3 54.5/57.6 21.7/39.1
gla-1.3b-100b   | 48.3/68.6 37.7/53.6 26.6/31.3 34.7/54.8 55.5/54.6 19.6/33.3
gla-2.7b-100b   | 47.1/65.8 43.6/54.5 27.1/32.9 37.2/55.7 57.9/57.0 22.2/34.0
mamba-130m      | 25.7/32.8 17.5/31.5 16.8/21.7 27.1/51.9 43.5/50.1 17.4/30.7
mamba-370m      | 41.9/58.3 27.6/42.2 23.8/31.1 34.9/51.0 53.6/51.7 19.3/33.2
mamba-1.4b      | 45.8/60.9 37.6/46.0 31.0/36.6 39.9/59.6 60.5/61.3 20.9/36.4
mamba-2.8b      | 54.3/66.6 38.9/48.9 33.5/40.1 43.9/59.4 66.2/63.9 19.8/36.9
mamba2-130m     | 32.2/50.9 29.5/43.3 20.6/28.9 30.4/47.0 43.7/47.2 18.0/34.0
mamba2-370m     | 60.8/76.7 38.3/52.1 26.6/33.6 35.3/51.8 54.6/54.7 22.4/36.3
mamba2-1.3b     | 66.8/74.7 50.0/59.6 33.6/40.5 42.9/59.6 63.8/62.4 23.2/36.6
mamba2-2.7b     | 68.7/81.6 55.2/60.8 34.4/41.7 45.4/59.4 66.4/66.5 23.0/42.5
"""
_TABLE_2 = """
attn-360m-30b   | 74.8 73.0 44.7 43.0 27.8 22.9 36.2 46.5 21.8
mamba-360m-30b  | 41.1 24.3 22.2 13.6 16.4 12.5 25.5 43.0 17.3
based-360m-30b  | 50.3 35.8 30.4 21.6 19.7 14.7 29.8 42.5 18.4
jrt-360m-30b    | 82.0 66.0 43.3 35.1 32.9 16.2 41.7 43.2 25.8
attn-1b         | 75.3 71.5 41.6 41.0 29.6 25.8 38.7 48.8 22.6
mamba-1b        | 37.4 23.3 23.0 15.1 19.6 16.1 26.1 45.7 20.9
based-1b        | 66.3 49.0 32.3 26.3 19.7 15.7 30.7 44.2 19.1
attn-1b-50bn    | 85.6 83.5 55.7 56.0 33.4 29.9 40.1 56.6 21.4
mamba-1b-50b    | 55.4 40.1 44.0 33.7 27.6 23.2 32.2 54.5 20.7
based-1b-50b    | 69.3 58.8 47.6 40.4 29.1 24.4 38.5 54.3 20.8
jrt-1b-50b      | 86.7 67.7 49.4 45.7 38.3 25.4 50.4 53.0 29.3
"""
_TABLE_4 = """
jrt-360m-30b    | 61.9/82.0/76.3 38.1/43.3/40.7 24.6/32.9/29.2
jrt-1b-50b      | 75.8/86.7/80.2 49.3/49.4/43.3 30.9/38.3/34.2
"""
_TABLE_14 = """
mamba-130m      | 25.7/22.0/32.8 17.5/19.7/31.5 27.1/25.2/51.9
mamba-370m      | 41.9/35.3/58.3 27.6/35.0/42.2 34.9/36.0/51.0
mamba-1.4b      | 45.8/46.0/60.9 37.6/47.1/46.0 39.9/45.5/59.6
mamba-2.8b      | 54.3/54.8/66.6 38.9/51.9/48.9 43.9/53.2/59.4
"""
_PRINTED = {"table1": _TABLE_1, "table2": _TABLE_2, "table4": _TABLE_4, "table14": _TABLE_14}

TABLES = {
    "table1": "every model once and twice on the six tasks (JRT-Prompt)",
    "table2": "JRT-RNN against others, documents of 512 and 1,024 tokens and whole",
    "table4": "JRT-RNN's three ways with documents shorter than its encoder",
    "table14": "Mamba: once, two examples in context, twice",
}
"""Name -> what it shows. Rows of Table 2 without a published checkpoint (JRT-RNN 1.3B/10B) are left out."""

_SIX = ("fda", "swde", "nq", "squad", "triviaqa", "drop")
_WHOLE = 2048
"""The published length of a whole document in Table 2: the models' own."""


@dataclass(frozen=True)
class Printed:
    """One number of a table, in percent: the short name of its model, and the cell that makes it."""

    model: str
    cell: Cell
    percent: float


def printed(table: str) -> list[Printed]:
    """Every number of a table. Raises UsageError for an unknown one."""
    if table not in TABLES:
        raise UsageError(f"no --paper {table!r}: choose {', '.join(TABLES)}")
    found = []
    for line in _PRINTED[table].strip().splitlines():
        model, _, numbers = line.partition("|")
        model = model.strip()
        values = [float(number) for number in numbers.replace("/", " ").split()]
        cells = list(_cells(table, model))
        found += [Printed(model, cell, value) for cell, value in zip(cells, values, strict=True)]
    return found


def _cells(table: str, model: str) -> Iterator[Cell]:
    """The cells of a row, in the order in which its numbers are printed."""
    if table == "table1":
        for task in _SIX:
            for order in (ONCE, TWICE):
                yield Cell(task, model, order, length_tokens=1000)
    elif table == "table2":
        # JRT-RNN's padding is the document read twice in the columns of 512 tokens, else the space token.
        encoder = model.startswith("jrt-")
        for task in ("fda", "swde", "nq"):
            for length in (512, 1024):
                fill = "pad" if encoder and length > 512 else "twice"
                yield Cell(task, model, ONCE, length_tokens=length, fill=fill)
        for task in ("squad", "triviaqa", "drop"):
            yield Cell(task, model, ONCE, length_tokens=_WHOLE, fill="pad" if encoder else "twice")
    elif table == "table4":
        for task in ("fda", "swde", "nq"):
            for fill in ("pad", "twice", "iterate"):
                yield Cell(task, model, ONCE, length_tokens=512, fill=fill)
    else:
        for task in ("fda", "swde", "squad"):
            yield Cell(task, model, ONCE, length_tokens=1000)
            yield Cell(task, model, ONCE, length_tokens=1000, shots=2)
            yield Cell(task, model, TWICE, length_tokens=1000)
