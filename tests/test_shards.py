"""Shards: which rows are whose, what other shards have done, and the merge that finds what is wrong."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from jrtcli.cli import main
from jrtcli.errors import JrtError, UsageError
from jrtcli.manifest import write_manifest
from jrtcli.merge import merge
from jrtcli.output_rows import bad_row, failed_row
from jrtcli.predictions import Predictions, read_predictions
from jrtcli.records import BadRow, Record
from jrtcli.shards import Elsewhere, Shard, outputs, parse_shard, shard_of, shards_in

RUN = {"template": "cqcq", "seed": 0}


def record(number: int, *, question: str = "What?") -> Record:
    return Record(
        "in.jsonl", number + 1, number, f"row {number}", question, (), "A document.", None, None, "context"
    )


def shard_output(
    out: Path,
    shard: str,
    rows: Sequence[Record | BadRow],
    *,
    run: dict[str, Any] = RUN,
    failed: Sequence[int] = (),
    total: int | None = None,
) -> Path:
    """The output of a shard that has done these rows."""
    path = parse_shard(shard).path(out)
    with Predictions(path, run, about={"shard": shard}) as predictions:
        for row in rows:
            hash = predictions.run_hash
            if isinstance(row, BadRow):
                predictions.write(bad_row(row, run=hash))
            elif row.number in failed:
                predictions.write(failed_row(row, "memory", "too large", run=hash))
            else:
                answer = {"id": row.id, "answer": f"of {row.number}", "by": shard}
                predictions.write(answer | {"jrt": {"row": row.key, "run": hash}})
    if total is not None:
        write_manifest(path, run, {"shard": shard, "rows": total})
    return path


def done(out: Path) -> dict[str, Any]:
    rows = list(read_predictions(out))
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row for row in rows}


@pytest.mark.parametrize("count", [1, 2, 3, 7, 30])
def test_each_row_is_in_one_shard(count: int) -> None:
    rows = [record(i) for i in range(20)]
    taken = [row for i in range(count) for row in Shard(i + 1, count).take(rows)]
    assert sorted(row.number for row in taken) == list(range(20))


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "-1/4", "1", "1/", "a/b", "1/4/2", "1/100000", ""])
def test_a_wrong_shard_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="--shard"):
        parse_shard(text)


@pytest.mark.parametrize(
    ("out", "name"),
    [
        ("a.jsonl", "a-00003-of-00008.jsonl"),
        ("a.b.jsonl.gz", "a.b-00003-of-00008.jsonl.gz"),
        ("v1.5.jsonl", "v1.5-00003-of-00008.jsonl"),
        ("answers", "answers-00003-of-00008"),
        (".hidden", ".hidden-00003-of-00008"),
    ],
)
def test_the_output_of_a_shard_is_named_after_it(tmp_path: Path, out: str, name: str) -> None:
    path = parse_shard("3/8").path(tmp_path / out)
    assert path == tmp_path / name
    assert shards_in(path) == 8 and shards_in(tmp_path / out) is None
    path.write_text("")
    assert outputs(tmp_path / out) == [path]


def test_a_shard_writes_no_stdout() -> None:
    with pytest.raises(UsageError, match="-o"):
        Shard(1, 2).path("-")


def test_outputs_of_another_name_are_none_of_ours(tmp_path: Path) -> None:
    for name in (
        "a-00001-of-00002.jsonl",
        "ab-00001-of-00002.jsonl",
        "a-1-of-2.jsonl",
        "a-00002-of-00002.json",
    ):
        (tmp_path / name).write_text("")
    assert [path.name for path in outputs(tmp_path / "a.jsonl")] == ["a-00001-of-00002.jsonl"]


@pytest.mark.parametrize(
    ("environ", "shard"),
    [
        ({}, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"RANK": "2", "WORLD_SIZE": "4"}, "3/4"),
        ({"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_MIN": "0"}, "1/8"),
        ({"SLURM_ARRAY_TASK_ID": "8", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_MIN": "1"}, "8/8"),
        (
            {
                "SLURM_ARRAY_TASK_ID": "30",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_ARRAY_TASK_MIN": "10",
                "SLURM_ARRAY_TASK_STEP": "10",
            },
            "3/4",
        ),
        (
            {
                "SLURM_ARRAY_TASK_ID": "1",
                "SLURM_ARRAY_TASK_COUNT": "2",
                "SLURM_ARRAY_TASK_MIN": "1",
                "RANK": "1",
                "WORLD_SIZE": "4",
            },
            "2/8",
        ),
    ],
)
def test_the_shard_of_a_scheduler(environ: dict[str, str], shard: str | None) -> None:
    found = shard_of(environ)
    assert (None if found is None else str(found[0])) == shard


@pytest.mark.parametrize(
    "environ",
    [
        {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1"},
        {"SLURM_ARRAY_TASK_ID": "x", "SLURM_ARRAY_TASK_COUNT": "3"},
        {"RANK": "4", "WORLD_SIZE": "4"},
        {"RANK": "", "WORLD_SIZE": "4"},
    ],
)
def test_a_scheduler_that_makes_no_sense_is_asked_for_a_shard(environ: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="--shard"):
        shard_of(environ)


def test_another_number_of_shards_goes_on_where_the_first_stopped(tmp_path: Path) -> None:
    out, rows = tmp_path / "out.jsonl", [record(i) for i in range(12)]
    # Of three shards two got halfway, one row with an error.
    shard_output(out, "1/3", [rows[0], rows[3]], failed=[3])
    shard_output(out, "2/3", [rows[1]])
    made = 0
    for shard in (Shard(1, 2), Shard(2, 2)):
        elsewhere = Elsewhere(out, shard, RUN)
        left = list(elsewhere.remaining(shard.take(rows)))
        assert len(elsewhere.files) == 2
        made += len(left)
        shard_output(out, str(shard), left, total=12)
    assert made == 10  # all but the two that have an answer
    merged = merge(out)
    assert (merged.rows, merged.errors, merged.twice, merged.missing) == (12, 0, 0, 0)
    assert set(done(out)) == {row.id for row in rows}
    assert done(out)["row 1"]["by"] == "2/3" and done(out)["row 3"]["by"] == "2/2"


def test_a_merged_output_counts_for_later_shards(tmp_path: Path) -> None:
    out, rows = tmp_path / "out.jsonl", [record(i) for i in range(4)]
    shard_output(out, "1/2", [rows[0]])
    merge(out, partial=True)
    assert [row.number for row in Elsewhere(out, Shard(1, 1), RUN).remaining(rows)] == [1, 2, 3]


def test_outputs_of_another_run_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    shard_output(out, "1/3", [record(0)])
    with pytest.raises(UsageError, match=r"00001-of-00003.*seed 0 there, 1 now"):
        Elsewhere(out, Shard(1, 2), RUN | {"seed": 1})
    shard_output(out, "2/3", [record(1)], run=RUN | {"seed": 1})
    with pytest.raises(UsageError, match="seed 0 there, 1 now"):
        merge(out)


def test_missing_rows_are_counted(tmp_path: Path) -> None:
    out, rows = tmp_path / "out.jsonl", [record(i) for i in range(5)]
    shard_output(out, "1/2", rows[::2])
    shard_output(out, "2/2", rows[1:2])
    with pytest.raises(JrtError, match="no shard has seen the whole input"):
        merge(out)
    shard_output(out, "1/2", [], total=5)
    with pytest.raises(JrtError, match="1 of 5 rows"):
        merge(out)
    assert not out.exists()
    assert merge(out, partial=True).missing == 1
    shard_output(out, "2/2", rows[3:4], total=5)
    assert merge(out).missing == 0  # it goes on from what it merged before
    assert len(done(out)) == 5


def test_an_answer_takes_the_place_of_an_error(tmp_path: Path) -> None:
    out, rows = tmp_path / "out.jsonl", [record(i) for i in range(3)]
    a = shard_output(out, "1/2", rows, failed=[0, 1], total=3)
    b = shard_output(out, "2/2", [rows[1]], total=3)
    for order in ([a, b], [b, a]):
        out.unlink(missing_ok=True)
        merged = merge(out, order)
        assert (merged.rows, merged.errors, merged.twice) == (3, 1, 0)
        assert "error" in done(out)["row 0"] and done(out)["row 1"]["answer"] == "of 1"


def test_rows_that_two_shards_answered_are_kept_once(tmp_path: Path) -> None:
    out, rows = tmp_path / "out.jsonl", [record(i) for i in range(3)]
    shard_output(out, "1/2", rows, total=3)
    shard_output(out, "1/4", rows[:2], total=3)
    assert merge(out).twice == 2
    assert len(done(out)) == 3


def test_shards_of_different_inputs_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    shard_output(out, "1/2", [record(0)], total=1)
    shard_output(out, "2/2", [record(0, question="Who?")], total=1)
    with pytest.raises(UsageError, match="different inputs"):
        merge(out)


def test_lines_that_were_no_rows_are_kept(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    broken = [BadRow("in.jsonl", line, line - 1, None, "bad_json", "wrong") for line in (1, 2)]
    again = BadRow("in.jsonl", 4, 3, "row 2", "duplicate_id", "the id stands already on line 3")
    shard_output(out, "1/2", [broken[0], record(2)], total=4)
    shard_output(out, "2/2", [broken[1], again], total=4)
    merged = merge(out)
    assert (merged.rows, merged.errors, merged.missing) == (4, 3, 0)
    assert [row["id"] for row in read_predictions(out)] == [None, "row 2", None, "row 2"]


def test_a_torn_last_line_is_a_missing_row(tmp_path: Path) -> None:
    out, rows = tmp_path / "out.jsonl", [record(i) for i in range(3)]
    path = shard_output(out, "1/1", rows, total=3)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(JrtError, match="1 of 3 rows"):
        merge(out)


def test_compressed_shards_are_merged(tmp_path: Path) -> None:
    out, rows = tmp_path / "out.jsonl.gz", [record(i) for i in range(4)]
    shard_output(out, "1/2", rows[::2], total=4)
    shard_output(out, "2/2", rows[1::2], total=4)
    merge(out)
    lines = gzip.decompress(out.read_bytes()).splitlines()
    assert sorted(json.loads(line)["id"] for line in lines) == [row.id for row in rows]


def test_a_run_goes_on_with_a_merged_output(tmp_path: Path) -> None:
    out, rows = tmp_path / "out.jsonl", [record(i) for i in range(4)]
    shard_output(out, "1/2", [rows[2], rows[0]], total=4)
    merge(out, partial=True)
    with Predictions(out, RUN) as predictions:
        assert [row.number for row in predictions.remaining(rows)] == [1, 3]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, rows = tmp_path / "out.jsonl", [record(i) for i in range(4)]
    assert main(["batch", "merge", str(out)]) == 2
    assert "no shards" in capsys.readouterr().err
    shard_output(out, "1/2", rows[::2], total=4)
    assert main(["batch", "merge", str(out)]) == 1
    assert "2 of 4 rows are in no shard" in capsys.readouterr().err
    assert main(["batch", "merge", str(out), "--partial"]) == 3
    second = shard_output(out, "2/2", rows[1::2], total=4)
    assert main(["batch", "merge", str(out), str(second)]) == 0
    said = capsys.readouterr()
    assert said.out == "" and "4 rows, from 2 files" in said.err
    assert main(["batch", "merge", str(out), str(tmp_path / "none.jsonl")]) == 2
