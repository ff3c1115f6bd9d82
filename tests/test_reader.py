"""Reader: the answer is what the model says after the prompt, whatever the way it was read."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import jrtcli
from jrt_prompts import load_template
from jrtcli.ahead import encoder_limit
from jrtcli.decoding import decoder_of
from jrtcli.errors import JrtError, NotResumable, TemplateError, UsageError
from jrtcli.reader import Reader
from jrtcli.tokens import encode_prompt


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = _load("tiny_checkpoint")
QUESTION = "Who is the contact person?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def based(folder: Path) -> Any:
    return jrtcli.load(tiny.save(folder / "based"))


@pytest.fixture(scope="module")
def any_length(folder: Path) -> Any:
    return jrtcli.load(tiny.save(folder / "jrt", "jrt_rnn", lowercase=True))


@pytest.fixture(scope="module")
def fixed_length(folder: Path) -> Any:
    return jrtcli.load(tiny.save(folder / "jrt256", "jrt_rnn", enc_length=256))


def by_hand(loaded: Any, ids: list[int], n: int, **options: Any) -> list[int]:
    logits, state = loaded.model.prefill(torch.tensor([ids]), **options)
    said = []
    for _ in range(n):
        said.append(int(logits[0, : loaded.real_tokens].argmax()))
        logits, state = loaded.model.step(torch.tensor(said[-1:]), state)
    return said


def quiet(loaded: Any, **options: Any) -> Reader:
    """A reader whose template never stops, so that random models say something."""
    template = replace(load_template(options.pop("template", "cqcq")), stop=())
    return Reader(loaded, template=template, **options)


def test_the_answer_is_the_models_greedy_continuation(based: Any) -> None:
    reader = quiet(based)
    asking = reader.ask(tiny.TEXT, QUESTION, max_new_tokens=6)
    tokens = list(asking)
    answer = asking.answer
    encoded = encode_prompt(reader.prompt(tiny.TEXT, QUESTION), based.tokenizer)
    assert list(answer.token_ids) == by_hand(based, list(encoded.ids), 6)
    assert "".join(token.text for token in tokens).strip() == answer.text
    assert answer.text == based.tokenizer.decode(answer.token_ids).strip()
    assert answer.prompt_tokens == answer.read_tokens == len(encoded.ids)
    assert (answer.reads, answer.template, answer.finish_reason) == (2, "cqcq", "length")
    assert answer.context_tokens * 2 < answer.prompt_tokens
    assert answer.confidence == pytest.approx(sum(answer.probabilities) / 6)
    assert 0 < answer.prefill_s <= answer.first_token_s
    assert answer.prefill_tokens_per_s is not None and answer.decode_tokens_per_s is not None


def test_the_size_of_the_memory(based: Any) -> None:
    asking = quiet(based).ask(tiny.TEXT, QUESTION, max_new_tokens=3)
    list(asking)
    answer = asking.answer
    assert answer.state_bytes == based.model.init_state(1).nbytes
    # 2 x 3 layers x tokens x width 32 x 4 bytes.
    assert answer.kv_cache_bytes == 2 * 3 * (answer.prompt_tokens + 3) * 32 * 4


def test_a_stop_string_ends_the_answer_and_is_not_in_it(based: Any) -> None:
    asking = quiet(based).ask(tiny.TEXT, QUESTION, max_new_tokens=12)
    whole = "".join(token.text for token in asking)
    stop = whole[3:6]
    template = replace(load_template("cqcq"), stop=(stop,))
    cut = Reader(based, template=template).ask(tiny.TEXT, QUESTION, max_new_tokens=12)
    shown = "".join(token.text for token in cut)
    assert shown == whole[: whole.index(stop)].lstrip() and stop not in shown
    assert cut.answer.finish_reason == "stop"


def test_an_end_of_text_token_ends_the_answer(based: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asking = quiet(based).ask(tiny.TEXT, QUESTION, max_new_tokens=6)
    list(asking)
    ids = asking.answer.token_ids
    at = next(i for i in range(1, 6) if ids[i] not in ids[:i])
    monkeypatch.setattr(based.tokenizer, "eos_id", ids[at])
    asking = quiet(based).ask(tiny.TEXT, QUESTION, max_new_tokens=6)
    list(asking)
    assert asking.answer.token_ids == ids[:at]
    assert asking.answer.finish_reason == "stop"


def test_interrupted_it_says_what_was_said_so_far(based: Any) -> None:
    asking = quiet(based).ask(tiny.TEXT, QUESTION, max_new_tokens=12)
    shown = next(asking).text + next(asking).text
    answer = asking.answer
    assert answer.finish_reason == "interrupted"
    assert len(answer.token_ids) == 2 and answer.text == shown.strip()


def test_an_encoder_of_any_length_reads_to_the_end_of_the_last_reading(any_length: Any) -> None:
    assert encoder_limit(any_length.model) is None
    reader = quiet(any_length)
    asking = reader.ask(tiny.TEXT, QUESTION, max_new_tokens=5)
    list(asking)
    encoded = encode_prompt(reader.prompt(tiny.TEXT, QUESTION), any_length.tokenizer)
    expected = by_hand(any_length, list(encoded.ids), 5, encoder_length=encoded.head_tokens)
    assert list(asking.answer.token_ids) == expected


def test_capitals_come_back_from_the_document(any_length: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said = any_length.tokenizer.encode(" maria kowalski!", first=False)

    class Says:
        has_encoder, resumable, vocab_size, device = False, True, 432, torch.device("cpu")
        config, layers, width = any_length.model.config, any_length.model.layers, 32
        decoder = property(decoder_of)
        parameters = any_length.model.parameters

        def prefill(self, tokens: Any, state: Any, **_: Any) -> Any:
            return torch.nn.functional.one_hot(torch.tensor([said[0]]), 432).float(), 0

        def step(self, token: Any, state: int) -> Any:
            return torch.nn.functional.one_hot(torch.tensor([said[state + 1]]), 432).float(), state + 1

    reader = quiet(replace(any_length, model=Says()))
    asking = reader.ask(tiny.TEXT, QUESTION, max_new_tokens=len(said))
    assert "".join(token.text for token in asking) == "Maria Kowalski!"


def test_a_short_prompt_is_filled_in_three_ways(fixed_length: Any) -> None:
    assert encoder_limit(fixed_length.model) == 256
    encoded = encode_prompt(load_template("cq").render(tiny.TEXT, QUESTION), fixed_length.tokenizer)
    ids, n = list(encoded.ids), len(encoded.ids)
    assert n < 256
    answers = {}
    for way in ("twice", "pad", "iterate"):
        asking = quiet(fixed_length, template="cq", fill=way).ask(tiny.TEXT, QUESTION, max_new_tokens=4)
        list(asking)
        answers[way] = asking.answer
    document = ids[encoded.spans[0].start : encoded.spans[0].end]
    space = fixed_length.tokenizer.encode(" ", first=False)
    padding = 256 - n
    mask = torch.tensor([[False] * padding + [True] * n])
    assert list(answers["pad"].token_ids) == by_hand(fixed_length, space * padding + ids, 4, mask=mask)
    assert (answers["pad"].padding_tokens, answers["pad"].read_tokens) == (padding, 256)
    left = 256 - n - len(document)
    mask = torch.tensor([[False] * left + [True] * (n + len(document))])
    expected = by_hand(fixed_length, space * left + document + ids, 4, mask=mask)
    assert list(answers["twice"].token_ids) == expected
    assert answers["twice"].repeated_tokens == len(document)
    again = list(ids)
    for _ in range(4):
        again.append(
            int(fixed_length.model(torch.tensor([again]))[0, -1, : fixed_length.real_tokens].argmax())
        )
    assert list(answers["iterate"].token_ids) == again[n:]
    assert answers["iterate"].read_tokens == n


def test_a_long_prompt_goes_on_causally_after_the_encoder(fixed_length: Any) -> None:
    reader = quiet(fixed_length, reads=4)
    asking = reader.ask(tiny.TEXT, QUESTION, max_new_tokens=3)
    list(asking)
    encoded = encode_prompt(reader.prompt(tiny.TEXT, QUESTION), fixed_length.tokenizer)
    assert len(encoded.ids) > 256 and asking.answer.padding_tokens == 0
    assert list(asking.answer.token_ids) == by_hand(fixed_length, list(encoded.ids), 3, encoder_length=256)


@pytest.mark.parametrize("template", ["cq", "cqcq", "ccq"])
def test_a_document_read_once_answers_as_if_read_anew(based: Any, template: str) -> None:
    reader = quiet(based, template=template)
    document = reader.read(tiny.TEXT)
    assert document.tokens > 50 and document.nbytes == based.model.init_state(1).nbytes
    for question in (QUESTION, "When was it prepared?"):
        fresh, reused = (
            reader.ask(tiny.TEXT, question, max_new_tokens=5),
            reader.ask(document, question, max_new_tokens=5),
        )
        assert [token.id for token in fresh] == [token.id for token in reused]
        assert reused.answer.reused_tokens == document.tokens
        assert (
            reused.answer.read_tokens + document.tokens
            == fresh.answer.read_tokens
            == fresh.answer.prompt_tokens
        )


def test_a_state_fits_only_its_own_prompt(based: Any) -> None:
    document = quiet(based, template="ccq").read(tiny.TEXT)
    with pytest.raises(JrtError, match="template ccq"):
        quiet(based, template="cq").ask(document, QUESTION)
    with pytest.raises(UsageError, match="question before the document"):
        quiet(based, template="qcq").read(tiny.TEXT)


def test_a_state_never_stops_inside_an_encoder(any_length: Any, fixed_length: Any) -> None:
    with pytest.raises(NotResumable, match="encoder"):
        quiet(any_length, template="cqcq").read(tiny.TEXT)
    with pytest.raises(NotResumable, match="256"):
        quiet(fixed_length, template="cq").read(tiny.TEXT)
    reader = quiet(any_length, template="ccq")
    fresh, reused = (
        reader.ask(tiny.TEXT, QUESTION, max_new_tokens=4),
        reader.ask(reader.read(tiny.TEXT), QUESTION, max_new_tokens=4),
    )
    assert [token.id for token in fresh] == [token.id for token in reused]


def test_mistakes_are_said_in_one_line(based: Any) -> None:
    with pytest.raises(TemplateError, match="no template"):
        Reader(based, template="nope")
    with pytest.raises(UsageError, match="no fill"):
        Reader(based, fill="thrice")
    with pytest.raises(UsageError, match="question is empty"):
        Reader(based).ask(tiny.TEXT, "  ")
    with pytest.raises(UsageError, match="document is empty"):
        Reader(based).ask("\n", QUESTION)


def test_the_default_template_is_the_checkpoints(based: Any) -> None:
    assert Reader(based).template.name == based.template == "cqcq"
