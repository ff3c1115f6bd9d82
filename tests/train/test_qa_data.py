"""Question rows: read, grouped, cut, and shown in the form of any template; the mixture of sources."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import random
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from jrt_prompts import list_templates, load_template
from jrtcli.errors import JrtError, UsageError
from jrtcli.tokens import encode_prompt, load_tokenizer
from jrtcli.train import sources
from jrtcli.train.config import from_dict
from jrtcli.train.data import Batch, DataConfig
from jrtcli.train.loss import answer_masks
from jrtcli.train.parts import data_configs
from jrtcli.train.qa_data import QAConfig, qa_batch, qa_examples, qa_row
from jrtcli.train.qa_store import Group, index_rows, open_store, read_group, side
from jrtcli.train.sources import Stage, prepare


def _beside(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


tiny_models = _beside("tiny_models")
GROUP = Group(
    "g",
    "The lamp is red. The boat is old. The keeper is Ann.",
    (("what is the lamp?", ("red",)), ("what is the boat?", ("old",)), ("who keeps it?", ("Ann",))),
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def rows(path: Path, contexts: int = 40, **more: Any) -> Path:
    with path.open("w") as file:
        for i in range(contexts):
            for what, answer in (("lamp", f"red{i}"), ("boat", f"old{i}")):
                context = f"The lamp is red{i}. The boat is old{i}."
                row = {
                    "text": "a text",
                    "context": context,
                    "question": f"what is the {what}?",
                    "answers": [answer],
                    **more,
                }
                file.write(json.dumps(row) + "\n")
    return path


def config(tokenizer: Path, folder: str = "", **changes: Any) -> QAConfig:
    documents = {"document_tokens": 64, "tokens_per_step": 600, "shorter": 0.0}
    documents |= {k: changes.pop(k) for k in list(changes) if k not in ("templates", "reads")}
    base = {"templates": ("qcq",), "reads": 0} | changes
    return QAConfig(folder, str(tokenizer), DataConfig(**documents), **base)


@pytest.mark.parametrize("reads", [0, 3])
@pytest.mark.parametrize("name", list_templates())
def test_one_question_is_what_ask_reads(name: str, reads: int, tokenizer: Path) -> None:
    template = load_template(name)
    given = config(tokenizer, templates=(name,), reads=reads)
    alone = GROUP._replace(pairs=GROUP.pairs[:1])
    row = qa_row(given, random.Random(0), alone, template, 200, 0.0)
    assert row is not None
    ours = load_tokenizer(tokenizer)
    prompt = encode_prompt(template.render(GROUP.context, "what is the lamp?", reads=reads or None), ours)
    answer = ours.encode(" red", first=False)
    end = ours.encode("\n", first=False)
    assert row.tokens.tolist() == [*prompt.ids, *answer, *end]
    assert row.encoder_length == prompt.head_tokens
    assert row.weights.tolist() == [0.0] * len(prompt.ids) + [3.0] + [1.0] * len(answer)


def test_several_questions_by_hand(tokenizer: Path) -> None:
    template = load_template("cqcq")
    given = config(tokenizer, one=0.0, two=1.0, many=0.0)
    row = qa_row(given, random.Random(4), GROUP, template, 200, 0.0)
    assert row is not None
    text = Tokenizer.from_file(str(tokenizer)).decode(row.tokens.tolist())
    head, _, tail = text.rpartition(GROUP.context)
    first, _, listed = head.partition(GROUP.context)
    assert first == "" and listed.startswith("\n\nQuestion: ") and listed.endswith("\n\n")
    questions = [line.removeprefix("Question: ") for line in listed.strip().split("\n")]
    asked = [line.removeprefix("Question: ") for line in tail.split("\n") if line.startswith("Question")]
    assert sorted(questions) == sorted(asked) and len(asked) == 2
    answers = {question: found[0] for question, found in GROUP.pairs}
    assert tail == "\n\n" + "".join(f"Question: {q}\nAnswer: {answers[q]}\n" for q in asked)
    weights = torch.from_numpy(row.weights)[None]
    said, begun = answer_masks(weights)
    decode = Tokenizer.from_file(str(tokenizer)).decode
    assert decode(row.tokens[said[0].numpy()].tolist()) == "".join(f" {answers[q]}\n" for q in asked)
    assert int(begun.sum()) == 2
    # Of the last reading: values of listed questions have tag 1, the third one 0.
    tagged = {value: decode(row.tokens[row.tags == value].tolist()) for value in (0, 1)}
    (left,) = set(answers) - set(asked)
    assert tagged[0].strip() == answers[left]
    assert all(answers[q] in tagged[1] for q in asked)
    assert (row.tags[: len(row.tokens) - len(row.tags)] == -1).all()


def test_long_answers_carry_loss_up_to_the_cap(tokenizer: Path) -> None:
    group = GROUP._replace(pairs=(("what?", ("The boat is old. The keeper",)),))
    row = qa_row(config(tokenizer, answer_tokens=2), random.Random(0), group, load_template("cq"), 99, 0.0)
    assert row is not None and row.weights.sum() == 4.0 and row.weights[-1] == 0.0


def test_a_long_context_is_cut_around_an_answer(tokenizer: Path) -> None:
    filler = "It rains on the harbour. " * 40
    pairs = (("what?", ("red",)), ("why?", ("told nowhere",)))
    group = Group("g", filler + "The lamp is red." + filler, pairs)
    lengths = set()
    for seed in range(20):
        row = qa_row(config(tokenizer), random.Random(seed), group, load_template("cq"), 50, 0.0)
        assert row is not None
        text = load_tokenizer(tokenizer).decode(row.tokens.tolist())
        context, _, tail = text.partition("\n\n")
        assert "red" in context and tail == "Question: what?\nAnswer: red\n"
        assert row.encoder_length <= 56
        lengths.add(context.index("red"))
    assert len(lengths) > 5  # the answer does not stand at one place
    short = group._replace(context="It rains.", pairs=pairs[1:])
    assert qa_row(config(tokenizer), random.Random(0), short, load_template("cq"), 50, 0.0) is not None


def test_rows_are_grouped_and_one_context_in_ten_held_out(tmp_path: Path) -> None:
    file = rows(tmp_path / "rows.jsonl")
    folder = str(index_rows([str(file)], tmp_path / "cache"))
    kept, held = side(folder, False).tolist(), side(folder, True).tolist()
    assert sorted(kept + held) == list(range(40)) and 1 <= len(held) <= 10
    for number in (0, 17, 39):
        group = read_group(folder, number)
        assert group.context == f"The lamp is red{number}. The boat is old{number}."
        assert [answers for _, answers in group.pairs] == [(f"red{number}",), (f"old{number}",)]
    assert open_store(folder).rows.parent == Path(folder)
    assert str(index_rows([str(file)], tmp_path / "cache")) == folder


def test_contexts_of_one_title_stay_together(tmp_path: Path) -> None:
    folder = str(index_rows([str(rows(tmp_path / "a.jsonl", title="one article"))], tmp_path / "cache"))
    assert 0 in (len(side(folder, True)), len(side(folder, False)) % 40)


@pytest.mark.parametrize(
    "line",
    ["{}", "no json", '{"context": "c", "question": "q", "answers": []}'.replace("[]", "[3]"), '["list"]']
    + ['{"context": "", "question": "q", "answers": ["a"]}'],
)
def test_a_wrong_row_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"context": "c", "question": "q", "answer": "a"}\n' + line + "\n")
    with pytest.raises(JrtError, match=r"rows\.jsonl, line 2"):
        index_rows([str(file)], tmp_path / "cache")


def test_a_batch_depends_on_seed_and_step_only(tmp_path: Path, tokenizer: Path) -> None:
    folder = str(index_rows([str(rows(tmp_path / "rows.jsonl"))], tmp_path / "cache"))
    given = config(tokenizer, folder, templates=("cq", "cqcq"))
    one, again, other = qa_batch(given, 5), qa_batch(given, 5), qa_batch(given, 6)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert one.tokens.shape != other.tokens.shape or not torch.equal(one.tokens, other.tokens)
    held = {read_group(folder, n).context for n in side(folder, True)}
    for step in range(20):
        made = qa_batch(given, step)
        assert 300 < made.tokens.numel() < 800 and (made.weights[made.tokens == 0] == 0).all()
        for tokens, length in zip(made.tokens, made.encoder_lengths.tolist(), strict=True):
            text = load_tokenizer(tokenizer).decode(tokens[:length].tolist())
            assert not any(context in text for context in held)
    asked = list(qa_examples(given, 3, 0, seed=0))
    assert asked == list(qa_examples(given, 3, 0, seed=0)) and {context for _, context, _, _ in asked} <= held


def recipe(tmp_path: Path, tokenizer: Path, **data: Any) -> Any:
    values = {"document_tokens": 64, "tokens_per_step": 600, **data}
    return from_dict(
        {"steps": 4, "tokenizer": str(tokenizer), "cache": str(tmp_path / "cache"), "data": values}
        | {"objective": {"kind": "lm"}}
    )


def stages_of(plan: Any, tokenizer: Path) -> Any:
    model = type("M", (), {"vocab_size": 288, "has_encoder": False, "architecture": "m"})
    documents, extra = data_configs(plan)
    file = Tokenizer.from_file(str(tokenizer))
    return prepare(plan, documents, extra, file, str(tokenizer), model, lambda event: None)


def test_the_mixture_follows_its_weights(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text(tiny_models.WORDS * 20)
    file = str(rows(tmp_path / "rows.jsonl"))
    plan = recipe(
        tmp_path,
        tokenizer,
        generator=1.0,
        qa=2.0,
        text=1.0,
        qa_paths=[file],
        text_paths=[str(tmp_path / "a.txt")],
    )
    made = stages_of(plan, tokenizer)
    (stage,) = made.stages
    assert isinstance(stage, Stage) and made.has_questions and made.mask_token is None
    names = ("document_batch", "qa_batch", "text_batch")
    for name in names:
        monkeypatch.setattr(sources, name, lambda *given, name=name: name)
    drawn = [sources.batch(stage, None, step) for step in range(400)]  # type: ignore[arg-type]
    assert drawn == [sources.batch(stage, None, step) for step in range(400)]  # type: ignore[arg-type]
    counts = Counter(drawn)
    for name, share in zip(names, (0.25, 0.5, 0.25), strict=True):
        assert abs(counts[name] / 400 - share) < 0.08


def test_documents_alone_need_nothing_prepared(tmp_path: Path, tokenizer: Path) -> None:
    assert stages_of(recipe(tmp_path, tokenizer, text_paths=["unused"]), tokenizer) is None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"text": 1.0}, "data.text_paths"),
        ({"qa": 1.0}, "data.qa_paths"),
        ({"qa": 1.0, "qa_paths": ["ROWS"], "qa_templates": ["cqq"]}, "cqq"),
        ({"qa": 1.0, "qa_paths": ["ROWS"], "qa_templates": ["cqcq"], "qa_reads": 99}, "reads"),
        ({"text": 1.0, "text_paths": ["ROWS"], "text_tokens": 601}, "text_tokens"),
    ],
)
def test_mistakes_in_the_mixture(tmp_path: Path, tokenizer: Path, data: dict[str, Any], said: str) -> None:
    file = str(rows(tmp_path / "rows.jsonl"))
    given = {k: [file if x == "ROWS" else x for x in v] if k == "qa_paths" else v for k, v in data.items()}
    if "text_paths" in data:
        given["text_paths"] = [file]
    with pytest.raises(UsageError, match=said):
        stages_of(recipe(tmp_path, tokenizer, **given), tokenizer)


def test_real_rows(shared_data: Path, tmp_path: Path, tokenizer: Path) -> None:
    files = [str(shared_data / name / "train.jsonl.gz") for name in ("fairytaleqa", "squad")]
    folder = str(index_rows(files, tmp_path / "cache"))
    given = config(tokenizer, folder, document_tokens=256, tokens_per_step=4000)
    assert len(side(folder, True)) > 50
    for step in range(3):
        made = qa_batch(given, step)
        assert isinstance(made, Batch) and made.tokens.numel() > 2000
    longer = dataclasses.replace(given, documents=dataclasses.replace(given.documents, document_tokens=64))
    assert qa_batch(longer, 0).encoder_lengths.max() < 300
