"""The reference cases of the original implementations: every run of every case, in every backend.

`tests/golden/README.md` says what a run holds and how tolerances were chosen.
"""

from __future__ import annotations

import itertools
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from jrtcli.checkpoint import load
from jrtcli.models.base import RecurrentLM

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
CASES = {path.parent.name: json.loads(path.read_text()) for path in sorted(GOLDEN.glob("*/case.json"))}
RUNS = [
    pytest.param(case, run["name"], backend, id=f"{case}-{run['name']}-{backend}")
    for case, content in CASES.items()
    for run in content["runs"]
    for backend in ("naive", "torch", "numba")
]
every_run = pytest.mark.parametrize(("case", "run", "backend"), RUNS)


@lru_cache
def _model(case: str, backend: str) -> RecurrentLM:
    model: RecurrentLM = load(str(GOLDEN / case), device="cpu", dtype="float32", backend=backend).model
    return model


@lru_cache
def _expected(case: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_file(GOLDEN / case / "expected.safetensors")
    return tensors


def _run(case: str, run: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{run}."): v for k, v in _expected(case).items() if k.startswith(f"{run}.")}


def _close(got: Tensor, want: Tensor, tolerance: dict[str, Any]) -> None:
    """|got - want| <= atol + rtol |want| everywhere."""
    assert got.shape == want.shape
    excess = (got - want).abs() - tolerance["rtol"] * want.abs()
    assert excess.max().item() <= tolerance["atol"], f"{excess.max().item():.2e} > {tolerance['atol']}"


def _continue(model: RecurrentLM, logits: Tensor, state: Any, count: int) -> Tensor:
    """The greedy continuation (B, count), the argmax over every column as the originals take it."""
    ids = []
    for _ in range(count):
        ids.append(logits.argmax(-1))
        logits, state = model.step(ids[-1], state)
    return torch.stack(ids, 1)


def test_there_are_cases() -> None:
    assert len(CASES) >= 9
    assert len(RUNS) >= 60


@every_run
@torch.no_grad()
def test_forward_logits(case: str, run: str, backend: str) -> None:
    expected, model = _run(case, run), _model(case, backend)
    logits = model.forward(expected["input_ids"], mask=expected.get("mask"))
    assert logits.dtype == torch.float32
    _close(logits, expected["logits"], CASES[case]["tolerance"])


@every_run
@torch.no_grad()
def test_prefill_then_steps(case: str, run: str, backend: str) -> None:
    expected, model = _run(case, run), _model(case, backend)
    logits, state = model.prefill(expected["input_ids"], mask=expected.get("mask"))
    _close(logits, expected["logits"][:, -1], CASES[case]["tolerance"])
    if "greedy_ids" in expected:
        got = _continue(model, logits, state, expected["greedy_ids"].shape[1])
        assert got.tolist() == expected["greedy_ids"].tolist()


@every_run
@torch.no_grad()
def test_prefill_in_pieces_then_steps(case: str, run: str, backend: str) -> None:
    expected, model = _run(case, run), _model(case, backend)
    ids, mask = expected["input_ids"], expected.get("mask")
    length = ids.shape[1]
    # JRT-RNN's encoder is one piece; what follows may be cut anywhere.
    encoder = json.loads((GOLDEN / case / "config.json").read_text()).get("enc_length", 1)
    if mask is not None and mask.shape[1] > encoder:
        mask = None  # ignored as a whole, but the piece of it that covers the encoder would not be
    first = min(encoder, length)
    cuts = sorted({first, (first + length) // 2, length - 1, length} & set(range(first, length + 1)))
    logits, state = model.prefill(ids[:, : cuts[0]], mask=None if mask is None else mask[:, : cuts[0]])
    for start, stop in itertools.pairwise(cuts):
        logits, state = model.prefill(ids[:, start:stop], state)
    _close(logits, expected["logits"][:, -1], CASES[case]["tolerance"])
    if "greedy_ids" in expected:
        got = _continue(model, logits, state, expected["greedy_ids"].shape[1])
        assert got.tolist() == expected["greedy_ids"].tolist()


@pytest.mark.parametrize(
    ("case", "run", "backend"),
    [p for p in RUNS if f"{p.values[1]}.greedy_ids_naive" in _expected(p.values[0])],
)
@torch.no_grad()
def test_reading_all_again_for_each_token(case: str, run: str, backend: str) -> None:
    """The other published way to decode: generated tokens leak into JRT-RNN's encoder."""
    expected, model = _run(case, run), _model(case, backend)
    ids = expected["input_ids"]
    for _ in range(expected["greedy_ids_naive"].shape[1]):
        ids = torch.cat((ids, model.forward(ids)[:, -1:].argmax(-1)), 1)
    assert ids[:, expected["input_ids"].shape[1] :].tolist() == expected["greedy_ids_naive"].tolist()


@pytest.mark.parametrize("case", [name for name in CASES if name.startswith("jrt")])
@torch.no_grad()
def test_a_mask_longer_than_the_encoder_changes_nothing(case: str) -> None:
    expected, model = _run(case, "mask_ignored"), _model(case, "torch")
    with_mask = model.forward(expected["input_ids"], mask=expected["mask"])
    assert not expected["mask"].all()
    assert torch.equal(with_mask, model.forward(expected["input_ids"]))
