"""Kernel rows: every operator beside its peers, wrong results caught, reasons in place of times."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch

from jrt_kernels.registry import OPS, Unsupported, resolve
from jrtcli.bench.attention import PEERS, sampled_attention
from jrtcli.bench.ceilings import Ceilings
from jrtcli.bench.kernels import Plan, default_shapes, prefill
from jrtcli.bench.operators import OPERATORS, Dims, dims
from jrtcli.bench.rows import Row, record
from jrtcli.errors import UsageError

CEILINGS = {
    (dtype, 1): Ceilings(dtype, bytes_per_s=1e10, flops_per_s=1e11) for dtype in ("float32", "bfloat16")
}
SMALL = {
    "taylor": Dims(2, 4, 64),
    "prefix": Dims(2, 4, 64),
    "gla": Dims(2, 8, 64),
    "ssd": Dims(2, 8, 64),
    "selective-scan": Dims(64, 4, 1),
}


def plan(op: str, **change: Any) -> Plan:
    made = Plan((op,), ((1, 64),), ("torch",), ("flash",), ("float32",), "cpu", (1,), 3, SMALL[op])
    return replace(made, **change)


def rows(made: Plan) -> dict[str, Row]:
    found = list(prefill(made, CEILINGS))
    assert len(found) == made.count
    return {row.runner: row for row in found}


@pytest.mark.parametrize("op", OPERATORS)
def test_every_operator_is_timed_checked_and_compared(op: str) -> None:
    found = rows(plan(op, shapes=((2, 65),)))
    flash, ours = found["flash"], found["torch"]
    for row in (flash, ours):
        assert row.note is None and len(row.samples_ms) == 3
        assert row.p20_ms <= row.median_ms <= row.p80_ms  # type: ignore[operator]
        assert row.tokens_per_s == pytest.approx(2 * 65 / row.median_ms * 1e3)  # type: ignore[operator]
        assert 0 < row.error < 1e-5  # type: ignore[operator]
        assert row.predicted_ms > 0 and row.bandwidth_share > 0  # type: ignore[operator]
    assert ours.checked == "naive fp64, first and last row"
    assert flash.speedup == 1
    assert ours.speedup == pytest.approx(flash.median_ms / ours.median_ms)  # type: ignore[operator]
    assert (ours.rate_share is None) == (op == "selective-scan")
    twice = found.get("jrt-prompt")
    assert (twice is None) == (op == "prefix")
    if twice is not None:
        assert twice.tokens == 65 and "130 tokens" in str(twice.note)
        assert twice.moved_bytes == pytest.approx(2 * ours.moved_bytes, rel=0.05)  # type: ignore[operator]


def test_softmax_attention_is_timed_once_for_operators_of_one_width() -> None:
    both = list(prefill(plan("taylor", operators=("taylor", "prefix")), CEILINGS))
    first, second = (row for row in both if row.runner == "flash")
    assert (first.subject, second.subject) == ("taylor", "prefix")
    assert first.samples_ms == second.samples_ms
    other = list(prefill(plan("taylor", operators=("taylor", "ssd"), dims=None), CEILINGS))
    first, second = (row for row in other if row.runner == "flash")
    assert first.samples_ms != second.samples_ms  # 16 heads, and 24


def test_half_precision_is_held_to_its_rounding() -> None:
    found = rows(plan("taylor", dtypes=("bfloat16",)))
    assert 1e-3 < found["torch"].error < 3e-3  # type: ignore[operator]
    assert found["torch"].samples_ms


def test_all_is_every_backend_but_the_specification() -> None:
    made = plan("taylor", backends=("all",), peers=())
    assert {"torch", "numba"} <= set(made.backends_of("taylor_linear_attention"))
    assert "naive" not in made.backends_of("taylor_linear_attention")
    assert plan("ssd", backends=("auto", "naive", "auto")).backends_of("ssd")[1:] == ("naive",)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A backend of taylor_linear_attention that a test gives its function `run`."""
    module = ModuleType("broken_backend")
    monkeypatch.setitem(sys.modules, "broken_backend", module)
    monkeypatch.setitem(OPS["taylor_linear_attention"], "broken", "broken_backend:run")
    return module


