"""Evaluation: the grid, the items of a cell, how answers are judged, and the paper's numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from jrtcli.errors import TemplateError, UsageError
from jrtcli.evaluate.grid import Cell, cells
from jrtcli.evaluate.items import position, records, shown_rows
from jrtcli.evaluate.modes import EMPTY, IRRELEVANT, REPETITION, error_mode
from jrtcli.evaluate.page import page
from jrtcli.evaluate.paper import TABLES, printed
from jrtcli.evaluate.plan import Pace, stands, weights_bytes, work_of
from jrtcli.evaluate.results import Result, by_position, contains_v0, differences, judge
from jrtcli.evaluate.tables import csv_text, model_names, paper_rows, result_rows, values
from jrtcli.known import find
from jrtcli.records import Record
from jrtcli.tasks import load_task
from jrtcli.tasks.qa import qa_task

FDA = load_task("fda")
ROWS = [
    (
        {"id": f"r{n}", "text": f"Number: K{n}. Maker: Nord {n}.", "key": "maker", "value": f"Nord {n}"},
        f"f:{n}",
    )
    for n in range(1, 5)
]


def test_a_grid_is_every_combination_once() -> None:
    mine = qa_task("mine")
    made = cells([FDA, mine], ["a", "b"], shots=(0, 2), lengths=(512, 1000))
    assert len(made) == 2 * 2 * 2 * 2 * 2 == len(set(made)) == len({cell.stem for cell in made})
    assert [cell.model for cell in made] == ["a"] * 16 + ["b"] * 16
    assert {cell.order for cell in made if cell.task == "fda"} == {"once", "twice"}
    assert {cell.order for cell in made if cell.task == "mine"} == {"cq", "cqcq"}
    # A task's own length, and none for a file, nor without the oracle.
    assert {(c.task, c.length_tokens) for c in cells([FDA, mine], ["a"])} == {("fda", 1000), ("mine", None)}
    assert {c.length_tokens for c in cells([FDA], ["a"], oracle=False)} == {None}


def test_orders_and_readings() -> None:
    made = cells([FDA], ["a"], orders=["once", "cq", "ccq"], reads=(1, 2, 65))
    # No template is read 65 times; the published prompt has its own number.
    assert [(c.order, c.reads) for c in made] == [
        ("once", None), ("cq", 1), ("cq", 2), ("ccq", 1), ("ccq", 2),
    ]  # fmt: skip
    with pytest.raises(TemplateError, match="no order 'cqq'"):
        cells([FDA], ["a"], orders=["cqq"])
    with pytest.raises(UsageError, match="cannot be read so often"):
        cells([FDA], ["a"], orders=["ccq"], reads=(65,))


def items(order: str = "once", **changes: Any) -> list[Record]:
    return records(FDA, ROWS, Cell("fda", "m", order, **changes))


def test_items_carry_the_published_prompt_or_leave_it_to_the_template() -> None:
    first = items()[0]
    assert first.prompt is not None and first.prompt.text == "Number: K1. Maker: Nord 1. Maker:"
    assert (first.answers, first.context) == (("Nord 1",), "Number: K1. Maker: Nord 1.")
    assert first.carried["position"] == pytest.approx(19 / 26, abs=1e-6)
    assert items("cqcq")[0].prompt is None
    assert items("cqcq")[0].question == "Maker:"


def test_examples_stand_in_front_with_their_answers_and_are_of_other_documents() -> None:
    shot = items(shots=2)[3]
    assert shot.prompt is not None
    assert shot.prompt.text == (
        "Number: K1. Maker: Nord 1. Maker: Nord 1\n\n"
        "Number: K2. Maker: Nord 2. Maker: Nord 2\n\n"
        "Number: K4. Maker: Nord 4. Maker:"
    )
    own = items("cq", shots=1)[0].prompt
    assert own is not None and own.text.count("Question:") == 2 and own.reads == 1
    same = [(row | {"text": "One text."}, where) for row, where in ROWS]
    with pytest.raises(UsageError, match="needs as many rows about other documents"):
        records(FDA, same, Cell("fda", "m", "once", shots=1))


def test_ids_stay_apart_and_rows_without_gold_are_left_out() -> None:
    twins = [(row | {"id": "x"}, where) for row, where in ROWS[:2]]
    assert [item.id for item in records(FDA, twins, Cell("fda", "m", "once"))] == ["x", "x#1"]
    none = [(ROWS[0][0] | {"value": " "}, "f:1"), ROWS[1]]
    assert len(records(FDA, none, Cell("fda", "m", "once"))) == 1


class Letters:
    """One token for each character."""

    def encode(self, text: str, *, first: bool) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


def test_nq_is_cut_at_2000_where_its_data_are_cut_already() -> None:
    nq = load_task("nq")
    published = {
        "context": "x" * 3000 + "gold",
        "question": "it is",
        "orig_question": "what?",
        "answers": ["gold"],
    }
    own = nq.row({"context": "x" * 3000 + "gold", "question": "what?", "answers": ["gold"]}, "f:1")
    cell = Cell("nq", "m", "once", length_tokens=512)
    lengths = [
        len(row["context"])
        for row, _ in shown_rows(nq, [(published, "f:1"), (own, "f:2")], cell, Letters())  # type: ignore[arg-type]
    ]
    assert lengths == [975 + 4, 231 + 4]


def test_positions() -> None:
    assert position("abcdefghij", ["E"]) == 0.4
    assert position("abc", ["x", " c "]) == pytest.approx(2 / 3, abs=1e-6)
    assert position("abc", ["x"]) is None
    parts = by_position([(0.0, 1.0), (0.19, 0.0), (0.2, 1.0), (1.0, 1.0)])
    assert parts == [(0.0, 0.2, 2, 0.5), (0.2, 0.4, 1, 1.0), (0.8, 1.0, 1, 1.0)]


@pytest.mark.parametrize(
    "answer,mode",
    [
        ("", EMPTY),
        (" . ", EMPTY),
        ("the Number K1", REPETITION),
        ("maker: nord", REPETITION),
        ("umber K1", IRRELEVANT),
        ("Number Nord", IRRELEVANT),
        ("Süd", IRRELEVANT),
    ],
)
def test_the_three_modes(answer: str, mode: str) -> None:
    assert error_mode(answer, "Number: K1. Maker: Nord 1. Maker?") == mode


def test_v0_counts_the_blanks_of_a_gold() -> None:
    assert contains_v0(" Nord 1, Oslo", [" nord 1"]) == 1.0
    assert contains_v0(" Nord 1", ["Nord 1 "]) == 0.0
    assert contains_v0("K.1", ["K(1", "k.1"]) == 1.0


def answered(made: list[Record], *texts: str) -> Iterator[Mapping[str, Any]]:
    from jrtcli.metrics import score

    for item, text in zip(made, texts, strict=False):
        yield {
            "id": item.id,
            "answer": text.strip(),
            "continuation": text,
            "scores": score(text.strip(), item.answers),
            "tokens": {"prompt": 10, "read": 10, "reused": 0, "answer": 1},
            "state_bytes": 64,
            "jrt": {"row": item.key, "run": "r"},
        }


def result(*texts: str, order: str = "once", **facts: Any) -> Result:
    made = items(order)
    return judge(
        Cell("fda", "m", order, length_tokens=1000), made, answered(made, *texts), dropped=0, facts=facts
    )


def test_a_result_by_hand() -> None:
    r = result(" Nord 1 and more", " Nord 2", "", " Süd", timed_s=2.0, timed_tokens=100)
    assert (r.count, r.failed, r.tokens_read, r.tokens_per_s, r.state_bytes) == (4, 0, 40, 50.0, 64)
    assert {name: score.value for name, score in r.scores.items()} == {
        "contains": 0.5,
        "contains_v0": 0.5,
        "exact_match": 0.25,
        "f1": pytest.approx((4 / 6 + 1) / 4),
    }
    # Standard error of 1, 1, 0, 0: sqrt(1/3 / 4).
    stderr = r.scores["contains"].stderr
    assert stderr == pytest.approx((1 / 3 / 4) ** 0.5)
    assert r.modes == {EMPTY: 1, REPETITION: 0, IRRELEVANT: 1}
    assert sum(count for _, _, count, _ in r.positions) == 4


def test_only_rows_of_this_run_count_and_errors_are_told() -> None:
    made = items()
    rows = list(answered(made, "Nord 1", "Nord 2"))
    rows.append({"id": "r3", "error": {"kind": "x"}, "jrt": {"row": made[2].key, "run": "r"}})
    rows.append({**rows[0], "jrt": {"row": "00", "run": "r"}})
    r = judge(Cell("fda", "m", "once"), made, rows, dropped=3, facts={})
    assert (r.count, r.failed, r.dropped, r.tokens_per_s) == (2, 1, 3, None)


def test_differences_are_paired_and_pooled() -> None:
    once = result("Nord 1", "x", "x", "x")
    twice = result("x", "Nord 2", "Nord 3", "Nord 4", order="twice")
    (one,) = differences([once, twice], "v1")
    assert (one.first, one.second, one.count) == ("once", "twice", 4)
    assert one.difference.value == 0.5 and (one.difference.better, one.difference.worse) == (3, 1)
    assert one.difference.low <= 0.5 <= one.difference.high
    other = [replace(r, cell=replace(r.cell, task="swde")) for r in (once, twice)]
    made = differences([once, twice, *other], "v1")
    assert [each.task for each in made] == ["fda", "swde", "all"]
    assert made[-1].count == 8 and made[-1].difference.better == 6


class Resources(HTMLParser):
    """What a page would load from elsewhere, and its unclosed tags."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "img", "iframe"):
            self.found.append(tag)
        self.found += [f"{name}={value}" for name, value in attrs if name in ("src", "href", "onload")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_nothing_from_elsewhere_and_escapes() -> None:
    once = result("Nord 1", "x", "x", "", timed_s=2.0, timed_tokens=100)
    evil = replace(once, cell=replace(once.cell, order="twice", model="x<script>alert(1)"))
    both = [once, evil, replace(once, cell=replace(once.cell, order="twice"))]
    html = page(
        both, differences(both, "v1"), scoring="v1", command="jrt eval <b>", date="2000-01-01", machine="one"
    )
    parser = Resources()
    parser.feed(html)
    assert parser.found == []
    assert html.count("<svg") == html.count("</svg>") >= 4
    assert "oracle window" in parser.text and "25.0% ± 25.0%" in parser.text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", html)


def test_models_of_one_folder_name_stay_apart() -> None:
    assert model_names(["a/m", "b/m", "c/n", "tiny"]) == {
        "a/m": "a/m",
        "b/m": "b/m",
        "c/n": "n",
        "tiny": "tiny",
    }
    one = result("Nord 1", "x", "x", "x")
    both = [replace(one, cell=replace(one.cell, model=model)) for model in ("a/m", "b/m")]
    assert [row[1] for row in result_rows(both, "v1")] == ["a/m", "b/m"]
    html = page(both, [], scoring="v1", command="", date="", machine="")
    assert "a/m: recall by task" in html and "b/m: recall by task" in html


def test_tables_and_plain_values() -> None:
    r = result("Nord 1", "x", "x", "")
    (row,) = result_rows([r], "v1")
    assert row[:6] == ["fda", "m", "once", "1,000", "4", "25.0% ± 25.0%"]
    plain = values([r], [], "v1")["cells"][0]
    assert plain["scores"]["contains"]["value"] == 0.25 and plain["oracle"] is True
    lines = csv_text([r], "v0").splitlines()
    assert len(lines) == 2 and len(lines[0].split(",")) == len(lines[1].split(","))


@pytest.mark.parametrize(
    "table,count,model,task,reading,length,percent",
    [
        ("table1", 192, "mamba-1.4b", "squad", "twice", 1000, 59.6),
        ("table1", 192, "attn-1b", "fda", "once", 1000, 74.4),
        ("table1", 192, "mamba2-2.7b", "drop", "twice", 1000, 42.5),
        ("table2", 99, "based-360m-30b", "nq", "once", 1024, 14.7),
        ("table2", 99, "jrt-360m-30b", "fda", "once", 512, 82.0),
        ("table2", 99, "jrt-1b-50b", "drop", "once fill pad", 2048, 29.3),
        ("table4", 18, "jrt-1b-50b", "swde", "once fill iterate", 512, 43.3),
        ("table4", 18, "jrt-360m-30b", "nq", "once fill pad", 512, 24.6),
        ("table14", 36, "mamba-370m", "squad", "once 2 shots", 1000, 36.0),
        ("table14", 36, "mamba-2.8b", "swde", "twice", 1000, 48.9),
    ],
)
def test_printed_numbers(
    table: str, count: int, model: str, task: str, reading: str, length: int, percent: float
) -> None:
    numbers = printed(table)
    assert len(numbers) == count
    (found,) = [
        number.percent
        for number in numbers
        if (number.model, number.cell.task, number.cell.reading) == (model, task, reading)
        and number.cell.length_tokens == length
    ]
    assert found == percent


@pytest.mark.parametrize("table", TABLES)
def test_every_row_is_a_known_checkpoint_of_that_table(table: str) -> None:
    models = {number.model for number in printed(table)}
    assert all((entry := find(model)) is not None and entry.paper_tables for model in models)
    with pytest.raises(UsageError, match="no --paper"):
        printed(table + "0")


def test_printed_averages() -> None:
    """Against the averages that the paper prints beside the cells."""

    def mean(table: str, model: str, **wanted: Any) -> float:
        found = [
            n.percent
            for n in printed(table)
            if n.model == model and all(getattr(n.cell, k) == v for k, v in wanted.items())
        ]
        return round(sum(found) / len(found), 1)

    once = {"mamba-130m": 24.7, "mamba2-2.7b": 48.9, "based-1b-50b": 40.3, "gla-2.7b-100b": 39.2}
    twice = {"mamba-130m": 36.5, "mamba2-2.7b": 58.8, "based-1b-50b": 51.8, "gla-2.7b-100b": 50.0}
    for model, average in once.items():
        assert mean("table1", model, order="once") == pytest.approx(average, abs=0.101)
        assert mean("table1", model, order="twice") == pytest.approx(twice[model], abs=0.101)
    for model, average in {"attn-360m-30b": 43.4, "jrt-360m-30b": 42.9, "mamba-1b-50b": 36.8}.items():
        assert mean("table2", model) == pytest.approx(average, abs=0.101)


def test_which_checkpoint_stands_for_a_row(tmp_path: Any) -> None:
    numbers = printed("table14")
    folder = tmp_path / "mamba-370m"
    folder.mkdir()
    (row,) = stands(numbers, [str(folder)])
    assert (row.model, row.source, row.size_bytes) == ("mamba-370m", str(folder), 0)
    (row,) = stands(numbers, [f"mamba-2.8b={folder}"])
    assert (row.model, row.source) == ("mamba-2.8b", str(folder))
    with pytest.raises(UsageError, match="no row of this table"):
        stands(numbers, [str(tmp_path)])
    assert [row.model for row in stands(numbers, [])] == [
        "mamba-130m",
        "mamba-370m",
        "mamba-1.4b",
        "mamba-2.8b",
    ]


def test_the_estimate(tmp_path: Path) -> None:
    cell = Cell("fda", "m", "twice", length_tokens=1000)
    long = [({"text": "x" * 8000, "key": "maker", "value": "y"}, "f:1")] * 10
    work = work_of(cell, FDA, long)
    assert (work.read_tokens, work.rows) == (10 * 2 * 950, 10)
    assert work_of(replace(cell, order="once", length_tokens=None), FDA, long).read_tokens == 10 * 2000
    assert work_of(replace(cell, order="once", shots=2), FDA, long).read_tokens == 3 * 9500
    assert work_of(replace(cell, fill="iterate"), FDA, long).read_tokens == 48 * 19000
    assert work.seconds(Pace(1000.0, 48.0), 2.0) == pytest.approx(2 * (19 + 10))
    (tmp_path / "model.safetensors").write_bytes(b"1234")
    (tmp_path / "config.json").write_bytes(b"{}")
    assert weights_bytes(tmp_path) == 4


def test_paper_rows_say_what_was_not_run() -> None:
    from jrtcli.commands.eval_paper import Number

    number = printed("table1")[0]
    ran = replace(result("Nord 1", "x", "x", "x"), cell=replace(number.cell, model="here"))
    lines = [Number(number, ran.cell).line([ran], "v1"), Number(number, None).line([ran], "v1")]
    assert [row[4:] for row in paper_rows(lines)] == [["4", "74.4", "25.0", "-49.4"], ["–", "74.4", "–", "–"]]
