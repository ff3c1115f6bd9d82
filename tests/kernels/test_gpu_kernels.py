"""What the contract does not ask of the Triton kernels: bf16 beside its own rounding, inputs that are parts
of a wider projection, outputs that hold nonsense before the launch, what is refused, blocks of a pack."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from jrt_kernels.gpu import blocks, power
from jrt_kernels.registry import OPS, Unsupported, resolve

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OURS = sorted(
    {"short_conv", "gated_norm", "sliding_window", "ssd", "selective_scan", "gla"}
    & {o for o in OPS if "triton" in OPS[o]}
)
KEPT_OLD = 31


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def projection(seed: int, *shape: int) -> Tensor:
    """(..., D) in the middle of a wider last dimension."""
    return normal(seed, *shape[:-1], 3 * shape[-1] + 5)[..., shape[-1] : 2 * shape[-1]]


def arguments(
    op: str, dim: int, dtype: torch.dtype, rows: int = 1, tokens: int = 37
) -> tuple[list[Any], dict[str, Any]]:
    """Positional and other arguments of a call from a state; tensors are parts of wider ones."""
    heads = 2

    def of_tokens(seed: int, *shape: int) -> Tensor:
        return projection(seed, rows, tokens, *shape).to(dtype)

    if op == "short_conv":
        options = {"bias": normal(3, dim), "activation": "silu", "initial_state": projection(4, rows, dim, 3)}
        return [of_tokens(1, dim), normal(2, dim, 4)], options
    if op == "gated_norm":
        return [of_tokens(1, 2 * dim), normal(2, dim)], {
            "eps": 1e-5,
            "z": of_tokens(3, 2 * dim),
            "group": dim,
            "norm_first": True,
        }
    if op == "sliding_window":
        state = (
            projection(4, rows, KEPT_OLD, heads, dim),
            projection(5, rows, KEPT_OLD, heads, dim),
            torch.full((rows,), KEPT_OLD, device=DEVICE),
        )
        return [of_tokens(i, heads, dim) for i in (1, 2, 3)], {"window": KEPT_OLD, "initial_state": state}
    if op == "ssd":
        step = torch.nn.functional.softplus(projection(4, rows, tokens, heads))
        options = {"D": normal(6, heads), "initial_state": projection(7, rows, heads, dim, 24)}
        parts = (
            of_tokens(1, heads, dim),
            step,
            -normal(5, heads).exp(),
            of_tokens(2, 1, 24),
            of_tokens(3, 1, 24),
        )
        return list(parts), options
    if op == "selective_scan":
        options = {"D": normal(6, dim), "dt_bias": normal(7, dim), "z": of_tokens(8, dim)}
        options["initial_state"] = projection(9, rows, 5, dim).transpose(1, 2)
        return [
            of_tokens(1, dim),
            of_tokens(2, dim),
            -normal(3, dim, 5).exp(),
            of_tokens(4, 5),
            of_tokens(5, 5),
        ], options
    if op == "gla":
        gates = torch.nn.functional.logsigmoid(projection(4, rows, tokens, heads, dim))
        options = {"initial_state": projection(5, rows, heads, dim, dim)}
        return [*(of_tokens(i, heads, dim) for i in (1, 2, 3)), gates], options
    raise KeyError(op)


def double(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.double() if x.is_floating_point() else x
    return tuple(double(each) for each in x) if isinstance(x, tuple) else x


def error(got: Tensor, want: Tensor) -> float:
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


def states(state: Any) -> tuple[Tensor, ...]:
    return (state,) if isinstance(state, Tensor) else tuple(state)


@pytest.mark.parametrize("dim", (16, 70, 112))
@pytest.mark.parametrize("op", OURS)
def test_bf16_errs_little_more_than_its_rounding(op: str, dim: int) -> None:
    """From an fp32 state that bf16 does not hold."""
    given, options = arguments(op, dim, torch.bfloat16)
    output, state = resolve(op, "triton")(*given, **options)
    want, want_state = resolve(op, "naive")(
        *(double(x) for x in given), **{n: double(x) for n, x in options.items()}
    )
    rounding = error(want.to(torch.bfloat16), want)
    assert error(output, want) < 1.5 * rounding
    for one, other in zip(states(state), states(want_state), strict=True):
        assert error(one, other) < 1e-5


@pytest.mark.parametrize("op", OURS)
def test_what_was_in_the_outputs_before_has_no_effect(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.empty

    def poisoned(*args: Any, **options: Any) -> Tensor:
        made = original(*args, **options)
        return made.fill_(float("nan")) if made.is_floating_point() else made.fill_(-7)

    given, options = arguments(op, 33, torch.float32, rows=2)
    want, want_state = resolve(op, "naive")(
        *(double(x) for x in given), **{n: double(x) for n, x in options.items()}
    )
    monkeypatch.setattr(torch, "empty", poisoned)
    output, state = resolve(op, "triton")(*given, **options)
    assert error(output, want) < 1e-5
    for one, other in zip(states(state), states(want_state), strict=True):
        assert error(one, other) < 1e-5


@pytest.mark.parametrize("op", OURS)
def test_nothing_is_copied_to_be_contiguous(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given, options = arguments(op, 16, torch.float32)
    of_tokens = {id(x) for x in given if isinstance(x, Tensor) and x.dim() > 2} | {id(options.get("z"))}
    original = Tensor.contiguous

    def contiguous(self: Tensor, *args: Any, **more: Any) -> Tensor:
        assert id(self) not in of_tokens
        return original(self, *args, **more)

    monkeypatch.setattr(Tensor, "contiguous", contiguous)
    resolve(op, "triton")(*given, **options)


@pytest.mark.parametrize("op", OURS)
def test_a_gradient_is_refused(op: str) -> None:
    given, options = arguments(op, 16, torch.float32)
    given[0] = given[0].clone().requires_grad_()
    with pytest.raises(Unsupported, match=f"{op}: triton has no backward; train with the backend torch"):
        resolve(op, "triton")(*given, **options)
    with torch.no_grad():
        resolve(op, "triton")(*given, **options)


@pytest.mark.parametrize("op", OURS)
def test_a_cpu_is_refused_where_nothing_interprets(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given, options = arguments(op, 16, torch.float32)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    on_cpu = [x.cpu() for x in given]
    with pytest.raises(Unsupported, match="runs on a CUDA device, not on cpu; take --backend torch"):
        resolve(op, "triton")(*on_cpu, **{n: x for n, x in options.items() if n != "initial_state"})


@pytest.mark.parametrize("op", OURS)
def test_a_pack_of_two_rows_is_refused(op: str) -> None:
    if op == "gated_norm":
        return  # knows no packs: each token is on its own
    given, options = arguments(op, 16, torch.float32, rows=2)
    with pytest.raises(ValueError, match="a pack has one row of tokens"):
        resolve(op, "triton")(*given, **options, cu_seqlens=torch.tensor([0, 37], device=DEVICE))


@pytest.mark.parametrize("lengths", [(70, 1, 0, 33, 64), (0, 0, 1), (16,), (5, 5, 5)])
def test_the_blocks_of_a_pack_hold_each_token_once(lengths: tuple[int, ...]) -> None:
    bounds = torch.tensor((0, *lengths)).cumsum(0)
    sequence, first = blocks(bounds, sum(lengths), 16)
    seen = [0] * sum(lengths)
    for n, start in zip(sequence.tolist(), first.tolist(), strict=True):
        if n == len(lengths):
            continue
        assert 0 <= start < lengths[n]
        for t in range(start, min(start + 16, lengths[n])):
            seen[int(bounds[n]) + t] += 1
    assert seen == [1] * sum(lengths)


def test_powers() -> None:
    assert [power(n) for n in (1, 2, 3, 64, 70)] == [1, 2, 4, 64, 128]
    assert power(5, 16) == 16


def test_too_wide_is_said() -> None:
    x = normal(0, 1, 2, 1, 300)
    with pytest.raises(Unsupported, match="heads of up to 256, not 300"):
        resolve("sliding_window", "triton")(x, x, x, window=4)
    with pytest.raises(Unsupported, match="one dtype"):
        resolve("sliding_window", "triton")(x[..., :8], x[..., :8].bfloat16(), x[..., :8], window=4)
    with pytest.raises(ValueError, match="activation"):
        resolve("short_conv", "triton")(x[:, :, 0], normal(0, 300, 4), activation="gelu")


@pytest.mark.parametrize("segment", (5, 8, 37))
def test_a_scan_cut_into_segments_is_the_same(segment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from jrt_kernels.selective_scan import triton

    monkeypatch.setattr(triton, "SEGMENT", segment)
    given, options = arguments("selective_scan", 40, torch.float32)
    for start in (options["initial_state"], None):
        options["initial_state"] = start
        want, want_state = resolve("selective_scan", "naive")(
            *(double(x) for x in given), **{n: double(x) for n, x in options.items()}
        )
        output, state = triton.selective_scan(*given, **options)
        assert error(output, want) < 1e-5 and error(state, want_state) < 1e-5


def test_tokens_are_cut_only_where_there_are_few_rows() -> None:
    from jrt_kernels.selective_scan.triton import PROGRAMS, SEGMENT, segment_count

    assert segment_count(1, 1) == segment_count(SEGMENT, 1) == segment_count(1 << 15, PROGRAMS) == 1
    assert segment_count(512, 128) == 8
    assert segment_count(1 << 15, 128) == 16
    for tokens in (1, 100, 4096):
        for programs in (1, 128, 3000):
            count = segment_count(tokens, programs)
            assert count == 1 or (count * programs <= PROGRAMS and tokens // count >= SEGMENT)
