"""Tasks: prompts and cuts against the published ones, string for string."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from jrtcli.errors import DocumentError, UsageError
from jrtcli.tasks import TASKS, load_task
from jrtcli.tasks.cut import cut, window
from jrtcli.tasks.qa import qa_task
from jrtcli.tasks.rows import find_rows, missing, read_rows, task_rows
from jrtcli.tasks.task import ONCE, TWICE, Task
from jrtcli.tokens import load_tokenizer


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = _load("tiny_checkpoint")

PUBLISHED = {
    "fda": {
        "text": "510(k) Number: K153137\nApplicant: Northwind.\n\nApplicant:",
        "key": "applicant",
        "value": "Northwind",
    },
    "swde": {
        "text": "Solaris. Directed by A. Tarkovsky \n Summary of information above...\nDirector:",
        "key": "director",
        "value": "A. Tarkovsky",
    },
    "squad": {
        "text": "The crisis began in 1973. It ended in 1974. The crisis began in ",
        "context": "The crisis began in 1973. It ended in 1974. Question: When?",
        "question": "When did it begin?",
        "value": "1973",
    },
    "nq": {
        "context": " Atoms follow the octet rule.. ",
        "question": "Atoms follow the ",
        "orig_question": "what rule do atoms follow:",
        "answers": ["octet rule", "octet"],
    },
    "triviaqa": {
        "context": "[DOC] [TLE] Paris [PAR] Paris is a city. The city is",
        "question": " The city is",
        "orig_question": "Which city?",
        "answers": ["Paris", "City of Light"],
    },
    "drop": {
        "context": "Carolina won 16 to 9.",
        "question": "The points of Carolina were",
        "orig_question": "How many points?",
        "answers": ["16"],
    },
}

PROMPTS = {
    "fda": (
        "510(k) Number: K153137\nApplicant: Northwind. Applicant:",
        "Information about Applicant. 510(k) Number: K153137\nApplicant: Northwind.\n"
        "510(k) Number: K153137\nApplicant: Northwind. Applicant:",
    ),
    "swde": (
        "Solaris. Directed by A. Tarkovsky. Director:",
        "Information about Director. Solaris. Directed by A. Tarkovsky.\n"
        "Solaris. Directed by A. Tarkovsky. Director:",
    ),
    "squad": (
        "The crisis began in 1973. It ended in 1974. The crisis began in",
        "When did it begin? The crisis began in 1973. It ended in 1974. \n"
        "The crisis began in 1973. It ended in 1974. The crisis began in",
    ),
    "nq": (
        "Atoms follow the octet rule. Atoms follow the",
        "what rule do atoms follow Atoms follow the octet rule.\n"
        "Atoms follow the octet rule. Atoms follow the",
    ),
    "triviaqa": (
        "Paris  Paris is a city. The city is",
        "Which city? Paris  Paris is a city.\nParis  Paris is a city. The city is",
    ),
    "drop": (
        "Carolina won 16 to 9. The points of Carolina were",
        "How many points? Carolina won 16 to 9.\nCarolina won 16 to 9. The points of Carolina were",
    ),
}

QA = {"context": "Northwind made it in Oslo.", "question": "Who made it?", "answers": ["Northwind", "N."]}

every_task = pytest.mark.parametrize("name", TASKS)


@every_task
def test_contract(name: str) -> None:
    task = load_task(name)
    assert isinstance(task, Task) and task.name == name
    assert task.metric == "contains" and task.length_tokens == 1000 and task.orders == (ONCE, TWICE)
    row = task.row(PUBLISHED[name], "here")
    prompts = [task.written(row, order) for order in task.orders]
    assert [prompt.reads for prompt in prompts if prompt] == [1, 2]
    assert all(prompt and prompt.stop == ("\n",) and not prompt.text[-1].isspace() for prompt in prompts)
    assert task.written(row, "cqcq") is None
    assert task.document(row).strip() and task.question(row).strip() and task.golds(row)
    assert {task.cut_field, *task.answer_keys} <= set(task.fields)
    assert all(dataset.startswith("hazyresearch/based") for dataset in task.datasets.values())


@every_task
def test_published_prompts(name: str) -> None:
    task = load_task(name)
    row = task.row(PUBLISHED[name], "here")
    shown = tuple(prompt.text for order in (ONCE, TWICE) if (prompt := task.written(row, order)))
    assert shown == PROMPTS[name]


@every_task
def test_a_qa_row_becomes_a_row_of_the_task(name: str) -> None:
    task = load_task(name)
    row = task.row(QA, "here")
    assert task.golds(row) == ("Northwind", "N.")
    assert task.document(row).strip(" .") == "Northwind made it in Oslo"
    for order in (ONCE, TWICE):
        prompt = task.written(row, order)
        assert prompt and prompt.text.count("Northwind made it in Oslo") == (1 if order == ONCE else 2)
        assert "ho made it" in prompt.text


def test_golds() -> None:
    assert {name: load_task(name).golds(row) for name, row in PUBLISHED.items()} == {
        "fda": ("Northwind",),
        "swde": ("A. Tarkovsky",),
        "squad": ("1973",),
        "nq": ("octet rule", "octet"),
        "triviaqa": ("Paris", "City of Light"),
        "drop": ("16",),
    }
    # A gold keeps its blanks: the older scoring counts them.
    assert load_task("fda").golds({**PUBLISHED["fda"], "value": " Northwind "}) == (" Northwind ",)


def test_data_sets_by_length() -> None:
    nq = load_task("nq")
    assert nq.dataset(None) == nq.dataset(1000) == "hazyresearch/based_nq_1024"
    assert nq.dataset(512) == "hazyresearch/based_nq_512"
    assert load_task("swde").dataset(512) == "hazyresearch/based-swde-v2"
    assert "hazyresearch/based_nq_512" in missing(nq, 512) and "--data nq=FILE" in missing(nq, 512)


def test_a_row_that_is_none() -> None:
    with pytest.raises(DocumentError, match=r"f:3: no row of fda: it has neither text, key, value"):
        load_task("fda").row({"text": "x", "key": "y"}, "f:3")
    with pytest.raises(DocumentError, match="f:3: context holds no text"):
        qa_task("mine").row({"context": " ", "question": "?", "answers": ["x"]}, "f:3")
    with pytest.raises(UsageError, match="no task 'fdb'"):
        load_task("fdb")


class Words:
    """A tokenizer whose tokens are words, for cuts that can be worked by hand."""

    def encode(self, text: str, *, first: bool) -> list[int]:
        assert first
        return [int(word[1:]) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return " ".join(f"w{i:03}" for i in ids)


def text_of(count: int) -> str:
    return " ".join(f"w{i:03}" for i in range(count))


@pytest.mark.parametrize(
    "golds,first,last",
    [
        (["w050"], 40, 59),  # half of the 20 tokens before the answer
        (["w004"], 0, 19),  # no room before it
        (["w095"], 85, 99),  # none after it: the window is shorter, as published
        (["W050"], 40, 59),  # capitals do not count
        (["w080", "w050"], 40, 59),  # the first place of several keys
        (["missing", "w050"], 40, 59),
        (["missing"], 90, 99),  # nowhere: what stands before the last character counts, the tail
        ([], 0, 19),  # no keys: the beginning
    ],
)
def test_the_oracle_window(golds: list[str], first: int, last: int) -> None:
    kept = window(text_of(100), golds, Words(), 20).split()  # type: ignore[arg-type]
    assert (kept[0], kept[-1], len(kept)) == (f"w{first:03}", f"w{last:03}", last - first + 1)


def test_cut_leaves_room_for_the_answer_and_knows_its_task() -> None:
    fda, drop = load_task("fda"), load_task("drop")
    row = {"text": f"\n{text_of(100)} ", "key": "w070", "value": "w060"}
    shown = cut(fda, row, Words(), 70)  # type: ignore[arg-type]
    assert shown is not None and shown["text"] == " ".join(f"w{i:03}" for i in range(50, 70))
    whole = cut(fda, row, Words(), 1000)  # type: ignore[arg-type]
    assert whole is not None and whole["text"] == text_of(100)
    blind = cut(fda, row, Words(), 70, oracle=False)  # type: ignore[arg-type]
    assert blind is not None and blind["text"] == text_of(20)
    # DROP has no keys: it keeps the beginning, whatever the answer.
    kept = cut(drop, {"context": text_of(100), "answers": ["w060"]}, Words(), 70)  # type: ignore[arg-type]
    assert kept is not None and kept["context"] == text_of(20)
    # An answer of one character, or none, drops the row; without the oracle it stays.
    assert cut(fda, {**row, "value": "7"}, Words(), 70) is None  # type: ignore[arg-type]
    assert cut(fda, {**row, "value": ""}, Words(), 70) is None  # type: ignore[arg-type]
    assert cut(fda, {**row, "value": "7"}, Words(), 70, oracle=False) is not None  # type: ignore[arg-type]


def test_a_cut_with_a_real_tokenizer(tmp_path: Path) -> None:
    tiny.save_tokenizer(tmp_path)
    tokenizer = load_tokenizer(folder=tmp_path)
    text = " ".join(f"Date {i} prepared: March." for i in range(200))
    ids = tokenizer.encode(text, first=True)
    at = len(tokenizer.encode(text[: text.index("Date 120 ")], first=True))
    row = {"context": text, "question": "?", "answers": ["Date 120 "]}
    shown = cut(qa_task("mine"), row, tokenizer, 150)
    assert shown is not None
    assert shown["context"] == tokenizer.decode(ids[at - 50 : at + 50])
    assert "Date 120 " in shown["context"]


def write(path: Path, *rows: object) -> Path:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def test_where_rows_are_found(tmp_path: Path) -> None:
    one = write(tmp_path / "fda.jsonl.gz", QA, QA)
    (tmp_path / "nq").mkdir()
    two = write(tmp_path / "nq" / "validation.jsonl", QA)
    assert find_rows("fda", [str(tmp_path)]) == one
    assert find_rows("nq", [str(tmp_path)]) == two
    assert find_rows("drop", [str(tmp_path)]) is None
    assert find_rows("drop", [f"fda={one}"]) is None
    assert find_rows("drop", [f"drop={two}", str(one)]) == two
    assert find_rows("drop", [str(one)]) == one
    with pytest.raises(UsageError, match="there is no such file or folder"):
        find_rows("fda", [str(tmp_path / "none")])
    write(tmp_path / "nq" / "more.jsonl", QA)
    with pytest.raises(UsageError, match="2 files in"):
        find_rows("nq", [str(tmp_path)])
    assert len(task_rows(load_task("fda"), one)) == 2
    assert len(task_rows(load_task("fda"), one, limit=1)) == 1


def test_lines_that_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"context": "a"}\n\n{"context": \n')
    with pytest.raises(DocumentError, match=r"x\.jsonl:3: .*character"):
        list(read_rows(path))
    path.write_text("")
    with pytest.raises(DocumentError, match="there is no row"):
        task_rows(load_task("fda"), path)
