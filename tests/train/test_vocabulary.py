"""The vocabulary: round trips up to case, pieces that join, and the bundled one."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from jrtcli.train import vocabulary
from jrtcli.train.corpora import labelled
from jrtcli.train.documents import sheets

BUNDLED = Path(vocabulary.__file__).parent.parent / "bundled" / "tiny" / "tokenizer.json"


@functools.cache
def _bundled() -> Tokenizer:
    return Tokenizer.from_file(str(BUNDLED))


@pytest.fixture
def bundled() -> Tokenizer:
    return _bundled()


def pieces(tokenizer: Tokenizer, *texts: str) -> list[int]:
    return [token for text in texts for token in tokenizer.encode(text).ids]


def test_training_gives_the_size_asked_for_and_loads_again(tmp_path: Path) -> None:
    tokenizer = vocabulary.train(vocabulary.texts(documents=60), size=600)
    assert tokenizer.get_vocab_size() == 600
    assert tokenizer.token_to_id("<pad>") == 0 and tokenizer.token_to_id("<eos>") == 1
    vocabulary.save(tokenizer, tmp_path / "a" / "tokenizer.json")
    again = Tokenizer.from_file(str(tmp_path / "a" / "tokenizer.json"))
    text = "Applicant: Dr. Ünal\n\n510(k) number - K153137"
    assert again.encode(text).ids == tokenizer.encode(text).ids
    assert vocabulary.train(vocabulary.texts(documents=60), size=600).to_str() == tokenizer.to_str()


def test_a_word_is_one_token_wherever_it_stands(bundled: Tokenizer) -> None:
    token = bundled.encode("number").ids
    assert len(token) == 1
    assert bundled.encode("the number").ids[-1:] == token
    assert bundled.encode("a\nNumber").ids[-1:] == token
    assert bundled.encode("\n\nNUMBER").ids[-1:] == token


def test_the_words_of_a_prompt_are_few_tokens(bundled: Tokenizer) -> None:
    assert len(bundled.encode("Question:").ids) == 2
    assert len(bundled.encode("\nAnswer:").ids) == 3
    assert bundled.encode("K153137").tokens == ["Ġk", "15", "31", "37"]
    assert bundled.encode("...... ---").tokens[0].strip("Ġ.") == ""


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=60))
def test_any_text_comes_back_in_lower_case(text: str) -> None:
    tokenizer = _bundled()
    lines = [line.lstrip(" ") for line in text.lower().split("\n")]
    clean = "\n".join(lines)
    assert (
        tokenizer.decode(tokenizer.encode(clean.upper() if clean.upper().lower() == clean else clean).ids)
        == clean
    )


def test_prompts_cut_at_their_joints_encode_like_the_whole(bundled: Tokenizer) -> None:
    for sheet in itertools.islice(sheets(8, length_chars=400), 60):
        context = sheet.text.strip()
        for fact in sheet.facts[:3]:
            question = f"\n\nQuestion: {fact.question}\nAnswer:"
            parts = (f"Question: {fact.question}\n\n", context, question, f" {fact.value}", "\n")
            whole = bundled.encode("".join(parts)).ids
            assert pieces(bundled, *parts) == whole
            assert pieces(bundled, "".join(parts[:2]), "".join(parts[2:])) == whole


def test_real_documents_cut_at_their_joints(bundled: Tokenizer, shared_data: Path) -> None:
    text = (shared_data / "fda510k" / "K153137_REVIEW.txt").read_text(encoding="utf-8").strip()
    parts = (
        "Question: Applicant:\n\n",
        text,
        "\n\nQuestion: Applicant:\nAnswer:",
        " Instrumentation Laboratory",
        "\n",
    )
    assert pieces(bundled, *parts) == bundled.encode("".join(parts)).ids
    assert 4000 / len(bundled.encode(text[:4000]).ids) > 2.7


def test_training_leaves_dev_documents_out(shared_data: Path) -> None:
    fda = shared_data / "fda510k"
    docs, labels = str(fda / "docs_train.jsonl.gz"), str(fda / "labels_train.jsonl.gz")
    dev = {doc.text[:3000] for doc in labelled(docs, labels, True)}
    used = {text[:3000] for text in vocabulary.texts(documents=0, docs=docs, labels=labels)}
    assert len(dev) == 40 and used and not dev & used
