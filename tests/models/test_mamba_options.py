"""Mamba in every published form: names, prefixes, heads, sizes, and what it refuses."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from jrtcli.errors import JrtError
from jrtcli.models.mamba import Mamba

SSM: dict[str, Any] = {
    "d_model": 24,
    "n_layer": 2,
    "vocab_size": 61,
    "ssm_cfg": {},
    "rms_norm": True,
    "residual_in_fp32": True,
    "fused_add_norm": True,
    "pad_vocab_size_multiple": 8,
}
HF: dict[str, Any] = {
    "model_type": "mamba",
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "vocab_size": 64,
    "state_size": 16,
    "conv_kernel": 4,
    "expand": 2,
    "intermediate_size": 48,
    "time_step_rank": 2,
    "layer_norm_epsilon": 1e-5,
    "hidden_act": "silu",
    "use_bias": False,
    "use_conv_bias": True,
}
IDS = torch.arange(1, 41).view(2, 20)


def checkpoint(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    torch.manual_seed(0)
    model = Mamba.from_config(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not name.endswith("A_log"):
                p.add_(0.1 * torch.randn_like(p))
    return model.to_checkpoint()


@torch.no_grad()
def logits(config: dict[str, Any], weights: dict[str, Tensor], **options: Any) -> Tensor:
    return Mamba.from_checkpoint(config, weights, **options)(IDS)


def test_published_keys_and_shapes_of_the_ssm_format() -> None:
    _, weights = checkpoint(SSM)
    assert weights["backbone.embedding.weight"].shape == (64, 24)
    assert weights["backbone.layers.1.mixer.x_proj.weight"].shape == (2 + 32, 48)
    assert weights["backbone.layers.1.mixer.conv1d.weight"].shape == (48, 1, 4)
    assert "lm_head.weight" not in weights
    assert len(weights) == 2 + 2 * 10


def test_both_formats_prefix_metrics_and_head_are_the_same_model() -> None:
    config, weights = checkpoint(SSM)
    want = logits(config, weights)
    renamed = {k.replace("backbone.embedding.", "backbone.embeddings."): w for k, w in weights.items()}
    assert torch.equal(logits(HF, renamed), want)
    with_head = weights | {"lm_head.weight": weights["backbone.embedding.weight"]}
    assert torch.equal(logits(config, with_head), want)
    hazy = {f"model.{k}": w for k, w in with_head.items()}
    hazy["train_metrics.num-tokens.count"] = torch.tensor(7)
    noise = {"n_embd": 1024, "n_head": 16, "use_fast_path": True, "scale_attn_by_inverse_layer_idx": True}
    assert torch.equal(logits(config | noise, hazy), want)


def test_a_head_of_its_own() -> None:
    config, weights = checkpoint(SSM | {"tie_embeddings": False})
    want = logits(config, weights)
    tied = logits(config, {k: w for k, w in weights.items() if k != "lm_head.weight"})
    assert not torch.allclose(want, tied)


@pytest.mark.parametrize(
    "ssm_cfg",
    [
        {"d_state": 8},
        {"d_conv": 3},
        {"expand": 3},
        {"dt_rank": 5},
        {"dt_rank": "auto", "layer": "Mamba1", "dt_min": 0.01},
        {"bias": True},
        {"conv_bias": False},
    ],
)
def test_ssm_cfg_overrides(ssm_cfg: dict[str, Any]) -> None:
    config, weights = checkpoint(SSM | {"ssm_cfg": ssm_cfg})
    want = logits(config, weights)
    # transformers spells the same
    names = {
        "d_state": "state_size",
        "d_conv": "conv_kernel",
        "dt_rank": "time_step_rank",
        "bias": "use_bias",
    }
    names |= {"conv_bias": "use_conv_bias", "expand": "expand"}
    same = HF | {names[k]: v for k, v in ssm_cfg.items() if k in names} | {"intermediate_size": None}
    assert torch.equal(logits(same, weights), want)
    # and naive computes the same
    assert torch.allclose(logits(config, weights, backend="naive"), want, atol=1e-4)


def test_sizes_follow_the_tensors_where_a_config_is_stale() -> None:
    config, weights = checkpoint(SSM | {"ssm_cfg": {"d_state": 8, "expand": 3}})
    want = logits(config, weights)
    stale = HF | {"d_inner": 7, "d_model": 5, "n_layer": 99, "time_step_rank": 9, "vocab_size": 61}
    assert torch.equal(logits(stale, weights), want)


def test_mixed_and_half_precision_files() -> None:
    config, weights = checkpoint(SSM)
    mixed = {k: w if k.endswith((".D", "A_log")) else w.half() for k, w in weights.items()}
    want = logits(config, {k: w.float() for k, w in mixed.items()})
    assert torch.equal(logits(config, mixed), want)
    half = Mamba.from_checkpoint(config, weights, dtype=torch.bfloat16)
    assert half.layers[0].mixer.A_log.dtype == torch.float32  # type: ignore[union-attr]
    assert half.layers[0].mixer.in_proj.weight.dtype == torch.bfloat16  # type: ignore[union-attr]
    got, state = half.prefill(IDS)
    assert got.dtype == torch.float32
    assert {t.dtype for layer in state.layers for t in layer.values()} == {torch.float32}
    exact = logits(config, weights)[:, -1]
    assert (got - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize("config", [SSM, HF])
def test_to_checkpoint_goes_round(config: dict[str, Any]) -> None:
    first_config, weights = checkpoint(config)
    again_config, again = Mamba.from_checkpoint(first_config, weights).to_checkpoint()
    assert again_config == config
    assert again.keys() == weights.keys()
    assert all(torch.equal(w, weights[k]) for k, w in again.items())
    table = "backbone.embeddings.weight" if "hidden_size" in config else "backbone.embedding.weight"
    assert table in again


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rms_norm": False}, "rms_norm"),
        ({"d_intermediate": 64}, "d_intermediate"),
        ({"attn_layer_idx": [1]}, "attn_layer_idx"),
        ({"ssm_cfg": {"layer": "Mamba2"}}, "Mamba2"),
        ({"ssm_cfg": {"d_stat": 8}}, "d_stat"),
        ({"n_layer": None}, "n_layer"),
    ],
)
def test_refuses_by_name(change: dict[str, Any], named: str) -> None:
    _, weights = checkpoint(SSM)
    with pytest.raises(JrtError, match=named):
        Mamba.from_checkpoint(SSM | change, weights)


def test_wrong_keys_are_named_with_both_shapes() -> None:
    config, weights = checkpoint(SSM)
    key = "backbone.layers.0.mixer.A_log"
    without = {k: w for k, w in weights.items() if k != key}
    with pytest.raises(JrtError, match=rf"{key} \(48, 16\) is missing"):
        Mamba.from_checkpoint(config, without)
    with pytest.raises(JrtError, match=r"backbone.layers.0.mixer.extra \(3,\) is unexpected"):
        Mamba.from_checkpoint(config, weights | {"backbone.layers.0.mixer.extra": torch.zeros(3)})
    with pytest.raises(JrtError, match=rf"{key} has shape \(48, 15\), expected \(48, 16\)"):
        Mamba.from_checkpoint(config, weights | {key: torch.zeros(48, 15)})
    with pytest.raises(JrtError, match=r"lm_head.weight has shape \(60, 24\), expected \(64, 24\)"):
        Mamba.from_checkpoint(config, weights | {"lm_head.weight": torch.zeros(60, 24)})


def test_a_training_step_reaches_every_weight() -> None:
    torch.manual_seed(0)
    model = Mamba.from_config(SSM)
    model(IDS).logsumexp(-1).sum().backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert missing == []


def test_fast_products_follow_a_change_of_the_weights() -> None:
    config, weights = checkpoint(SSM)
    model = Mamba.from_checkpoint(config, {k: w.clone() for k, w in weights.items()})
    model.prefill(torch.arange(50)[None])
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.9)
    fresh = Mamba.from_checkpoint(config, {k: w.clone() for k, w in model.to_checkpoint()[1].items()})
    ids = torch.arange(50)[None]
    assert torch.equal(model.prefill(ids)[0], fresh.prefill(ids)[0])
    assert torch.equal(twin.prefill(ids)[0], Mamba.from_checkpoint(config, weights).prefill(ids)[0])
    model.double()
    assert model.prefill(ids)[0].dtype == torch.float64
