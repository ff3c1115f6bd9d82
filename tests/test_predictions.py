"""The output file: killed anywhere, the same command finishes exactly what is missing."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import signal
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from jrtcli import appended
from jrtcli.errors import JrtError, UsageError
from jrtcli.manifest import manifest_path, read_manifest, run_hash
from jrtcli.predictions import Predictions, dumps, read_predictions
from jrtcli.records import BadRow, Record, RecordReader

RUN = {"weights": "aa", "template": "cqcq", "seed": 0}
NAMES = ["out.jsonl", "out.jsonl.gz", "out.jsonl.zst"]
every_form = pytest.mark.parametrize("name", NAMES)


def inputs(count: int = 12, **changed: Any) -> list[dict[str, Any]]:
    rows = [{"id": f"r{n}", "context": f"text {n}\u2028\x85", "question": "q?"} for n in range(count)]
    return [{**row, **changed.get(str(row["id"]), {})} for row in rows]


def records(rows: list[Any]) -> RecordReader:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    return RecordReader("-", stdin=io.BytesIO("\n".join(lines).encode()))


def answers(
    rows: Iterator[Record | BadRow],
    run: dict[str, Any] = RUN,
    failing: set[str] = frozenset(),  # type: ignore[assignment]
) -> Iterator[dict[str, Any]]:
    """What an engine would say."""
    for row in rows:
        signed = {"row": row.key, "run": run_hash(run)}
        if isinstance(row, BadRow) or row.id in failing:
            yield {"id": row.id, "error": {"kind": "k", "message": "m"}, "jrt": signed}
        else:
            yield {"id": row.id, "answer": f"to {row.context} {row.question}", "jrt": signed}


def fill(path: Path, rows: list[Any], run: dict[str, Any] = RUN, **options: Any) -> Predictions:
    failing = options.pop("failing", set())
    with Predictions(path, run) as out:
        for row in answers(out.remaining(records(rows)), run, failing):
            out.write(row)
        out.finish(**options)
    return out


def content(path: Path) -> bytes:
    """By the programs' own rules: gzip and zstd would refuse a file that does not end as it should."""
    raw = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(raw)
    if path.suffix == ".zst":
        with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as stream:
            return stream.read()
    return raw


def ids(path: Path) -> list[Any]:
    return [json.loads(line)["id"] for line in content(path).decode().split("\n")[:-1]]


