"""What every operator promises in every backend: a new line of OPS is tested here with no new test file.

The reference is always `naive` in fp64; the measure is relative RMS error over an output or a state tensor.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from jrt_kernels.registry import OPS, PACKAGES, Unsupported, choose, resolve

FP32_TOLERANCE = 1e-5
FP64_TOLERANCE = 1e-10
BF16_OUTPUT_TOLERANCE = 4e-3  # one rounding of the output to 8 bits: 2^-9 of each value
ODD_LENGTHS = (1, 2, 3, 17, 63, 64, 65, 130, 257)

Tensors = dict[str, Tensor]
Make = Callable[[torch.Generator, int, int], Tensors]


@dataclass(frozen=True)
class Case:
    """One op with one choice of options."""

    op: str
    name: str
    tokens: Make  # (generator, rows, length) -> per-token tensors (rows, length, ...)
    parameters: Callable[[torch.Generator], Tensors] = lambda generator: {}
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def prefix(self) -> bool:
        return self.op == "prefix_linear_attention"


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator)


def _scan_tokens(shift: float) -> Make:
    """Steps dt around softplus(shift): with a large one a token forgets all before it."""

    def make(g: torch.Generator, b: int, t: int) -> Tensors:
        dt = softplus(3 * _normal(g, b, t, 12) + shift)
        return {"x": _normal(g, b, t, 12), "dt": dt, "B": _normal(g, b, t, 5), "C": _normal(g, b, t, 5)}

    return make


def _fused_scan_tokens(g: torch.Generator, b: int, t: int) -> Tensors:
    raw = {"dt": 2 * _normal(g, b, t, 12) - 1, "z": 2 * _normal(g, b, t, 12)}
    return {**_scan_tokens(0)(g, b, t), **raw}


def _norm_tokens(gate: bool) -> Make:
    def make(g: torch.Generator, b: int, t: int) -> Tensors:
        x = {"x": 3 * _normal(g, b, t, 24)}
        return {**x, "z": 2 * _normal(g, b, t, 24)} if gate else x

    return make


def _scan_parameters(g: torch.Generator) -> Tensors:
    return {"A": -torch.exp(_normal(g, 12, 5)), "D": _normal(g, 12)}


def _ssd_tokens(groups: int, shift: float = -1) -> Make:
    def make(g: torch.Generator, b: int, t: int) -> Tensors:
        dt = softplus(3 * _normal(g, b, t, 4) + shift)
        b_c = {name: _normal(g, b, t, groups, 6) for name in ("B", "C")}
        return {"x": _normal(g, b, t, 4, 8), "dt": dt, **b_c}

    return make


def _ssd_parameters(g: torch.Generator) -> Tensors:
    return {"A": -torch.exp(_normal(g, 4)), "D": _normal(g, 4)}


def _qkv(k: int, v: int, *extra: str, heads: int = 2) -> Make:
    def make(g: torch.Generator, b: int, t: int) -> Tensors:
        made = {name: _normal(g, b, t, heads, k) for name in ("q", "k")}
        made["v"] = _normal(g, b, t, heads, v)
        if "g" in extra:
            made["g"] = logsigmoid(3 * _normal(g, b, t, heads, k) + 3) / 4
        if "hard" in extra:
            # Some channels keep everything, some lose all at a token: a product of gates underflows, and a
            # chunked form that divides by it overflows.
            made["g"] = -torch.exp(4 * _normal(g, b, t, heads, k) - 2)
        if "enc" in extra:
            made["k_enc"], made["v_enc"] = _normal(g, b, t, heads, k), _normal(g, b, t, heads, v)
        return made

    return make


def _conv_tokens(g: torch.Generator, b: int, t: int) -> Tensors:
    return {"x": _normal(g, b, t, 7)}


def _conv(width: int, bias: bool) -> Callable[[torch.Generator], Tensors]:
    def make(g: torch.Generator) -> Tensors:
        return {"weight": _normal(g, 7, width), **({"bias": _normal(g, 7)} if bias else {})}

    return make


CASES = [
    Case("selective_scan", "skip", _scan_tokens(-2), _scan_parameters),
    Case("selective_scan", "large_steps", _scan_tokens(5), _scan_parameters),
    Case("selective_scan", "plain", _scan_tokens(-4), lambda g: {**_scan_parameters(g), "D": None}),  # type: ignore[dict-item]
    Case(
        "selective_scan",
        "step_and_gate",
        _fused_scan_tokens,
        lambda g: {**_scan_parameters(g), "dt_bias": _normal(g, 12)},
    ),
    Case("gated_norm", "plain", _norm_tokens(False), lambda g: {"weight": _normal(g, 24)}, (("eps", 1e-5),)),
    Case("gated_norm", "gate", _norm_tokens(True), lambda g: {"weight": _normal(g, 24)}, (("eps", 1e-5),)),
    Case(
        "gated_norm",
        "groups_then_gate",
        _norm_tokens(True),
        lambda g: {"weight": _normal(g, 8)},
        (("eps", 1e-2), ("group", 8), ("norm_first", True)),
    ),
    Case("gated_norm", "no_weight", _norm_tokens(False), options=(("eps", 1e-5), ("group", 12))),
    Case("ssd", "one_group", _ssd_tokens(1), _ssd_parameters),
    Case("ssd", "large_steps", _ssd_tokens(1, 5), _ssd_parameters),
    Case("ssd", "two_groups", _ssd_tokens(2), lambda g: {**_ssd_parameters(g), "D": None}),  # type: ignore[dict-item]
    Case("gla", "default_scale", _qkv(8, 12, "g")),
    Case("gla", "hard_gates", _qkv(16, 8, "hard")),
    Case("gla", "given_scale", _qkv(16, 8, "g"), options=(("scale", 0.5),)),
    Case("taylor_linear_attention", "plain", _qkv(16, 8)),
    Case("taylor_linear_attention", "small_keys", _qkv(8, 5)),
    Case(
        "taylor_linear_attention",
        "decay",
        _qkv(16, 8),
        lambda g: {"decay": 1 - torch.exp2(-3 - torch.arange(2.0))},
    ),
    Case("prefix_linear_attention", "plain", _qkv(16, 8, "enc")),
    Case("short_conv", "width4_silu", _conv_tokens, _conv(4, True), (("activation", "silu"),)),
    Case("short_conv", "width3", _conv_tokens, _conv(3, False), (("bias", None), ("activation", None))),
    Case("sliding_window", "window9", _qkv(8, 8), options=(("window", 9),)),
    Case("sliding_window", "window64", _qkv(8, 8), options=(("window", 64),)),
    Case("sliding_window", "all", _qkv(8, 8), options=(("window", None),)),
]
PAIRS = [
    pytest.param(
        case,
        backend,
        id=f"{case.op}-{case.name}-{backend}",
        # Other people's kernels run on a GPU only; ours in Triton's interpreter too.
        marks=[pytest.mark.gpu] if backend in PACKAGES and backend != "triton" else [],
    )
    for case in CASES
    for backend in OPS[case.op]
]
every_case = pytest.mark.parametrize(("case", "backend"), PAIRS)


def _flatten(state: Any) -> tuple[Tensor, ...]:
    return (state,) if isinstance(state, Tensor) else tuple(state)


def _map(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return change(state) if isinstance(state, Tensor) else type(state)(change(each) for each in state)


def _cast(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    return {n: x.to(dtype) if x is not None and x.is_floating_point() else x for n, x in tensors.items()}


def _double(state: Any) -> Any:
    return None if state is None else _map(state, lambda x: x.double() if x.is_floating_point() else x)


def _some(case: Case, backend: str, tokens: int) -> int:
    """As many tokens; a quarter where Triton's interpreter would take milliseconds for each."""
    slow = case.op in ("selective_scan", "ssd", "gla", "sliding_window")
    return -(-tokens // 4) if slow and _interpreted(backend) else tokens


def _interpreted(backend: str) -> bool:
    return backend == "triton" and not torch.cuda.is_available()


def _inputs(case: Case, seed: int, rows: int, length: int) -> tuple[Tensors, Tensors]:
    generator = torch.Generator().manual_seed(seed)
    return case.tokens(generator, rows, length), case.parameters(generator)


def _call(case: Case, backend: str, tokens: Tensors, parameters: Tensors, **more: Any) -> tuple[Tensor, Any]:
    given = {**tokens, **parameters, **more}
    if backend in PACKAGES and torch.cuda.is_available():
        given = {name: _moved(x, "cuda") for name, x in given.items()}
    try:
        result: tuple[Tensor, Any] = resolve(case.op, backend)(**given, **dict(case.options))
        result = _moved(result, "cpu")
    except Unsupported as reason:
        assert backend not in ("naive", "torch"), f"{case.op}: {backend} must do everything: {reason}"
        pytest.skip(str(reason))
    return result


def _moved(x: Any, device: str) -> Any:
    if isinstance(x, tuple):
        return tuple(_moved(each, device) for each in x)
    return x.to(device) if isinstance(x, Tensor) else x


def _reference(case: Case, tokens: Tensors, parameters: Tensors, **more: Any) -> tuple[Tensor, Any]:
    if "initial_state" in more:
        more["initial_state"] = _double(more["initial_state"])
    return _call(case, "naive", _cast(tokens, torch.float64), _cast(parameters, torch.float64), **more)


def _error(got: Tensor, want: Tensor) -> float:
    """||got - want|| / ||want||, both empty: 0."""
    assert got.shape == want.shape, f"shape {tuple(got.shape)}, want {tuple(want.shape)}"
    if not want.numel():
        return 0.0
    difference = (got.double() - want.double()).norm().item()
    assert math.isfinite(difference), "not finite"
    return difference / max(want.double().norm().item(), 1e-30)


def _same(got: tuple[Tensor, Any], want: tuple[Tensor, Any], output: float, state: float) -> None:
    error = _error(got[0], want[0])
    assert error < output, f"output: relative RMS error {error:.2e}, allowed {output:.0e}"
    _same_state(got[1], want[1], state)


def _same_state(got: Any, want: Any, tolerance: float) -> None:
    for i, (one, other) in enumerate(zip(_flatten(got), _flatten(want), strict=True)):
        error = _error(one, other)
        assert error < tolerance, f"state tensor {i}: relative RMS error {error:.2e}, allowed {tolerance:.0e}"


def _slice(tokens: Tensors, start: int, stop: int) -> Tensors:
    return {name: x[:, start:stop] for name, x in tokens.items()}


def _row(state: Any, i: int) -> Any:
    return _map(state, lambda x: x[i : i + 1])


def _aligned(case: Case, state: Any, like: Any) -> Any:
    """Keys that are right-aligned in a longer buffer, cut to the length of another state's buffer."""
    if case.op != "sliding_window":
        return state
    k, v, length = state
    size = like[0].shape[1]
    assert not k[:, : k.shape[1] - size].any(), "the part of the buffer before the keys must be zero"
    return k[:, k.shape[1] - size :], v[:, v.shape[1] - size :], length


def test_every_op_has_a_case() -> None:
    assert {case.op for case in CASES} == set(OPS), "give a new op its arguments in CASES"


def test_every_entry_resolves_and_auto_chooses_one_of_them() -> None:
    for op, backends in OPS.items():
        assert "naive" in backends
        for backend in backends:
            assert callable(resolve(op, backend))
        assert choose(op, "cpu") in backends


def test_unknown_names_are_refused() -> None:
    with pytest.raises(Unsupported, match="no backend 'abacus'"):
        resolve("gla", "abacus")
    with pytest.raises(KeyError):
        resolve("abacus", "naive")
    with pytest.raises(KeyError):
        choose("abacus", "cpu")


@every_case
@pytest.mark.parametrize("length", ODD_LENGTHS)
def test_dense_equals_naive(case: Case, backend: str, length: int) -> None:
    length = _some(case, backend, length)
    tokens, parameters = _inputs(case, length, 2, length)
    got = _call(case, backend, tokens, parameters)
    assert got[0].dtype == torch.float32
    assert all(x.dtype in (torch.float32, torch.int64) for x in _flatten(got[1]))
    _same(got, _reference(case, tokens, parameters), FP32_TOLERANCE, FP32_TOLERANCE)


@every_case
def test_fp64_inputs_are_computed_in_fp64(case: Case, backend: str) -> None:
    tokens, parameters = _inputs(case, 1, 2, 130)
    double = _cast(tokens, torch.float64), _cast(parameters, torch.float64)
    got = _call(case, backend, *double)
    assert got[0].dtype == torch.float64
    _same(got, _reference(case, tokens, parameters), FP64_TOLERANCE, FP64_TOLERANCE)


@every_case
def test_half_precision_inputs_keep_an_fp32_state(case: Case, backend: str) -> None:
    tokens, parameters = _inputs(case, 2, 2, _some(case, backend, 130))
    half = _cast(tokens, torch.bfloat16)
    got = _call(case, backend, half, parameters)
    assert got[0].dtype == torch.bfloat16
    assert all(x.dtype in (torch.float32, torch.int64) for x in _flatten(got[1]))
    # A GPU's matrix products take features rounded to bf16; their sum is in fp32.
    state = BF16_OUTPUT_TOLERANCE if backend in PACKAGES else FP32_TOLERANCE
    _same(got, _reference(case, half, parameters), BF16_OUTPUT_TOLERANCE, state)


@every_case
@pytest.mark.parametrize("length", (1, 70))
def test_continues_from_a_state_and_changes_nothing_given(case: Case, backend: str, length: int) -> None:
    tokens, parameters = _inputs(case, 3, 2, 37 + length)
    encoder = {"encoder_lengths": torch.tensor([11, 37])} if case.prefix else {}
    nothing = {"encoder_lengths": torch.zeros(2, dtype=torch.int64)} if case.prefix else {}
    whole = _reference(case, tokens, parameters, **encoder)
    _, state = _call(case, backend, _slice(tokens, 0, 37), parameters, **encoder)
    rest = _slice(tokens, 37, 37 + length)
    before = [x.clone() for x in (*rest.values(), *_flatten(state))]
    output, final = _call(case, backend, rest, parameters, initial_state=state, **nothing)
    for was, now in zip(before, (*rest.values(), *_flatten(state)), strict=True):
        assert torch.equal(was, now), "an input was modified"
    _same((output, final), (whole[0][:, 37:], whole[1]), FP32_TOLERANCE, FP32_TOLERANCE)


@every_case
def test_token_by_token_equals_at_once(case: Case, backend: str) -> None:
    tokens, parameters = _inputs(case, 4, 2, 20)
    encoder = {"encoder_lengths": torch.tensor([1, 1])} if case.prefix else {}
    whole = _reference(case, tokens, parameters, **encoder)
    outputs, state = [], None
    for t in range(20):
        more = {"encoder_lengths": torch.tensor([1, 1]) * (t == 0)} if case.prefix else {}
        if state is not None:
            more["initial_state"] = state
        output, state = _call(case, backend, _slice(tokens, t, t + 1), parameters, **more)
        outputs.append(output)
    _same((torch.cat(outputs, 1), state), whole, FP32_TOLERANCE, FP32_TOLERANCE)


def _packed(case: Case, backend: str, lengths: Sequence[int], *, from_state: bool) -> None:
    lengths = [_some(case, backend, n) for n in lengths]
    tokens, parameters = _inputs(case, sum(lengths), 1, sum(lengths))
    bounds = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    more: dict[str, Any] = {}
    if from_state:
        before, _ = _inputs(case, 99, len(lengths), 21)
        more["initial_state"] = _call(case, backend, before, parameters)[1]
    encoder = [min(5 + 7 * i, n) for i, n in enumerate(lengths)]
    if case.prefix:
        more["encoder_lengths"] = torch.tensor(encoder)
    output, state = _call(case, backend, tokens, parameters, cu_seqlens=torch.tensor(bounds), **more)
    for i, (start, stop) in enumerate(itertools.pairwise(bounds)):
        alone: dict[str, Any] = {}
        if from_state:
            alone["initial_state"] = _row(more["initial_state"], i)
        if case.prefix:
            alone["encoder_lengths"] = torch.tensor(encoder[i : i + 1])
        if start == stop:
            if from_state:
                want = alone["initial_state"]
                _same_state(_aligned(case, _row(state, i), want), want, FP32_TOLERANCE)
            continue
        want_output, want = _reference(case, _slice(tokens, start, stop), parameters, **alone)
        got = _aligned(case, _row(state, i), want)
        _same((output[:, start:stop], got), (want_output, want), FP32_TOLERANCE, FP32_TOLERANCE)


@every_case
@pytest.mark.parametrize("from_state", (False, True), ids=("fresh", "from_state"))
def test_packed_equals_each_sequence_alone(case: Case, backend: str, from_state: bool) -> None:
    _packed(case, backend, (70, 1, 0, 33, 64), from_state=from_state)


@every_case
@settings(max_examples=6, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(0, 80), min_size=1, max_size=5).filter(lambda x: sum(x) > 0))
def test_any_pack_equals_each_sequence_alone(case: Case, backend: str, lengths: list[int]) -> None:
    if _interpreted(backend):
        lengths = lengths[:2]  # each costs launches of a tenth of a second
    _packed(case, backend, lengths, from_state=True)


