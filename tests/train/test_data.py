"""Batches: text form, weights, encoder lengths and tags, on real batches and by hand on a small one."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
import re
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from jrtcli.errors import JrtError
from jrtcli.train import corpora, data, mixture, rows
from jrtcli.train.data import Batch, DataConfig, batch, examples
from jrtcli.train.rows import Asked, Source
from jrtcli.train.values import Draw

BUNDLED = Path(data.__file__).parent.parent / "bundled" / "tiny" / "tokenizer.json"
SMALL = DataConfig(document_tokens=96, tokens_per_step=1500)


@functools.cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(BUNDLED))


def real(shared_data: Path, **changes: object) -> DataConfig:
    fda = shared_data / "fda510k"
    config = DataConfig(
        document_tokens=256,
        tokens_per_step=2000,
        fda_docs=str(fda / "docs_train.jsonl.gz"),
        fda_labels=str(fda / "labels_train.jsonl.gz"),
        squad_path=str(shared_data / "squad" / "train.jsonl.gz"),
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def by_hand(monkeypatch: pytest.MonkeyPatch, **changes: float) -> Batch:
    """A batch of rows of one tiny document, of which one question is asked."""
    text = "Color: red oak\nSize: 42"
    asked = (Asked("Color?", "red oak", 7, 14), Asked("Size?", "42", 21, 23))
    assert text[7:14] == "red oak" and text[21:23] == "42"
    monkeypatch.setattr(data, "source", lambda *_: Source(text, asked))
    base = {"one": 1.0, "two": 0.0, "many": 0.0, "shorter": 0.0, "lm_weight": 0.0} | changes
    return batch(DataConfig(document_tokens=64, tokens_per_step=640, **base), tokenizer(), 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("template", ["cq", "qcq", "cqcq"])
def test_a_row_by_hand(monkeypatch: pytest.MonkeyPatch, template: str) -> None:
    made = by_hand(monkeypatch, **{"cq": 0.0, "qcq": 0.0, "cqcq": 0.0, template: 1.0})
    encode, context = tokenizer().encode, "Color: red oak\nSize: 42"
    for tokens, weights, tags, length in zip(
        made.tokens, made.weights, made.tags, made.encoder_lengths, strict=True
    ):
        written = tokenizer().decode([t for t in tokens.tolist() if t])
        questions = re.findall(r"question: (\w+\?)", written)
        answers = {"color?": " red oak", "size?": " 42"}
        if template == "cq":  # two questions, as no list comes first
            assert len(questions) == 2
            head = context
            tail = "\n\n" + "".join(f"Question: {q}\nAnswer:{answers[q]}\n" for q in questions)
        else:
            asked = questions[0]
            listed = f"Question: {asked}\n\n"
            head = listed + context if template == "qcq" else f"{context}\n\n{listed}{context}"
            tail = f"\n\nQuestion: {asked}\nAnswer:{answers[asked]}\n"
        expected = encode(head + tail).ids
        assert tokens.tolist() == expected + [0] * (len(tokens) - len(expected))
        assert int(length) == len(encode(head).ids)
        # Weights: 3 on the first token of an answer, 1 on its others and on the newline, nothing elsewhere.
        want = [0.0] * len(tokens)
        at = int(length)
        for part in re.findall(r"\n+Question: .*\nAnswer:| .*(?=\n)", tail):
            n = len(encode(part).ids)
            if part.startswith(" "):
                want[at : at + n + 1] = [3.0] + [1.0] * n
            at += n
        assert weights.tolist() == want
        # Tags: the listed value 1, the other 0, in the reading that follows the list.
        want_tags = [-1] * len(tokens)
        if template != "cq":
            start = int(length) - len(encode(context).ids)
            red, two = (1, 0) if asked == "color?" else (0, 1)
            for value, tag in ((" red oak", red), (" 42", two)):
                ids = encode(value).ids
                place = next(i for i in range(start, int(length)) if expected[i : i + len(ids)] == ids)
                want_tags[place : place + len(ids)] = [tag] * len(ids)
        assert tags.tolist() == want_tags


def test_language_model_weights_fall_on_the_context_only(monkeypatch: pytest.MonkeyPatch) -> None:
    made = by_hand(monkeypatch, lm_weight=0.25, lm_first=1.0, cq=0.0, cqcq=0.0)
    n = len(tokenizer().encode("Color: red oak\nSize: 42").ids)
    for weights, length in zip(made.weights, made.encoder_lengths.tolist(), strict=True):
        assert (weights[length - n : length] == 0.25).all()
        assert (weights[: length - n] == 0).all()


def test_long_answers_carry_loss_up_to_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    made = by_hand(monkeypatch, answer_tokens=1, cq=0.0, cqcq=0.0)
    assert ((made.weights > 0).sum(1) == 1).all() and (made.weights.max() == 3)


def test_a_batch_depends_on_seed_and_step_only() -> None:
    one, again = batch(SMALL, tokenizer(), 7), batch(SMALL, tokenizer(), 7)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    others = (batch(SMALL, tokenizer(), 8), batch(dataclasses.replace(SMALL, seed=1), tokenizer(), 7))
    assert not any(one.tokens.shape == o.tokens.shape and torch.equal(one.tokens, o.tokens) for o in others)


@pytest.mark.parametrize("length", [64, 128, 512])
def test_shapes_types_and_budget(length: int) -> None:
    config = dataclasses.replace(SMALL, document_tokens=length, tokens_per_step=4096)
    sizes = []
    for step in range(8):
        made = batch(config, tokenizer(), step)
        assert made.tokens.dtype == torch.int64 and made.weights.dtype == torch.float32
        assert made.tags.dtype == torch.int8 and made.encoder_lengths.dtype == torch.int64
        assert made.tokens.shape == made.weights.shape == made.tags.shape
        assert made.tokens.shape[1] % 64 == 0
        assert (made.weights[made.tokens == 0] == 0).all() and (made.weights[:, 0] == 0).all()
        assert ((made.weights >= 1).sum(1) >= 2).all()
        sizes.append(made.tokens.numel())
        for tokens, weights, n in zip(made.tokens, made.weights, made.encoder_lengths.tolist(), strict=True):
            assert (weights[:n] < 1).all()
            newline = tokenizer().encode("\n").ids[0]
            assert tokens[n] == tokens[n + 1] == newline and tokens[n - 1] != newline
    assert 0.6 * 4096 < sum(sizes) / len(sizes) < 1.2 * 4096


def test_answers_stand_in_the_context(shared_data: Path) -> None:
    for step in range(6):
        made = batch(real(shared_data), tokenizer(), step)
        for tokens, n in zip(made.tokens, made.encoder_lengths.tolist(), strict=True):
            context = tokenizer().decode(tokens[:n].tolist())
            tail = tokenizer().decode([t for t in tokens[n:].tolist() if t])
            for answer in re.findall(r"\nanswer: (.*)\n", tail):
                assert answer in context


def test_document_length_in_tokens() -> None:
    config = dataclasses.replace(
        SMALL, document_tokens=256, shorter=0.0, cqcq=0.0, qcq=0.0, tokens_per_step=6000
    )
    lengths = [n for step in range(6) for n in batch(config, tokenizer(), step).encoder_lengths.tolist()]
    assert max(lengths) <= 256 and sum(lengths) / len(lengths) > 220


def test_regulatory_windows_keep_their_spans_and_swap_values(shared_data: Path) -> None:
    config = real(shared_data)
    docs = corpora.labelled(config.fda_docs, config.fda_labels, False)
    pool = rows.by_key(config.fda_docs, config.fda_labels)
    d = Draw(3)
    swapped = total = 0
    for doc in docs[:60]:
        for chars in (300, 1000, 4000):
            found = rows.regulatory(d, doc, pool, chars, 0.5)
            assert found.asked and len(found.context) <= chars + 800
            for fact in found.asked:
                assert found.context[fact.start : fact.end] == fact.answer
                total += 1
                swapped += fact.answer not in doc.text
    assert 0.3 < swapped / total < 0.6
    same = rows.regulatory(Draw(0), docs[0], pool, 10**6, 0.0)
    assert same.context.replace("\n", " ").strip() == docs[0].text.replace("\n", " ").strip()


def test_passages_hold_their_answers(shared_data: Path) -> None:
    found = corpora.paragraphs(real(shared_data).squad_path, False)
    for seed in range(30):
        source = rows.passages(Draw(seed), found, 1500)
        assert all(source.context[a.start : a.end] == a.answer for a in source.asked)


def test_examples_are_deterministic_and_of_the_length(shared_data: Path) -> None:
    config = real(shared_data)
    for split in ("train", "heldout", "squad-dev"):
        made = examples(config, split, 80, 256)
        assert made == examples(config, split, 80, 256)
        assert len({e.id for e in made}) == 80 and all(e.answers[0] in e.context for e in made)
        counts = [len(tokenizer().encode(e.context).ids) for e in made]
        assert 215 < sum(counts) / len(counts) < 310


def test_the_dev_slice_of_regulatory_documents(shared_data: Path) -> None:
    config = real(shared_data)
    dev = corpora.labelled(config.fda_docs, config.fda_labels, True)
    train = corpora.labelled(config.fda_docs, config.fda_labels, False)
    assert (len(dev), len(train)) == (40, 360) and not {d.id for d in dev} & {d.id for d in train}
    made = examples(config, "fda-dev", 1000, 0)
    assert {e.id.split("#")[0] for e in made} <= {doc.id for doc in dev}
    assert len({e.id for e in made}) == len(made) > 400
    with gzip.open(shared_data / "fda510k" / "qa_eval.jsonl.gz", "rt", encoding="utf-8") as lines:
        evaluation = [json.loads(line) for line in lines]
    assert {e.question for e in made} == {row["question"] for row in evaluation}
    assert not {doc.id for doc in dev + train} & {row["doc"] for row in evaluation}
    assert all(e.answers[0] in e.context and len(e.context) >= 3000 for e in made)


def test_a_missing_file_is_named() -> None:
    config = dataclasses.replace(
        SMALL, fda_docs="nowhere/docs.jsonl.gz", fda_labels="nowhere/labels.jsonl.gz"
    )
    with pytest.raises(JrtError, match=r"nowhere/labels.jsonl.gz"):
        batch(config, tokenizer(), 0)
    with pytest.raises(JrtError, match="nowhere"):
        mixture.prose(dataclasses.replace(SMALL, prose="nowhere"))
