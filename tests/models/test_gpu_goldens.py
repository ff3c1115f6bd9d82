"""The reference cases on a GPU, in fp32 and bf16, with the kernels that `auto` takes there and torch's."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from jrtcli.checkpoint import Loaded, load

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
CASES = {path.parent.name: json.loads(path.read_text()) for path in sorted(GOLDEN.glob("*/case.json"))}
RUNS = [
    pytest.param(case, run["name"], id=f"{case}-{run['name']}")
    for case, content in CASES.items()
    for run in content["runs"]
]
DEVICE = "cuda:0"
# Relative RMS over all logits of a run. fp32: sums in another order. bf16: weights and activations of 8 bits,
# 9e-3 on a CPU, where the random weights of a small model amplify it.
TOLERANCES = {"float32": 1e-4, "bfloat16": 4e-2}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.parametrize("backend", ("auto", "torch")),
    pytest.mark.parametrize("dtype", TOLERANCES),
]


@lru_cache
def _loaded(case: str, dtype: str, backend: str) -> Loaded:
    return load(str(GOLDEN / case), device=DEVICE, dtype=dtype, backend=backend)


@lru_cache
def _expected(case: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_file(GOLDEN / case / "expected.safetensors")
    return tensors


def _error(got: Tensor, want: Tensor) -> float:
    return ((got.double().cpu() - want.double()).norm() / want.double().norm()).item()


@pytest.fixture(autouse=True)
def _exact_products() -> None:
    assert not torch.backends.cuda.matmul.allow_tf32, "fp32 is fp32 here"


@pytest.mark.parametrize(("case", "run"), RUNS)
@torch.no_grad()
def test_forward_and_prefill(case: str, run: str, backend: str, dtype: str) -> None:
    expected, model = _expected(case), _loaded(case, dtype, backend).model
    ids, mask = expected[f"{run}.input_ids"], expected.get(f"{run}.mask")
    want = expected[f"{run}.logits"]
    on_device = None if mask is None else mask.to(DEVICE)
    assert _error(model.forward(ids.to(DEVICE), mask=on_device), want) < TOLERANCES[dtype]
    logits, _ = model.prefill(ids.to(DEVICE), mask=on_device)
    assert _error(logits, want[:, -1]) < TOLERANCES[dtype]


@pytest.mark.parametrize(("case", "run"), RUNS)
@torch.no_grad()
def test_greedy_tokens_through_the_decoder(case: str, run: str, backend: str, dtype: str) -> None:
    """In CUDA graphs. In bf16 a margin between two tokens may be smaller than the rounding: fp32 only."""
    want = _expected(case).get(f"{run}.greedy_ids")
    if want is None or dtype != "float32":
        return
    expected, model = _expected(case), _loaded(case, dtype, backend).model
    mask = expected.get(f"{run}.mask")
    logits, state = model.prefill(
        expected[f"{run}.input_ids"].to(DEVICE), mask=None if mask is None else mask.to(DEVICE)
    )
    rows, ids = model.decoder.rows(state), []
    for _ in range(want.shape[1]):
        ids.append(logits.argmax(-1))
        logits = rows.step(ids[-1])
    assert torch.stack(ids, 1).tolist() == want.tolist()
