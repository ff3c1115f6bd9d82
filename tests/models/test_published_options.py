"""Checkpoints in the forms and with the options that are published, against the formulas in `written_out.py`.

Every case writes a tiny random model to disk as the original trainers did (spelling, dtype, shards), loads it
as a user does, and compares logits and states.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import jrtcli
from jrtcli.errors import JrtError
from jrtcli.models.hybrid import HybridConfig


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


pub = _load("published_cases")
Hybrid = pub.ref.Hybrid

CASES: dict[str, Callable[[], Any]] = {
    "mamba": lambda: pub.mamba_case(pub.SSM, 1, form=pub.FORMS[1]),
    "mamba-hazy-shards": lambda: pub.mamba_case(
        pub.HAZY_MAMBA | {"vocab_size": 41},
        2,
        spell=pub.prefixed,
        extra=pub.METRICS,
        form=pub.FORMS[1],
        shards=3,
    ),
    "mamba-hf-shards": lambda: pub.mamba_case(
        pub.HF_MAMBA, 3, spell=pub.embeddings, leave_out=("lm_head.weight",), shards=2
    ),
    "mamba-options": lambda: pub.mamba_case(
        pub.SSM
        | {"ssm_cfg": {"d_state": 5, "d_conv": 3, "expand": 3, "dt_rank": 3}, "tie_embeddings": False},
        4,
        sizes={"n": 5, "taps": 3, "inner": 60, "rank": 3, "tied": False},
        stored=pub.all_half,
    ),
    "mamba2-mixed": lambda: pub.mamba2_case(
        pub.SSM | {"ssm_cfg": {"layer": "Mamba2", "d_state": 6, "headdim": 10}},
        5,
        {"n": 6},
        stored=pub.half_but_few,
        form=pub.FORMS[1],
    ),
    "mamba2-groups": lambda: pub.mamba2_case(
        pub.SSM | {"ssm_cfg": {"layer": "Mamba2", "d_state": 6, "headdim": 10, "ngroups": 2}},
        6,
        {"n": 6, "groups": 2},
        shards=2,
        form=pub.FORMS[1],
    ),
    "mamba2-limit": lambda: pub.mamba2_case(
        pub.SSM | {"ssm_cfg": {"layer": "Mamba2", "d_state": 6, "headdim": 10, "dt_limit": [0.2, 0.5]}},
        7,
        {"n": 6},
        limit=(0.2, 0.5),
    ),
    "mamba2-defaults": lambda: pub.mamba2_case(
        pub.SSM | {"d_model": 32, "ssm_cfg": {"layer": "Mamba2"}}, 8, {"d": 32, "n": 128, "heads": 1}
    ),
    "mamba2-hf-groups": lambda: pub.mamba2_case(
        pub.HF_MAMBA2 | {"n_groups": 4, "time_step_limit": [0.0, pub.FLOAT_INFINITY]},
        9,
        {"n": 6, "groups": 4},
        spell=pub.embeddings,
        leave_out=("lm_head.weight",),
        stored=pub.all_bfloat,
    ),
    "mamba2-hf-untied": lambda: pub.mamba2_case(
        {k: v for k, v in pub.HF_MAMBA2.items() if k != "tie_word_embeddings"}
        | {"n_groups": 1, "time_step_limit": [0.1, 0.4]},
        10,
        {"n": 6, "tied": False},
        limit=(0.1, 0.4),
        spell=pub.embeddings,
        shards=2,
    ),
    "gla-one-file-mlp": lambda: pub.gla_case({}, 11, one_file=True, stored=pub.all_bfloat, shards=2),
    "gla-clamp": lambda: pub.gla_case({"clamp_min": -0.05, "norm_eps": 1e-3}, 12, clamp=-0.05, eps=1e-3),
    "gla-shapes": lambda: pub.gla_case(
        {
            "num_heads": 4,
            "num_kv_heads": 2,
            "expand_k": 1,
            "expand_v": 2,
            "intermediate_size": 40,
            "tie_word_embeddings": True,
        },
        13,
        key=24,
        value=48,
        inner=40,
        leave_out=("lm_head.weight",),
        stored=pub.all_half,
        form=pub.FORMS[1],
    ),
    "based-old-names": lambda: pub.based(
        pub.OLD_NAMES,
        Hybrid(pub.MIXED),
        14,
        spell=pub.old_conv,
        form=pub.FORMS[1],
        shards=2,
        stored=pub.all_half,
    ),
    "based-decay": lambda: pub.based(
        pub.DECAY,
        Hybrid(pub.MIXED, log_decay=pub.LOG_DECAY),
        15,
        form=pub.FORMS[1],
        spell=pub.prefixed,
        extra=pub.METRICS | {"model.transformer.decay.decay": pub.LOG_DECAY.float()},
    ),
    "based-decay-without-projection": lambda: pub.based(
        {"fixed_decay": True}, Hybrid(pub.MIXED), 16, extra={"transformer.decay.decay": pub.LOG_DECAY.float()}
    ),
    "based-half-decay-table": lambda: pub.based(
        pub.DECAY,
        Hybrid(pub.MIXED, log_decay=pub.LOG_DECAY.half().double()),
        17,
        stored=pub.all_half,
        extra={"transformer.decay.decay": pub.LOG_DECAY.half()},
    ),
    "based-both-lists": lambda: pub.based(
        {"alt_mixer_layers": [1, 2, 3], "alt_mixer_2": pub.SLIDE | {"window_size": 7}},
        Hybrid(("conv", "linear", ("softmax", 3), "linear")),
        18,
        leave_out=("lm_head.weight",),
    ),
    "based-shapes": lambda: pub.based(
        {
            "alt_mixer": pub.LINEAR | {"feature_dim": 5, "feature_map": {"input_dim": 5}},
            "mixer": pub.CONV | {"expand_proj": 2},
            "alt_mixer_2": pub.SLIDE | {"window_size": 1},
            "layer_norm_epsilon": 1e-3,
            "n_inner": 40,
        },
        Hybrid(("conv", "linear", ("softmax", 0), "conv"), feature=5, eps=1e-3),
        19,
        expand=2,
        inner=40,
        filter_bias=True,
        tied=False,
    ),
    "based-untied-and-headless": lambda: pub.based(
        {
            "tie_word_embeddings": False,
            "alt_mixer_2": pub.SLIDE | {"window_size": 20},
            "rotary_emb_base": 50.0,
        },
        Hybrid(("linear", ("softmax", 10), "conv"), base=50.0),
        20,
        leave_out=("lm_head.weight",),
        stored=pub.all_bfloat,
    ),
    "jrt": lambda: pub.jrt({}, 21, form=pub.FORMS[1], spell=pub.prefixed, extra=pub.METRICS),
    "jrt-no-mask": lambda: pub.jrt(
        {"alt_mixer_2": pub.SLIDE | {"window_size": 11, "use_mask": True}}, 22, encoder=9, use_mask=False
    ),
    "jrt-half-shards": lambda: pub.jrt({}, 23, encoder=25, stored=pub.all_half, shards=3),
    "jrt-encoder-of-the-mixer": lambda: pub.jrt({"enc_length": None, "dec_length": None}, 24, encoder=10),
    "transformer-odd": lambda: pub.transformer(
        {"pad_vocab_size_multiple": 48}, 25, d=36, heads=2, turned=9, inner=96, shards=2
    ),
    "transformer-128": lambda: pub.transformer(
        {}, 26, d=42, heads=3, turned=7, inner=128, form=pub.FORMS[1], stored=pub.all_half
    ),
    "transformer-none": lambda: pub.transformer({"rotary_emb_fraction": 0}, 27, d=32, heads=4, turned=0),
    "transformer-all": lambda: pub.transformer({"rotary_emb_fraction": 1.0}, 28, d=32, heads=2, turned=16),
}
LENGTHS = (1, 9, 12, 19)


def close(got: Tensor, want: Tensor) -> None:
    """Within what two ways of fp32 differ by."""
    assert got.shape == want.shape
    excess = ((got - want).abs() - 1e-4 * want.abs()).max().item()
    assert excess < 3e-4, f"{excess:.2e}"


@pytest.fixture(scope="module", params=CASES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    case = CASES[request.param]()
    folder = tmp_path_factory.mktemp(request.param)
    case.write(folder)
    return case, jrtcli.load(folder, device="cpu", dtype="float32").model


def ids_of(length: int, rows: int = 2) -> Tensor:
    return torch.randint(0, 41, (rows, length), generator=torch.Generator().manual_seed(length))


@torch.no_grad()
def test_logits(loaded: tuple[Any, Any]) -> None:
    case, model = loaded
    for length in LENGTHS:
        close(model(ids_of(length)), case.reference(ids_of(length)).float())


@torch.no_grad()
def test_pieces_and_steps(loaded: tuple[Any, Any]) -> None:
    case, model = loaded
    ids = ids_of(24)
    want = case.reference(ids).float()
    for read in (1, 7, 20):
        first = min(3, read)
        if case.encoder:  # it takes its tokens at once
            first, want = min(case.encoder, read), case.reference(ids, prompt=read).float()
        logits, state = model.prefill(ids[:, :first])
        for start in range(first, read, 8):
            logits, state = model.prefill(ids[:, start : min(start + 8, read)], state)
        for t in range(read, 24):
            close(logits, want[:, t - 1])
            logits, state = model.step(ids[:, t], state)
        close(logits, want[:, -1])


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("jrt")])
def test_left_padding_of_the_published_encoder(name: str, tmp_path: Path) -> None:
    case = CASES[name]()
    case.write(tmp_path)
    model: Any = jrtcli.load(tmp_path, device="cpu", dtype="float32").model
    e = case.encoder
    for length, pads in ((e, (3, e - 1)), (e - 1, (0, 2)), (e + 1, (4, 1)), (1, (0, 1))):
        ids, mask = ids_of(length + 4), torch.ones(2, length + 4, dtype=torch.int64)
        for row, n in enumerate(pads):
            mask[row, :n] = 0
        prompt = {"tokens": ids[:, :length], "mask": mask[:, :length]}
        close(model(**prompt), case.reference(ids[:, :length], mask=mask[:, :length]).float())
        want = case.reference(ids, mask=mask, prompt=length).float()
        logits, state = model.prefill(**prompt)
        for t in range(length, length + 4):
            close(logits, want[:, t - 1])
            logits, state = model.step(ids[:, t], state)
        close(logits, want[:, -1])


def test_a_mask_that_is_ignored_may_be_any(tmp_path: Path) -> None:
    case = CASES["jrt-encoder-of-the-mixer"]()
    case.write(tmp_path)
    model: Any = jrtcli.load(tmp_path, device="cpu", dtype="float32").model
    ids, holes = ids_of(case.encoder + 1), torch.arange(2 * case.encoder + 2).view(2, -1) % 3
    assert torch.equal(model(ids, mask=holes), model(ids))
    with pytest.raises(ValueError, match="left padding"):
        model(ids[:, 1:], mask=holes[:, 1:])


def test_the_decay_table_goes_round(tmp_path: Path) -> None:
    case = CASES["based-half-decay-table"]()
    case.write(tmp_path)
    model: Any = jrtcli.load(tmp_path, device="cpu", dtype="float32").model
    _, weights = model.to_checkpoint()
    assert torch.equal(weights["transformer.decay.decay"], pub.LOG_DECAY.half().float())
    with pytest.raises(JrtError, match=r"decay.decay has 3 entries, but the linear attention 2 heads"):
        type(model).from_checkpoint(case.config, weights | {"transformer.decay.decay": -torch.ones(3)})


@pytest.mark.parametrize(("said", "seen"), [({}, 64), ({"window_size": 15}, 7), ({"window_size": -1}, None)])
def test_how_many_earlier_keys_a_window_sees(said: dict[str, int], seen: int | None) -> None:
    config = pub.GPT2 | {"n_layer": 1, "alt_mixer_2_layers": [0], "alt_mixer_2": pub.SLIDE | said}
    assert HybridConfig.from_dict(config).windows == (seen,)
