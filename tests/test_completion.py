"""Prompts of another program: scored and continued as by hand, whatever they share and stand beside."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from jrtcli.checkpoint import Loaded, load
from jrtcli.completion import Completion, Wanted
from jrtcli.errors import UsageError
from jrtcli.models import ARCHITECTURES
from jrtcli.reader import Reader
from jrtcli.shared_beginnings import share


def _load(name: str) -> ModuleType:
    path = Path(__file__).parent / f"{name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = _load("train/tiny_models")
fixed = _load("tiny_checkpoint")
WORDS = tiny.WORDS
PAIRS = [
    (WORDS, " the tower"),
    (WORDS, " a red lamp"),
    (WORDS[:90], " the"),
    (WORDS[:90] + " ", "harbour stands"),
    ("boats", " come home"),
    ("", "the lamp"),
    (WORDS, ""),
]
every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load(tiny.save(tmp_path_factory.mktemp("models") / request.param, request.param))


def _by_hand(loaded: Loaded, context: str, continuation: str) -> tuple[float, bool]:
    """Token by token: the context read whole, then one step for each token of the continuation."""
    encode, model = loaded.tokenizer.encode, loaded.model
    whole = encode(context + continuation, first=True)
    before = encode(context.rstrip(), first=True) or [loaded.tokenizer.eos_id]
    tokens = whole[len(encode(context.rstrip(), first=True)) :]
    logits, state = model.prefill(torch.tensor([before]))
    total, greedy = 0.0, True
    for token in tokens:
        total += float(torch.log_softmax(logits[0].double(), -1)[token])
        greedy &= int(logits[0].argmax()) == token
        logits, state = model.step(torch.tensor([token]), state)
    return total, greedy


@pytest.mark.parametrize("rows", [1, 3, None])
def test_log_likelihoods_are_those_by_hand(loaded: Loaded, rows: int | None) -> None:
    found = Completion(loaded, rows=rows).log_likelihoods(PAIRS)
    for pair, (value, greedy) in zip(PAIRS, found, strict=True):
        expected = _by_hand(loaded, *pair)
        assert value == pytest.approx(expected[0], rel=1e-3, abs=1e-3), pair
        assert greedy == expected[1], pair


def test_the_most_probable_continuation_is_greedy(loaded: Loaded) -> None:
    ids = loaded.tokenizer.encode(WORDS, first=True)
    logits, _ = loaded.model.prefill(torch.tensor([ids]))
    best = loaded.tokenizer.decode([int(logits[0, : loaded.real_tokens].argmax())])
    if loaded.tokenizer.encode(WORDS + best, first=True)[:-1] != ids or best != best.rstrip():
        pytest.skip("its most probable token is not one of its own text")
    [(value, _)] = Completion(loaded).log_likelihoods([(WORDS, best)])
    assert value == pytest.approx(float(torch.log_softmax(logits[0], -1).max()), abs=1e-3)


def test_a_whole_text_is_scored_after_the_end_of_text_token(loaded: Loaded) -> None:
    loaded.model.prefill_tokens = 11
    ids = [loaded.tokenizer.eos_id, *loaded.tokenizer.encode(WORDS, first=True)]
    options = {"encoder_length": 0} if loaded.model.has_encoder else {}
    logits, state = loaded.model.prefill(torch.tensor([ids[:1]]), **options)
    total = 0.0
    for token in ids[1:]:
        total += float(torch.log_softmax(logits[0].double(), -1)[token])
        logits, state = loaded.model.step(torch.tensor([token]), state)
    assert Completion(loaded).rolling(WORDS) == pytest.approx(total, rel=1e-4)
    loaded.model.prefill_tokens = 512


def test_continuations_are_those_of_each_prompt_alone(loaded: Loaded) -> None:
    prompts = [WORDS, WORDS[:100], WORDS + " and the", "boats come", WORDS[:100] + " who"]
    wanted = [Wanted(prompt, (), 7) for prompt in prompts]
    together = dict(Completion(loaded).continuations(wanted))
    for i, one in enumerate(wanted):
        assert dict(Completion(loaded, rows=1).continuations([one])) == {0: together[i]}
    ids = loaded.tokenizer.encode(WORDS, first=True)
    logits, state = loaded.model.prefill(torch.tensor([ids]))
    expected = []
    for _ in range(7):
        expected.append(int(logits[0, : loaded.real_tokens].argmax()))
        if expected[-1] == loaded.tokenizer.eos_id:
            expected.pop()
            break
        logits, state = loaded.model.step(torch.tensor([expected[-1]]), state)
    assert together[0] == loaded.tokenizer.decode(expected)


def test_a_stop_string_ends_a_continuation_and_is_not_in_it(loaded: Loaded) -> None:
    [(_, whole)] = Completion(loaded).continuations([Wanted(WORDS, (), 12)])
    if len(whole) < 4:
        pytest.skip("this model says next to nothing")
    stop = whole[2:4]
    [(_, cut)] = Completion(loaded).continuations([Wanted(WORDS, ("never said", stop), 12)])
    assert cut == whole[: whole.index(stop)]


def test_prompts_that_begin_alike_read_their_beginning_once(tmp_path: Path) -> None:
    loaded = load(tiny.save(tmp_path / "m", "gla"))
    reader = Reader(loaded, template="cq")
    questions = ["who", "where is the lamp", "what colour"]
    items = [(q, reader.prepare(WORDS, q)) for q in questions] + [("else", reader.prepare("fog", "who"))]
    shared = dict(share(loaded.model, items))
    assert set(shared) == {*questions, "else"}
    document = len(loaded.tokenizer.encode(WORDS, first=True))
    for question, prepared in items:
        after = shared[question]
        if question == "else":
            assert after is prepared
            continue
        ids = prepared.requests[0].filled.ids
        assert after.requests[0].state is not None
        assert 0 < after.tokens < len(ids) - document + 10
        assert after.requests[0].filled.ids == ids[len(ids) - after.tokens :]
        assert after.fields["reused_tokens"] + after.tokens == len(ids)
        expected, _ = loaded.model.prefill(torch.tensor([ids]))
        found, _ = loaded.model.prefill(torch.tensor([after.requests[0].filled.ids]), after.requests[0].state)
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("template", ["cq", "cqcq", "qcq", "qccq", "ccq"])
def test_a_prompt_with_a_question_is_shown_in_the_order_of_the_template(
    template: str, tmp_path: Path
) -> None:
    loaded = load(tiny.save(tmp_path / "m", "mamba"))
    prompt = f"{WORDS}\n\nQuestion: where is it?\nAnswer:"
    [(_, said)] = Completion(loaded, template=template).continuations([Wanted(prompt, ("\n",), 9)])
    asking = Reader(loaded, template=template).ask(WORDS, "where is it?", max_new_tokens=9)
    for _ in asking:
        pass
    assert said == asking.answer.continuation
    assert asking.answer.template == template


def test_a_prompt_without_a_frame_is_read_again_whole(tmp_path: Path) -> None:
    loaded = load(tiny.save(tmp_path / "m", "mamba"))
    again = f"{WORDS} Lamp:\n\n{WORDS} Lamp:"
    [(_, twice)] = Completion(loaded, template="cqcq").continuations([Wanted(f"{WORDS} Lamp:", (), 9)])
    [(_, written)] = Completion(loaded).continuations([Wanted(again, (), 9)])
    assert twice == written
    [(_, thrice)] = Completion(loaded, template="cqcq", reads=3).continuations([Wanted("a: b", (), 9)])
    [(_, written)] = Completion(loaded).continuations([Wanted("a: b\n\na: b\n\na: b", (), 9)])
    assert thrice == written
    with pytest.raises(UsageError, match="where the question of a prompt is"):
        list(Completion(loaded, template="qcq").continuations([Wanted("a: b")]))
    with pytest.raises(UsageError, match="template=cqcq"):
        Completion(loaded, reads=2)


def test_a_fixed_encoder_is_filled_as_by_the_reader(tmp_path: Path) -> None:
    loaded = load(fixed.save(tmp_path / "j", "jrt_rnn", enc_length=96))
    prompt = "Device name: Acu-Ray 300\n\nQuestion: who?\nAnswer:"
    [(_, said)] = Completion(loaded, template="cq").continuations([Wanted(prompt, ("\n",), 9)])
    asking = Reader(loaded, template="cq").ask("Device name: Acu-Ray 300", "who?", max_new_tokens=9)
    for _ in asking:
        pass
    assert said == asking.answer.continuation
    together = Completion(loaded).log_likelihoods([(prompt, " Acu"), (prompt, " Ray"), ("Device", " name")])
    alone = [
        Completion(loaded, rows=1).log_likelihoods([pair])[0]
        for pair in ((prompt, " Acu"), (prompt, " Ray"), ("Device", " name"))
    ]
    for one, other in zip(together, alone, strict=True):
        assert one[0] == pytest.approx(other[0], abs=1e-3) and one[1] == other[1]
