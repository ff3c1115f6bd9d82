"""Training of a probe's models, the sweep over them, and the file of finished rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jrtcli.errors import UsageError
from jrtcli.probe.plan import Plan, cells, plan_for
from jrtcli.probe.sweep import ROWS, Done, Step, Store, finished, sweep
from jrtcli.probe.training import eased

TRIVIAL = Plan(
    task="recall",
    readings=("causal",),
    widths=(16,),
    feature_dims=(4,),
    trained=((1, 1),),
    tested=((1, 1),),
    vocabulary=19,
    steps=120,
    batch=32,
    tests=200,
    seeds=1,
    easy_share=0.0,
)
SMALL = plan_for("disjointness", steps=2, seeds=1, widths=(8,), feature_dims=(2,), tests=8)


def test_a_trivial_task_is_learned() -> None:
    events = list(sweep(TRIVIAL))
    assert [type(event) for event in events[-2:]] == [Step, Done]
    done = events[-1]
    assert isinstance(done, Done)
    (row,) = done.rows
    assert row["accuracy"] > 0.9 and row["count"] == 200  # chance is 1/8
    assert row["trained"] and row["pairs"] == 1 and row["core_s"] > 0


def test_untrained_models_are_at_chance() -> None:
    (done,) = [e for e in sweep(replace(TRIVIAL, steps=1)) if isinstance(e, Done)]
    assert done.rows[0]["accuracy"] < 0.5


def test_the_same_seed_gives_the_same_rows_and_another_one_others() -> None:
    def accuracies(plan: Plan) -> list[float]:
        return [row["accuracy"] for e in sweep(plan) if isinstance(e, Done) for row in e.rows]

    plan = replace(TRIVIAL, steps=20)
    assert accuracies(plan) == accuracies(plan) != accuracies(replace(plan, first_seed=1))


def test_a_sweep_trains_every_cell_but_those_that_are_done() -> None:
    every = [cell.name for cell in cells(SMALL)]
    assert len(every) == len(set(every)) == 3
    done = [e for e in sweep(SMALL, skip=every[:1]) if isinstance(e, Done)]
    assert [e.cell.name for e in done] == every[1:]
    for e in done:
        assert len(e.rows) == len(SMALL.tested)
        assert {row["order"] for row in e.rows} == {"short first", "short last"}


@pytest.mark.slow
def test_two_processes_give_the_rows_of_one() -> None:
    def rows(jobs: int) -> dict[str, list[float]]:
        found = [e for e in sweep(SMALL, jobs=jobs) if isinstance(e, Done)]
        return {e.cell.name: [row["accuracy"] for row in e.rows] for e in found}

    assert rows(2) == rows(1)


def test_sizes_grow_and_arrive() -> None:
    plan = plan_for("disjointness", steps=100)
    grown = [eased((8, 32), step, plan) for step in range(100)]
    assert grown[0] == (1, 5) and grown[-1] == (8, 32) and grown == sorted(grown)
    assert eased((8, 32), 0, replace(plan, easy_share=0.0)) == (8, 32)
    assert eased((16, 4), 0, plan_for("recall")) == (2, 2)


def test_finished_rows_are_kept_and_half_ones_are_not(tmp_path: Path) -> None:
    store = Store(tmp_path / "out", SMALL)
    first, second, third = (e for e in sweep(SMALL) if isinstance(e, Done))
    store.add(first.rows)
    store.add(second.rows[:-1])  # a model without all of its rows is trained again
    with store.path.open("a") as file:
        file.write('{"task": "disjoi')  # killed while writing
    assert set(finished(SMALL, Store(tmp_path / "out", SMALL).rows())) == {first.cell.name}
    store.add(third.rows)  # not glued to the half line
    assert set(finished(SMALL, store.rows())) == {first.cell.name, third.cell.name}
    json.loads(store.path.read_text().splitlines()[0])
    assert store.path.name == ROWS


def test_rows_of_other_settings_are_refused(tmp_path: Path) -> None:
    Store(tmp_path, SMALL)
    Store(tmp_path, replace(SMALL, seeds=5, widths=(8, 16)))  # more cells of the same kind
    with pytest.raises(UsageError, match="another steps: take another folder"):
        Store(tmp_path, replace(SMALL, steps=3))


def test_the_full_protocol_is_the_papers() -> None:
    plan = plan_for("disjointness", full=True)
    assert plan.widths == (36, 48, 64, 96, 128) and plan.feature_dims == (4, 8, 16, 24)
    assert plan.rates == (1e-4, 5e-4, 8e-4) and plan.seeds == 2 and plan.vocabulary == 2048
    assert len(plan.trained) == 12 and len(plan.tested) == 20 and plan.steps * plan.batch == 48 * 240_000
    assert plan.layers == 4 and plan.heads == 2 and not plan.muon_rate and plan.weight_decay == 0.1


def test_wrong_sizes_are_said() -> None:
    with pytest.raises(UsageError, match="no probe 'sets'"):
        plan_for("sets")
    with pytest.raises(UsageError, match="no multiple of 2 heads"):
        plan_for("recall", widths=(33,))
    with pytest.raises(UsageError, match="at least 2"):
        plan_for("recall", feature_dims=(1,))