@every_form
def test_rows_are_there_when_they_are_written(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with Predictions(path, RUN) as out:
        for number, row in enumerate(answers(out.remaining(records(inputs()))), start=1):
            out.write(row)
            assert [r["id"] for r in read_predictions(path)] == [f"r{n}" for n in range(number)]
        out.finish()
    assert len(ids(path)) == 12
    assert next(read_predictions(path))["answer"] == "to text 0\u2028\x85 q?"
    again = fill(path, inputs())
    assert (again.kept, again.skipped, again.retried) == (12, 12, 0)
    assert len(ids(path)) == 12


@every_form
def test_cut_anywhere_it_is_finished(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    rows = inputs(5)
    whole = tmp_path / "whole" / name
    whole.parent.mkdir()
    fill(whole, rows)
    raw, expected = whole.read_bytes(), content(whole)
    path = tmp_path / name
    kept = set()
    for size in range(len(raw)):
        path.write_bytes(raw[:size])
        out = fill(path, rows)
        assert content(path) == expected, size
        kept.add(out.kept)
    assert kept == {0, 1, 2, 3, 4, 5}


@every_form
def test_errors_are_tried_again_and_superseded(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    rows = [*inputs(4), "{broken", "[]"]
    fill(path, rows, failing={"r1", "r2"})
    assert ids(path) == ["r0", "r1", "r2", "r3", None, None]
    with Predictions(path, RUN) as out:
        assert (out.kept, out.retried) == (2, 4)
        # Until they have been tried again they are missing, not wrong.
        assert [row["id"] for row in read_predictions(path)] == ["r0", "r3"]
    out = fill(path, [*rows[:4], {**inputs(5)[4]}, "[]"], failing={"r2"})
    assert ids(path) == ["r0", "r3", "r1", "r2", "r4", None]
    assert [row["id"] for row in read_predictions(path) if "error" in row] == ["r2", None]


@every_form
def test_a_changed_row_is_answered_again(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    fill(path, inputs(4))
    changed = inputs(4, r1={"question": "another?"})
    fill(path, changed)
    assert ids(path) == ["r0", "r2", "r3", "r1"]
    assert [row["answer"] for row in read_predictions(path)][-1].endswith("another?")
    # Fails after the change: the old answer is none of it.
    fill(path, inputs(4), failing={"r1"})
    assert [row["id"] for row in read_predictions(path) if "error" not in row] == ["r0", "r2", "r3"]
    # Killed before the old answer was taken out: the newer one counts.
    other = tmp_path / f"other-{name}"
    with Predictions(other, RUN) as out:
        for run in (inputs(2), inputs(2, r0={"question": "new?"})):
            for row in answers(out.remaining(records(run))):
                out.write(row)
    assert ids(other) == ["r0", "r1", "r0"]
    fill(other, inputs(2, r0={"question": "new?"}))
    assert ids(other) == ["r1", "r0"]


def test_rows_that_left_the_input_stay(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    fill(path, inputs(4))
    out = fill(path, inputs(2))
    assert out.skipped == 2 and ids(path) == ["r0", "r1", "r2", "r3"]
    fill(path, [inputs(4)[3], inputs(4)[0]], ordered=True)
    assert ids(path) == ["r3", "r0", "r1", "r2"]


@every_form
def test_the_order_of_the_input(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    rows = [*inputs(6)[:3], "{broken", *inputs(6)[3:]]
    with Predictions(path, RUN) as out:
        done = list(answers(out.remaining(records(rows)), failing={"r4"}))
        for row in random.Random(1).sample(done, len(done)):
            out.write(row)
        out.finish(ordered=True)
    assert ids(path) == ["r0", "r1", "r2", None, "r3", "r4", "r5"]
    with Predictions(path, RUN) as out:
        list(out.remaining(records(inputs(3))))
    assert ids(path) == ["r0", "r1", "r2", "r3", "r5"]
    fill(path, rows, ordered=True)
    assert ids(path) == ["r0", "r1", "r2", None, "r3", "r4", "r5"]


def test_what_is_in_order_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.jsonl"
    fill(path, inputs())
    monkeypatch.setattr(appended.AppendedFile, "replace", lambda *_: pytest.fail("written again"))
    fill(path, inputs(), ordered=True)


def test_another_configuration_is_refused_with_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    fill(path, inputs(3))
    before = path.read_bytes()
    other = {**RUN, "template": "ccq", "seed": 7}
    with pytest.raises(UsageError, match="template cqcq there, ccq now; seed 0 there, 7 now"):
        Predictions(path, other)
    assert path.read_bytes() == before and read_manifest(path)["run"] == RUN  # type: ignore[index]
    manifest_path(path).unlink()
    with pytest.raises(UsageError, match=r"out\.jsonl\.run\.json beside it nothing says which"):
        Predictions(path, other)
    with Predictions(path, RUN) as out:
        assert out.kept == 3
    assert read_manifest(path)["run"] == RUN  # type: ignore[index]
    # Without answers there is nothing to mix.
    path.write_bytes(b"")
    fill(path, inputs(3), other)
    assert read_manifest(path)["run"] == other  # type: ignore[index]


@pytest.mark.parametrize(
    "raw",
    [
        b'{"id": 1}\n',
        b"hello\nworld\n",
        b'{"jrt": 3}\n',
        b'{"jrt": {"run": 1, "row": 2}}\nx\n',
        b"[]\n",
        b"\xff\n",
    ],
)
def test_what_is_no_output_is_left_alone(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(raw)
    with pytest.raises(UsageError, match="line 1 was not written by jrt batch"):
        Predictions(path, RUN)
    assert path.read_bytes() == raw and not manifest_path(path).exists()


def test_a_name_and_a_content_that_do_not_fit(tmp_path: Path) -> None:
    fill(tmp_path / "out.jsonl.gz", inputs(2))
    (tmp_path / "out.jsonl").write_bytes((tmp_path / "out.jsonl.gz").read_bytes())
    with pytest.raises(UsageError, match="is a gzip file"):
        Predictions(tmp_path / "out.jsonl", RUN)
    (tmp_path / "b.gz").write_text("{}\n{}\n")
    with pytest.raises(UsageError, match="is not compressed"):
        Predictions(tmp_path / "b.gz", RUN)


def test_one_run_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Predictions(path, RUN) as out:
        (row, *_) = answers(out.remaining(records(inputs(2))))
        with pytest.raises(UsageError, match="another process is writing it"):
            Predictions(path, RUN)
        out.write({**row, "error": {}})
    with Predictions(path, RUN) as out:  # the file was replaced: the new one is locked too
        assert out.retried == 1
        with pytest.raises(UsageError, match="another process is writing it"):
            Predictions(path, RUN)
    fill(path, inputs(2))


def test_behind_a_link_and_with_its_permissions(tmp_path: Path) -> None:
    real = tmp_path / "real" / "out.jsonl"
    real.parent.mkdir()
    link = tmp_path / "link.jsonl"
    link.symlink_to(real)
    fill(link, inputs(3), failing={"r1"})
    real.chmod(0o640)
    fill(link, inputs(3))
    assert link.is_symlink() and real.stat().st_mode & 0o777 == 0o640 and len(ids(real)) == 3
    assert sorted(p.name for p in real.parent.iterdir()) == ["out.jsonl", "out.jsonl.run.json"]


@pytest.mark.parametrize("name", ["no/out.jsonl", "folder"])
def test_where_nothing_can_be_written(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(JrtError, match=r"cannot be written|is no regular file"):
        Predictions(tmp_path / name, RUN)


@every_form
def test_a_full_disk_leaves_whole_lines(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / name
    out = Predictions(path, RUN)
    first, second, _ = answers(out.remaining(records(inputs(3))))
    out.write(first)
    write = os.write

    def full(descriptor: int, data: Any) -> int:
        if len(data) > 1:
            return write(descriptor, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(JrtError, match=f"{name}: cannot be written: No space left on device"):
            out.write(second)
    assert [row["id"] for row in read_predictions(path)] == ["r0"]
    out._file.give_up()
    fill(path, inputs(3))
    assert ids(path) == ["r0", "r1", "r2"]


def test_interrupted_while_it_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.jsonl"
    fill(path, inputs(4), failing={"r2"})
    before = path.read_bytes()
    for name in ("replace", "fsync", "chmod"):

        def stop(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(os, name, stop)
            with pytest.raises(KeyboardInterrupt):
                Predictions(path, RUN)
        assert path.read_bytes() == before
        assert sorted(p.name for p in tmp_path.iterdir()) == ["out.jsonl", "out.jsonl.run.json"]
    # What a kill left behind is cleared away by the next run.
    (tmp_path / ".out.jsonl.abc.tmp").write_text("x")
    fill(path, inputs(4))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "text", ["\x1b]0;t\x07", "\u202e\x9b2J", "\ud800", "a\u2028b\x85\n", "\U0001f600", "\\u0041"]
)
def test_a_line_reads_back_and_is_one_line(text: str) -> None:
    line = dumps({"t": text, text: 1.5})
    assert json.loads(line) == {"t": text, text: 1.5} and line.endswith("\n")
    assert len(line.splitlines()) == 1 and "\x1b" not in line and "\u202e" not in line
    line.encode()
    assert json.loads(dumps({"t": text}, ascii_only=True)) == {"t": text}


def test_a_number_that_is_none_is_never_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps({"x": float("nan")})


class _Killing:
    """Ends this process with SIGKILL in the middle of one of its calls on files, drawn by a seed."""

    def __init__(self, draw: random.Random) -> None:
        self.left = draw.randrange(1, 60)
        self.draw = draw

    def now(self) -> bool:
        self.left -= 1
        return self.left == 0

    def kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        write = os.write

        def killed_in_write(descriptor: int, data: Any) -> int:
            if self.now():
                write(descriptor, data[: self.draw.randrange(len(data) + 1)])
                self.kill()
            return write(descriptor, data)

        os.write = killed_in_write
        for name in ("replace", "fsync", "truncate", "open", "chmod"):
            real = getattr(os, name)

            def killed(*arguments: Any, real: Any = real, **named: Any) -> Any:
                before = self.draw.random() < 0.5
                if before and self.now():
                    self.kill()
                result = real(*arguments, **named)
                if not before and self.now():
                    self.kill()
                return result

            setattr(os, name, killed)


@every_form
def test_killed_at_fifty_random_moments(name: str, tmp_path: Path) -> None:
    """The file alone, without a model: kills in the middle of writes, renames, cuts and locks."""
    path = tmp_path / name
    rows: list[Any] = inputs(120)
    rows[40:40] = ["{broken", "[1]"]
    failing = {"r7", "r90"}
    kills = 0
    for attempt in range(1000):
        child = os.fork()
        if not child:
            try:
                if attempt < 50:
                    _Killing(random.Random(attempt)).install()
                fill(path, rows, failing=failing if attempt < 50 else {"r90"}, ordered=True)
                os._exit(0)
            except BaseException:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        kills += os.WIFSIGNALED(status)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, attempt
        if attempt >= 50:
            break
        if os.WIFEXITED(status):
            path.unlink()  # all is done: begin anew, so that the next kill finds work
    assert kills >= 30
    undisturbed = tmp_path / f"undisturbed-{name}"
    fill(undisturbed, rows, failing={"r90"}, ordered=True)
    assert content(path) == content(undisturbed) and len(ids(path)) == 122
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []
    assert zlib.crc32(content(path)) == zlib.crc32(content(undisturbed))
