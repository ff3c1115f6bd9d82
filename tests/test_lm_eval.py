"""lm-evaluation-harness with jrt as its model: the harness's numbers are jrt's own on the same rows."""

from __future__ import annotations

import importlib.metadata
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

import jrtcli
from jrtcli.cli import main
from jrtcli.metrics import score
from jrtcli.predictions import read_predictions
from jrtcli.reader import Reader
from jrtcli.tasks import TASKS, load_task
from jrtcli.tasks.rows import task_rows

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra lm-eval)")

ROWS = [
    {
        "context": f"{name} keeps the lamp of {place}. The lamp is {colour} and burns {oil}.",
        "question": question,
        "answers": [answer],
    }
    for name, place, colour, oil in [
        ("Maria", "Dover", "red", "whale oil"),
        ("Jonas", "Calais", "green", "gas"),
    ]
    for question, answer in [("Who keeps the lamp?", name), ("What colour is the lamp?", colour)]
]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def _manager(root: Path, rows: Path) -> Any:
    from lm_eval.tasks import TaskManager

    metadata = {"data": str(rows), "pretrained": "tiny-causal"}
    return TaskManager(
        include_path=str(root / "examples" / "lm_eval"), include_defaults=False, metadata=metadata
    )


def _evaluate(root: Path, rows: Path, tasks: list[str], model: str = "tiny-causal") -> dict[str, Any]:
    from lm_eval import simple_evaluate

    from jrtcli.lm_eval_model import JrtModel

    found = simple_evaluate(
        model=JrtModel(model, device="cpu", batch_size="auto"),
        tasks=tasks,
        task_manager=_manager(root, rows),
        bootstrap_iters=0,
        verbosity="ERROR",
    )
    assert found is not None
    return dict(found)


def test_the_harness_finds_the_model_by_its_name(root: Path) -> None:
    from lm_eval.api.registry import get_model

    import jrtcli.lm_eval_model

    jrtcli.lm_eval_model.register()
    jrtcli.lm_eval_model.register()  # a second time changes nothing
    assert get_model("jrt") is jrtcli.lm_eval_model.JrtModel
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    declared = project["entry-points"]["lm_eval.models"]["jrt"]
    entry = importlib.metadata.EntryPoint("jrt", declared, "lm_eval.models")
    assert entry.load() is jrtcli.lm_eval_model.JrtModel


def test_the_harness_and_jrt_give_the_same_numbers(root: Path, rows: Path) -> None:
    loaded = jrtcli.load("tiny-causal", device="cpu")
    found = _evaluate(root, rows, ["based_fda_twice", "based_drop"])
    for name, task_name, order in [("based_fda_twice", "fda", "twice"), ("based_drop", "drop", "once")]:
        task = load_task(task_name)
        samples = found["samples"][name]
        assert len(samples) == len(ROWS)
        every = []
        for sample, (row, _) in zip(samples, task_rows(task, rows), strict=True):
            prompt = task.written(row, order)
            assert prompt is not None and sample["arguments"][0][0] == prompt.text
            reader = Reader(loaded, template="cq")
            asking = reader.start(reader.prepare(row["context"], row["question"], prompt=prompt))
            for _ in asking:
                pass
            assert sample["resps"][0][0] == asking.answer.continuation
            every.append(score(asking.answer.continuation, task.golds(row)))
            assert {key: sample[key] for key in every[-1]} == every[-1]
        for metric in ("contains", "exact_match", "f1"):
            mean = sum(values[metric] for values in every) / len(every)
            assert found["results"][name][f"{metric},none"] == pytest.approx(mean)


@pytest.mark.parametrize("model", ["tiny", "tiny-causal"])
def test_jrt_eval_gives_the_numbers_of_the_harness(
    root: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    tasks = ["fda", "squad", "drop"]
    harness = _evaluate(root, rows, [f"based_{name}{end}" for name in tasks for end in ("", "_twice")], model)
    capsys.readouterr()
    out = tmp_path / "out"
    asked = [*tasks, "--data", str(rows), "-m", model, "--device", "cpu", "-o", str(out), "--json", "-q"]
    assert main(["eval", *asked]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert len(cells) == 2 * len(tasks)
    right = 0
    for cell in cells:
        name = f"based_{cell['task']}{'_twice' if cell['order'] == 'twice' else ''}"
        (path,) = (out / "samples").glob(f"{cell['task']}-{model}-{cell['order']}-*.jsonl")
        ours, theirs = list(read_predictions(path)), harness["samples"][name]
        assert len(ours) == len(theirs) == len(ROWS) == cell["rows"]
        for row, sample in zip(ours, theirs, strict=True):
            assert row["continuation"] == sample["resps"][0][0]
            for metric in ("contains", "exact_match", "f1"):
                assert row["scores"][metric] == sample[metric]
        for metric in ("contains", "exact_match", "f1"):
            assert harness["results"][name][f"{metric},none"] == pytest.approx(
                cell["scores"][metric]["value"]
            )
        right += sum(row["scores"]["contains"] for row in ours)
    # Else nothing was compared but failures.
    assert model == "tiny-causal" or right > 0


def test_every_task_has_both_forms_and_their_prompts(root: Path, rows: Path) -> None:
    manager = _manager(root, rows)
    for name in TASKS:
        for order, ending in (("once", ""), ("twice", "_twice")):
            task = manager.load([f"based_{name}{ending}"])["tasks"][f"based_{name}{ending}"]
            recall = load_task(name)
            expected = [recall.written(row, order).text for row, _ in task_rows(recall, rows)]
            assert [task.doc_to_text(doc) for doc in task.eval_docs] == expected


def test_arguments_that_the_model_does_not_have_are_named() -> None:
    from jrtcli.errors import UsageError
    from jrtcli.lm_eval_model import JrtModel

    with pytest.raises(UsageError, match="no temprature"):
        JrtModel.create_from_arg_string("pretrained=tiny-causal,temprature=1")


def test_log_likelihood_requests(root: Path) -> None:
    from lm_eval.api.instance import Instance

    from jrtcli.lm_eval_model import JrtModel

    model = JrtModel.create_from_arg_string("pretrained=tiny-causal", {"batch_size": 2, "device": "cpu"})
    texts = [("the lamp", " is red"), ("the lamp", " is green"), ("a tower", " stands")]
    asked = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(texts)]
    assert model.loglikelihood(asked) == model.completion.log_likelihoods(texts)
    whole = [Instance("loglikelihood_rolling", {}, ("the lamp is red",), 0)]
    assert model.loglikelihood_rolling(whole, disable_tqdm=True) == [
        model.completion.rolling("the lamp is red")
    ]
