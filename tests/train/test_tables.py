"""Grids: every cell is asked for by its row and its column, and can be told from its neighbours."""

from __future__ import annotations

from jrtcli.train.sheet import Builder, Held
from jrtcli.train.tables import grid
from jrtcli.train.values import Draw


def test_every_cell_of_a_grid_is_asked_for_by_row_and_column() -> None:
    for seed in range(100):
        builder = Builder(draw=Draw(seed), held=Held(), limit=500, noise=0.0, bare=0.3, case=1)
        grid(builder)
        sheet = builder.sheet("x")
        rows = [line for line in sheet.text.split("\n") if line]
        assert len(sheet.facts) >= 2 * (len(rows) - 2) > 0
        columns = {fact.key.split(" of ")[0] for fact in sheet.facts}
        assert 2 <= len(columns) <= 6
        for fact in sheet.facts:
            line = sheet.text[: fact.start].rsplit("\n", 1)[-1]
            name = line.strip("| ")[:3].lower()
            assert name and name in fact.key
            assert sheet.text[fact.start : fact.end] == fact.value


def test_the_cells_of_a_grid_do_not_contain_its_separator() -> None:
    for seed in range(200):
        builder = Builder(draw=Draw(seed), held=Held(), limit=500, noise=0.0, bare=0.3, case=1)
        grid(builder)
        lines = [line for line in "".join(builder.parts).split("\n") if line]
        for mark in ("\t", "|", ";", "&", "   "):
            if mark in lines[0]:
                assert {line.count(mark) for line in lines} == {lines[0].count(mark)}, lines
                break