@pytest.mark.parametrize("fault", ["output", "state", "nan", "later"])
def test_a_wrong_result_has_no_time(broken: ModuleType, fault: str) -> None:
    calls = []

    def run(**given: Any) -> Any:
        o, (kv, ksum) = resolve("taylor_linear_attention", "torch")(**given)
        calls.append(1)
        if fault == "output":
            o[0, -1, -1] *= 1.1
        elif fault == "state":
            kv = kv * 1.001
        elif fault == "nan":
            o[0, 3, 0, 0] = torch.nan
        elif fault == "later" and len(calls) > 3:
            o = o * 1.01
        return o, (kv, ksum)

    broken.run = run  # type: ignore[attr-defined]
    row = rows(plan("taylor", backends=("broken",), peers=()))["broken"]
    assert row.samples_ms == () and row.median_ms is None and row.speedup is None
    assert str(row.note).startswith("wrong: relative RMS error")
    assert ("after the timed calls" in str(row.note)) == (fault == "later")
    json.dumps(record(row), allow_nan=False)


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (Unsupported("not this head size"), "not this head size"),
        (MemoryError(), "out of memory"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried\nmore"),
            "out of memory: CUDA out of memory. Tried",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
        (ImportError("no module"), "cannot be imported: no module"),
        (ValueError("odd\nmore"), "failed: ValueError: odd"),
    ],
)
def test_what_cannot_run_is_a_row_with_the_reason(broken: ModuleType, error: Exception, note: str) -> None:
    def run(**given: Any) -> Any:
        raise error

    broken.run = run  # type: ignore[attr-defined]
    found = rows(plan("taylor", backends=("broken", "torch"), peers=()))
    assert found["broken"].note == note and not found["broken"].samples_ms
    assert found["torch"].samples_ms


def test_peers_that_need_a_gpu_say_so_on_a_cpu() -> None:
    found = rows(plan("taylor", peers=tuple(PEERS)))
    assert "GPU" in str(found["cudnn"].note)
    assert "GPUs only" in str(found["fla-parallel"].note) and "GPUs only" in str(
        found["fla-fused-chunk"].note
    )


def test_the_first_peer_is_the_one_that_others_are_compared_with() -> None:
    found = rows(plan("taylor", peers=("fla-parallel", "flash")))
    assert all(row.speedup is None for row in found.values())
    assert next(iter(found)) == "fla-parallel"


def test_the_papers_row_stands_at_the_papers_shapes_only() -> None:
    from jrtcli.bench.paper import published_ms

    assert published_ms("causal", 16, 32768) == 4.5 and published_ms("jrt-prompt", 64, 16384) == 17.8
    assert published_ms("flash", 8, 16384) is None and published_ms("flash", 16, 16384) == 26.6
    assert published_ms("causal", 1, 512) is None and published_ms("cudnn", 16, 2048) is None


def test_default_shapes_are_the_papers_on_a_gpu() -> None:
    shapes = default_shapes("cuda:0")
    assert len(shapes) == 10 and (16, 32768) in shapes and (2, 16384) in shapes
    assert default_shapes("cuda:0", (1,)) == tuple((1, n) for n in (2048, 4096, 8192, 16384, 32768))
    assert default_shapes("cpu", None, (64, 128)) == ((1, 64), (1, 128))


def test_sampled_attention_is_attention() -> None:
    q, k, v = torch.randn(3, 2, 200, 3, 8, dtype=torch.float64)
    want, picked = sampled_attention(q, k, v)
    whole = torch.nn.functional.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
    ).transpose(1, 2)
    assert torch.allclose(picked(whole), want, atol=1e-12)


def test_shapes_of_the_command_line() -> None:
    assert dims("16x16x112") == Dims(16, 16, 112) and dims("1536X16") == Dims(1536, 16, 1)
    for text in ("16", "16x", "0x1x1", "1x2x3x4", "axbxc"):
        with pytest.raises(UsageError, match="--shape"):
            dims(text)
