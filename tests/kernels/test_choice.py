"""Which backend serves an operator: what `auto` means where a package is missing, and what is said of it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest

from jrt_kernels import registry
from jrt_kernels.registry import (
    FROM_NOTHING,
    OPS,
    ORDER,
    PACKAGES,
    Unsupported,
    choose,
    named,
    plan,
    resolve,
)
from jrtcli.errors import UsageError
from jrtcli.models import ARCHITECTURES, architecture
from jrtcli.placement import resolve_backend


def only(*installed: str) -> Callable[[str], str | None]:
    """A machine that has these packages and no other."""
    return lambda backend: None if backend in installed else f"{backend} is not installed"


def test_without_packages_torch_serves_a_gpu() -> None:
    for op in OPS:
        assert choose(op, "cuda:0", problem_of=only()) == "torch"
        assert choose(op, "cuda:0", problem_of=only("numba")) == "torch"


def test_a_gpu_gets_the_first_of_the_order_that_is_installed() -> None:
    for op, backends in OPS.items():
        assert choose(op, "cuda:1", problem_of=only(*PACKAGES)) in backends
        for package in PACKAGES:
            able = package in backends and (op, package) not in FROM_NOTHING
            assert choose(op, "cuda", problem_of=only(package)) == (package if able else "torch")


def test_what_is_installed_further_down_the_order_is_not_even_imported() -> None:
    asked = []

    def ask(backend: str) -> str | None:
        asked.append(backend)
        return None

    assert choose("short_conv", "cuda:0", problem_of=ask) == ORDER[0]
    assert asked == [ORDER[0]]


def test_a_cpu_gets_numba_or_torch_whatever_is_installed() -> None:
    for op in OPS:
        code = OPS[op].get("numba") != OPS[op]["torch"]
        assert choose(op, "cpu", problem_of=only(*PACKAGES, "numba")) == ("numba" if code else "torch")
        assert choose(op, "cpu", problem_of=only(*PACKAGES)) == "torch"
        assert choose(op, "mps", problem_of=only(*PACKAGES, "numba")) == "torch"


def test_one_operator_may_have_a_backend_of_its_own() -> None:
    assert named("gla", "triton") == "triton"
    assert named("gla", "triton,gla=fla,ssd=torch") == "fla"
    assert named("ssd", "triton,gla=fla,ssd=torch") == "torch"
    assert resolve("gla", "numba,gla=naive") is resolve("gla", "naive")
    assert resolve("ssd", "numba,gla=naive") is resolve("ssd", "numba")


def test_a_plan_names_every_operator_that_differs_from_the_main_one() -> None:
    ops = ("gla", "short_conv", "gated_norm")
    assert plan(ops, "auto", "cuda:0", problem_of=only()) == "torch"
    assert plan(ops, "torch", "cuda:0", problem_of=only(*PACKAGES)) == "torch"
    assert plan(ops, "naive", "cpu") == "naive"
    # A name serves the operators that have it.
    assert (
        plan(ops, "triton,gla=torch", "cuda:0", problem_of=only("triton"))
        == "torch,short_conv=triton,gated_norm=triton"
    )
    for spec in ("auto", "torch", "naive", "triton,gla=torch", "auto,short_conv=naive"):
        made = plan(ops, spec, "cuda:0", problem_of=only("triton"))
        assert plan(ops, made, "cuda:0", problem_of=only()) == made, "a plan stands for itself"
        for op in ops:
            assert named(op, made) in OPS[op]


def test_on_a_cpu_the_main_operator_decides_for_all() -> None:
    have = only("numba")
    assert plan(("sliding_window", "gated_norm"), "auto", "cpu", problem_of=have) == "torch"
    assert plan(("ssd", "gated_norm"), "auto", "cpu", problem_of=have) == "numba"


def test_models_name_all_their_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    used: dict[str, set[str]] = {}

    def spy(op: str, backend: str) -> Any:
        used.setdefault(backend, set()).add(op)
        return resolve(op, "torch")

    modules = {entry.split(":")[0] for entry in ARCHITECTURES.values()} | {"jrtcli.models.layers"}
    for module in modules:
        if hasattr(importlib.import_module(module), "resolve"):
            monkeypatch.setattr(f"{module}.resolve", spy)
    for kind, config in CONFIGS.items():
        architecture(kind).from_config(config, backend=kind)
    assert set(used) == set(ARCHITECTURES)
    for kind, ops in used.items():
        model = architecture(kind)
        assert ops == {model.main_op, *model.other_ops}, kind


_GPT2 = {"n_layer": 4, "n_embd": 32, "n_head": 2, "vocab_size": 40, "rms_norm": True}
_HYBRID = {
    **_GPT2,
    "alt_mixer_layers": [1, 3],
    "alt_mixer_2_layers": [2],
    "mixer": {"expand_proj": 4},
    "alt_mixer": {"feature_dim": 8, "num_heads": 2},
    "alt_mixer_2": {"window_size": 14},
}
_STATE_SPACE = {"hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 40}
CONFIGS: dict[str, dict[str, Any]] = {
    "mamba": _STATE_SPACE,
    "mamba2": {**_STATE_SPACE, "head_dim": 16, "num_heads": 4, "n_groups": 1, "state_size": 8},
    "gla": {**_STATE_SPACE, "num_heads": 2, "use_short_conv": True},
    "based": _HYBRID,
    "jrt_rnn": _HYBRID,
    "transformer": _GPT2,
}


def test_a_missing_package_is_named_with_the_extra_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    registry._import_problem.cache_clear()
    try:
        assert registry.problem("fla") == "fla is not installed: pip install 'jrt[gpu]'"
        assert registry.problem("mamba_ssm") == "mamba_ssm is not installed: pip install 'jrt[mamba-ssm]'"
        assert registry.problem("torch") is None
        with pytest.raises(
            UsageError, match=r"--backend triton: triton is not installed: pip install 'jrt\[gpu\]'"
        ):
            resolve_backend("triton", "transformer", "cuda:0")
        assert resolve_backend("auto", "based", "cuda:0") == "torch"
    finally:
        registry._import_problem.cache_clear()


def test_a_package_that_breaks_at_import_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """mamba_ssm imports its CUDA extension at once, which other versions of torch do not load."""

    def broken(name: str) -> Any:
        raise ImportError(f"No module named '{name}_cuda'")

    monkeypatch.setattr(registry, "find_spec", lambda name: object())
    monkeypatch.setattr(registry, "import_module", broken)
    registry._import_problem.cache_clear()
    try:
        said = registry.problem("mamba_ssm")
        assert said is not None and "mamba_ssm_cuda" in said and "jrt[mamba-ssm]" in said
        assert choose("ssd", "cuda:0") == "torch"
    finally:
        registry._import_problem.cache_clear()


def test_resolve_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(registry, "import_module", without)
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    registry._import_problem.cache_clear()
    try:
        with pytest.raises(
            Unsupported, match=r"short_conv: triton is not installed: pip install 'jrt\[gpu\]'"
        ):
            resolve("short_conv", "triton")
    finally:
        registry._import_problem.cache_clear()


@pytest.mark.parametrize(
    ("backend", "kind", "device", "said"),
    [
        (
            "triton",
            "transformer",
            "cpu",
            "--backend triton runs on a CUDA device, not on cpu; take --backend auto",
        ),
        ("numba", "based", "cuda:0", "--backend numba runs on a CPU, not on cuda:0; take auto"),
        (
            "numba,ssd=torch",
            "based",
            "cpu",
            "after the first name come OP=NAME, OP one of taylor_linear_attention, ",
        ),
        ("torch,short_conv", "based", "cpu", "after the first name come OP=NAME"),
        ("torch,short_conv=cuda", "based", "cpu", "based has no backend 'cuda': take auto or naive, torch"),
    ],
)
def test_a_backend_that_cannot_serve_is_refused(backend: str, kind: str, device: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        resolve_backend(backend, kind, device)
    assert said in str(error.value)


def test_a_backend_may_be_named_for_one_operator() -> None:
    assert resolve_backend("torch,short_conv=naive", "based", "cpu") == "torch,short_conv=naive"
    assert resolve_backend("torch,short_conv=torch", "based", "cpu") == "torch"
