"""Generation: greedy and sampled, stop ids, padding rows, encoders, states."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from jrtcli.errors import JrtError
from jrtcli.generate import generate


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = _load("tiny_checkpoint")
PROMPT = [5, 17, 300, 42, 9, 250, 31]
NOTHING: frozenset[int] = frozenset()


def greedy(model: Any, ids: list[int], n: int) -> list[int]:
    """By whole forward passes, without any state."""
    ids = list(ids)
    start = len(ids)
    for _ in range(n):
        ids.append(int(model(torch.tensor([ids]))[0, -1, :400].argmax()))
    return ids[start:]


def test_greedy_is_the_argmax_of_whole_forward_passes() -> None:
    model = tiny.model()
    generation = generate(model, PROMPT, max_new_tokens=6, stop_ids=NOTHING, real_tokens=400)
    steps = list(generation)
    assert [step.id for step in steps] == greedy(model, PROMPT, 6)
    assert generation.finish_reason == "length"
    assert all(0 < step.probability <= 1 for step in steps)
    times = [step.seconds for step in steps]
    assert times == sorted(times) and 0 < generation.prefill_seconds <= times[0]


def test_the_probability_is_the_models() -> None:
    model = tiny.model()
    step = next(generate(model, PROMPT, max_new_tokens=1, stop_ids=NOTHING, real_tokens=400))
    expected = torch.softmax(model(torch.tensor([PROMPT]))[0, -1, :400], -1)
    assert step.probability == pytest.approx(float(expected[step.id]), rel=1e-4)


def test_a_stop_id_ends_it_unsaid() -> None:
    model = tiny.model()
    ids = greedy(model, PROMPT, 6)
    stop = next(i for i in range(6) if ids[i] not in ids[:i] and i > 0)
    generation = generate(model, PROMPT, max_new_tokens=6, stop_ids=frozenset([ids[stop]]), real_tokens=400)
    assert [step.id for step in generation] == ids[:stop]
    assert generation.finish_reason == "stop"
    assert list(generation) == []


class Favours(torch.nn.Module):
    """Logits that always prefer the last row of the vocabulary."""

    has_encoder, resumable, vocab_size, device = False, True, 8, torch.device("cpu")

    def prefill(self, tokens: Tensor, state: Any, **_: Any) -> tuple[Tensor, Any]:
        return torch.arange(8.0)[None], state

    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        return torch.arange(8.0)[None], state


@pytest.mark.parametrize("temperature", [0.0, 5.0])
def test_padding_rows_are_never_sampled(temperature: float) -> None:
    model: Any = Favours()
    generation = generate(
        model, [1], max_new_tokens=1, stop_ids=NOTHING, real_tokens=5, temperature=temperature, seed=3
    )
    step = next(generation)
    assert step.id < 5
    assert step.probability == pytest.approx(float(torch.softmax(torch.arange(5.0), 0)[step.id]))


def test_one_seed_one_answer() -> None:
    model = tiny.model()

    def sample(seed: int) -> list[int]:
        options: dict[str, Any] = {"max_new_tokens": 8, "stop_ids": NOTHING, "real_tokens": 400}
        return [step.id for step in generate(model, PROMPT, seed=seed, temperature=1.5, **options)]

    assert sample(1) == sample(1)
    assert len({tuple(sample(seed)) for seed in range(5)}) > 1


def test_going_on_from_a_state_leaves_it_unchanged() -> None:
    model = tiny.model()
    _, state = model.prefill(torch.tensor([PROMPT[:4]]))
    before = state.clone()
    options: dict[str, Any] = {"max_new_tokens": 5, "stop_ids": NOTHING, "real_tokens": 400}
    whole = [step.id for step in generate(model, PROMPT, **options)]
    for _ in range(2):
        assert [step.id for step in generate(model, PROMPT[4:], state=state, **options)] == whole
    for old, new in zip(before.layers, state.layers, strict=True):
        assert all(torch.equal(old[name], new[name]) for name in old)


def test_the_state_left_behind_goes_on() -> None:
    model = tiny.model()
    options: dict[str, Any] = {"stop_ids": NOTHING, "real_tokens": 400}
    generation = generate(model, PROMPT, max_new_tokens=4, **options)
    ids = [step.id for step in generation]
    assert int(generation.state.length) == len(PROMPT) + 3
    more = generate(model, ids[-1:], max_new_tokens=3, state=generation.state, **options)
    assert ids + [step.id for step in more] == greedy(model, PROMPT, 7)


def test_reencode_reads_everything_again() -> None:
    model = tiny.model("jrt_rnn", enc_length=64)
    again = generate(model, PROMPT, max_new_tokens=4, stop_ids=NOTHING, real_tokens=400, reencode=True)
    assert [step.id for step in again] == greedy(model, PROMPT, 4)
    with pytest.raises(ValueError, match="reencode"):
        generate(model, PROMPT, max_new_tokens=1, stop_ids=NOTHING, reencode=True, state=model.init_state(1))


def test_an_encoder_length_reaches_the_model() -> None:
    model = tiny.model("jrt_rnn")
    options: dict[str, Any] = {"stop_ids": NOTHING, "real_tokens": 400, "encoder_length": 3}
    step = next(generate(model, PROMPT, max_new_tokens=1, **options))
    logits = model(torch.tensor([PROMPT]), encoder_length=3)[0, -1, :400]
    assert step.id == int(logits.argmax())
    assert step.probability == pytest.approx(float(torch.softmax(logits, -1)[step.id]), rel=1e-4)


def test_progress_ends_at_the_whole_prompt() -> None:
    model = tiny.model()
    seen: list[tuple[int, int]] = []
    ids = [1 + i % 300 for i in range(1300)]

    def note(done: int, total: int) -> None:
        seen.append((done, total))

    next(generate(model, ids, max_new_tokens=1, stop_ids=NOTHING, on_progress=note))
    assert len(seen) > 1 and seen[-1] == (1300, 1300)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_overflow_is_said_instead_of_an_answer() -> None:
    model = tiny.model()
    model.ln_f.weight.fill_(float("nan"))
    with pytest.raises(JrtError, match="float32"):
        next(generate(model, PROMPT, max_new_tokens=1, stop_ids=NOTHING))


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        generate(tiny.model(), [], max_new_tokens=1, stop_ids=NOTHING)