@every_case
def test_strided_inputs(case: Case, backend: str) -> None:
    tokens, parameters = _inputs(case, 5, 2, _some(case, backend, 66))
    strided = {n: torch.stack((x, x), -1)[..., 0] for n, x in tokens.items()}
    assert not any(x.is_contiguous() for x in strided.values())
    _same(
        _call(case, backend, strided, parameters),
        _reference(case, tokens, parameters),
        FP32_TOLERANCE,
        FP32_TOLERANCE,
    )


@pytest.mark.parametrize("case", [pytest.param(c, id=f"{c.op}-{c.name}") for c in CASES])
@pytest.mark.parametrize("length", (1, 70))
def test_torch_gradients_equal_those_of_naive(case: Case, length: int) -> None:
    def gradients(backend: str) -> list[Tensor]:
        tokens, parameters = _inputs(case, 6, 2, length)
        before, _ = _inputs(case, 7, 2, 9)
        tokens, parameters = _cast(tokens, torch.float64), _cast(parameters, torch.float64)
        state = _double(_call(case, "naive", before, parameters)[1])
        leaves = [
            x.requires_grad_()
            for x in (*tokens.values(), *parameters.values(), *_flatten(state))
            if x is not None and x.is_floating_point()
        ]
        output, final = _call(case, backend, tokens, parameters, initial_state=state)
        generator = torch.Generator().manual_seed(8)
        loss = (output * torch.randn(output.shape, generator=generator).double()).sum()
        for x in _flatten(final):
            if x.is_floating_point():
                loss = loss + (x * torch.randn(x.shape, generator=generator).double()).sum()
        return list(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))

    for i, (got, want) in enumerate(zip(gradients("torch"), gradients("naive"), strict=True)):
        assert _error(got, want) < 1e-8, f"gradient of input {i}"
