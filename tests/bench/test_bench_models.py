"""Model rows: jrt beside its peers on the same random weights, in reading and in steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jrtcli.bench import models, programs, shapes
from jrtcli.bench.ceilings import Ceilings
from jrtcli.bench.models import Plan, measure
from jrtcli.bench.rows import Row
from jrtcli.bench.shapes import SHAPES, transformer_shape, write_random
from jrtcli.errors import CheckpointError, UsageError

TINY = {
    "tiny-mamba": {
        "model_type": "mamba", "architectures": ["MambaForCausalLM"], "vocab_size": 96, "hidden_size": 64,
        "num_hidden_layers": 2, "state_size": 4,
    },
    "tiny-jrt": shapes._hybrid("jrt_rnn", 32, 4, 64, [1], num_heads=2, enc_length=16) | {"n_head": 2},
}  # fmt: skip


@pytest.fixture(autouse=True)
def tiny_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, config in TINY.items():
        monkeypatch.setitem(SHAPES, name, config)


def plan(model: str = "tiny-mamba", **change: Any) -> Plan:
    made = Plan((model,), ((1, 64),), ("torch",), (), ("float32",), "cpu", (1,), 2)
    return replace(made, **change)


def rows(made: Plan) -> list[Row]:
    ceilings = {(dtype, n): Ceilings(dtype, 1e10, 1e11) for dtype in made.dtypes for n in made.threads}
    return list(measure(made, ceilings))


def test_reading_beside_transformers_and_a_transformer() -> None:
    found = rows(plan(peers=("transformers", "transformer++")))
    assert [row.runner for row in found] == ["transformers", "transformer++", "torch", "jrt-prompt"]
    theirs, attention, ours, twice = found
    for row in found:
        assert len(row.samples_ms) == 2 and row.first_token_ms > 0  # type: ignore[operator]
        assert row.weights == "random" and row.parameters and row.over == "transformers"
        assert row.tokens_per_s == pytest.approx(64e3 / row.median_ms)  # type: ignore[operator]
    assert theirs.parameters == ours.parameters and theirs.speedup == 1
    assert ours.error < 1e-4 and theirs.error < 1e-4  # type: ignore[operator]
    assert attention.error is None and "random weights" in str(attention.note)
    assert ours.linears_share > 0 and ours.rate_share > 0  # type: ignore[operator]
    assert twice.flops == pytest.approx(2 * ours.flops, rel=0.2)  # type: ignore[operator]
    assert "128 tokens" in str(twice.note)


def test_steps_of_one_row_and_of_several() -> None:
    found = rows(plan(peers=("transformers",), shapes=((1, 8), (4, 8)), new_tokens=3))
    assert [(row.runner, row.batch) for row in found] == [
        ("transformers", 1), ("torch", 1), ("transformers", 4), ("torch", 4),
    ]  # fmt: skip
    for row in found:
        assert row.test == "decode" and row.new_tokens == 3 and row.linears_share is None
        assert row.tokens_per_s == pytest.approx(row.batch * 1e3 / row.median_ms)  # type: ignore[operator]
        assert (row.over_one_row is None) == (row.batch == 1)
    assert found[3].moved_bytes > found[1].moved_bytes  # type: ignore[operator]


def test_jrt_rnn_is_not_read_twice_and_transformers_does_not_have_it() -> None:
    found = rows(plan("tiny-jrt", peers=("transformers",)))
    assert [row.runner for row in found] == ["transformers", "torch"]
    assert "transformers has no model" in str(found[0].note) and not found[0].samples_ms
    assert found[1].samples_ms and found[1].speedup is None


def test_half_precision_and_int8_where_there_is_none() -> None:
    found = rows(plan(dtypes=("bfloat16", "int8"), peers=("transformer++",)))
    half = [row for row in found if row.dtype == "bfloat16"]
    assert all(row.samples_ms for row in half) and 1e-4 < half[1].error < 0.3  # type: ignore[operator]
    whole = [row for row in found if row.dtype == "int8"]
    assert "not timed with int8" in str(whole[0].note)
    ours = whole[1]
    assert ours.samples_ms or "no int8 weights" in str(ours.note)


def test_threads_are_compared_with_one() -> None:
    found = rows(plan(threads=(1, 2)))
    assert [row.threads for row in found] == [1, 1, 2, 2]
    assert found[0].over_one_thread is None and found[2].over_one_thread > 0  # type: ignore[operator]


def test_a_wrong_model_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = programs.Ours.step

    def step(self: Any, token: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        logits, state = whole(self, token, state)
        return logits * 1.01, state

    monkeypatch.setattr(programs.Ours, "step", step)
    found = rows(plan(backends=("torch",)))
    assert not found[0].samples_ms and str(found[0].note).startswith(
        "wrong: relative RMS error of the logits"
    )


def test_what_fails_while_it_is_timed_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = programs.Ours.read

    def read(self: Any, ids: torch.Tensor) -> tuple[torch.Tensor, Any]:
        if ids.shape[1] > 100:
            raise MemoryError
        return whole(self, ids)

    monkeypatch.setattr(programs.Ours, "read", read)
    ours, twice = rows(plan())
    assert ours.samples_ms and not twice.samples_ms and twice.note == "out of memory"


def test_a_model_that_does_not_exist_is_said() -> None:
    found = rows(plan("no-such-model"))
    assert len(found) == 1 and "no model" in str(found[0].note)
    with pytest.raises(CheckpointError):
        models.open_ours("no-such-model", "cpu", "float32", "torch")


def test_random_weights_are_the_same_each_time_and_kept(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = write_random("tiny-mamba", tmp_path / "a")
    assert torch.equal(before, torch.random.get_rng_state())
    second = write_random("tiny-mamba", tmp_path / "b")
    file = "model.safetensors"
    assert (first / file).read_bytes() == (second / file).read_bytes()
    stamp = (first / file).stat().st_mtime_ns
    assert write_random("tiny-mamba", tmp_path / "a") == first
    assert (first / file).stat().st_mtime_ns == stamp
    (first / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="another model"):
        write_random("tiny-mamba", tmp_path / "a")


def test_every_shape_is_a_configuration_of_its_architecture() -> None:
    from jrtcli.models import architecture

    for name, config in SHAPES.items():
        assert architecture(config["model_type"]).Config.from_dict(config), name  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("parameters", "width", "rows"), [(129_135_360, 768, 50280), (356_578_304, 1024, 50264)]
)
def test_a_transformer_of_the_same_size(parameters: int, width: int, rows: int) -> None:
    shape = transformer_shape(parameters, width, rows)
    d, inner = shape["hidden_size"], shape["intermediate_size"]
    made = rows * d + shape["num_hidden_layers"] * (4 * d * d + 3 * d * inner)
    assert abs(made / parameters - 1) < 0.05 and d % shape["num_attention_heads"] == 0
