"""GLA in every published form: MLP layouts, gates, heads, convolutions, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from jrtcli.errors import JrtError
from jrtcli.models.gla import GLA, GLAConfig

CONFIG: dict[str, Any] = {
    "model_type": "gla",
    "attn_mode": "chunk",
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_heads": 2,
    "expand_k": 0.5,
    "expand_v": 1,
    "hidden_ratio": 4,
    "intermediate_size": 40,
    "hidden_act": "swish",
    "clamp_min": None,
    "use_gk": True,
    "use_gv": False,
    "use_short_conv": False,
    "fuse_norm": True,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "vocab_size": 61,
}
IDS = torch.arange(1, 41).view(2, 20)


def checkpoint(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    torch.manual_seed(0)
    model = GLA.from_config(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model.to_checkpoint()


@torch.no_grad()
def logits(config: dict[str, Any], weights: dict[str, Tensor], **options: Any) -> Tensor:
    return GLA.from_checkpoint(config, weights, **options)(IDS)


def test_published_keys_and_sizes() -> None:
    big = {k: v for k, v in CONFIG.items() if k != "intermediate_size"} | {
        "hidden_size": 2048,
        "num_heads": 4,
    }
    assert GLAConfig.from_dict(big).intermediate_size == 5632
    assert GLAConfig.from_dict(big | {"hidden_size": 2560, "num_heads": 5}).intermediate_size == 6912
    _, weights = checkpoint(CONFIG)
    attn = "model.layers.1.attn."
    assert weights[f"{attn}q_proj.weight"].shape == weights[f"{attn}k_proj.weight"].shape == (12, 24)
    assert weights[f"{attn}gk_proj.0.weight"].shape == (16, 24)
    assert weights[f"{attn}gk_proj.1.bias"].shape == (12,)
    assert weights[f"{attn}g_norm_swish_gate.weight"].shape == (12,)
    assert weights["model.embeddings.weight"].shape == weights["lm_head.weight"].shape == (61, 24)
    assert len(weights) == 3 + 2 * 14


def test_the_old_mlp_layout_is_told_by_its_shape() -> None:
    config, weights = checkpoint(CONFIG)
    old = {k: w for k, w in weights.items() if ".up_proj." not in k}
    for i in range(2):
        mlp = f"model.layers.{i}.mlp."
        old[f"{mlp}gate_proj.weight"] = torch.cat(
            [weights[f"{mlp}gate_proj.weight"], weights[f"{mlp}up_proj.weight"]]
        )
    assert torch.equal(logits(config, old), logits(config, weights))
    assert torch.equal(logits(config | {"intermediate_size": None}, old), logits(config, weights))
    without = {k: w for k, w in weights.items() if k != "model.layers.1.mlp.up_proj.weight"}
    with pytest.raises(JrtError, match=r"model.layers.1.mlp.up_proj.weight \(40, 24\) is missing"):
        GLA.from_checkpoint(config, without)


@pytest.mark.parametrize(
    "change",
    [
        {"expand_k": 1.0, "expand_v": 2.0},
        {"num_heads": 4, "num_kv_heads": 2},
        {"num_heads": 3, "num_kv_heads": 1},
        {"use_output_gate": False},
        {"elementwise_affine": False},
        {"use_short_conv": True},
        {"use_short_conv": True, "conv_size": 3, "conv_bias": True, "num_kv_heads": 1},
        {"clamp_min": -0.02},
        {"clamp_min": -3},
        {"norm_eps": 1e-2},
        {"tie_word_embeddings": True},
        {"gate_low_rank_dim": 5},
        {"fuse_norm": False},
        {"hidden_act": "silu"},
    ],
)
def test_options(change: dict[str, Any]) -> None:
    config, weights = checkpoint(CONFIG | change)
    want = logits(config, weights)
    assert torch.allclose(logits(config, weights, backend="naive"), want, atol=1e-4)
    model = GLA.from_checkpoint(config, weights)
    state = model.prefill(IDS[:, :11])[1]
    assert torch.allclose(model.prefill(IDS[:, 11:], state)[0], want[:, -1], atol=1e-4)
    again_config, again = model.to_checkpoint()
    assert again_config == config and again.keys() == weights.keys()
    assert all(torch.equal(w, weights[k]) for k, w in again.items())


def test_clamp_and_eps_change_what_the_same_weights_say() -> None:
    config, weights = checkpoint(CONFIG)
    want = logits(config, weights)
    assert not torch.allclose(logits(config | {"clamp_min": -0.02}, weights), want, atol=1e-3)
    assert torch.allclose(logits(config | {"clamp_min": -30.0}, weights), want, atol=1e-4)
    assert torch.equal(logits(config | {"norm_eps": 1e-6, "rms_norm_eps": 0.1}, weights), want)
    assert not torch.allclose(logits(config | {"rms_norm_eps": 0.1}, weights), want, atol=1e-3)


def test_shared_key_value_heads_are_repeated_heads() -> None:
    config, weights = checkpoint(CONFIG | {"num_heads": 4, "num_kv_heads": 2})
    repeated = dict(weights)
    for i in range(2):
        attn = f"model.layers.{i}.attn."
        for name, width in (("k_proj.weight", 3), ("v_proj.weight", 6), ("gk_proj.1.weight", 3)):
            w = weights[attn + name]
            repeated[attn + name] = w.view(2, width, -1).repeat_interleave(2, 0).flatten(0, 1)
        bias = weights[f"{attn}gk_proj.1.bias"]
        repeated[f"{attn}gk_proj.1.bias"] = bias.view(2, 3).repeat_interleave(2, 0).flatten()
    assert torch.allclose(
        logits(config | {"num_kv_heads": None}, repeated), logits(config, weights), atol=1e-5
    )


def test_the_norm_has_two_names() -> None:
    config, weights = checkpoint(CONFIG)
    other = {k.replace("g_norm_swish_gate", "g_norm"): w for k, w in weights.items()}
    assert torch.equal(logits(config | {"fuse_norm": False}, other), logits(config, weights))


def test_one_convolution_before_the_projections() -> None:
    config, weights = checkpoint(CONFIG | {"use_short_conv": True, "share_conv_kernel": True})
    shared = {k: w for k, w in weights.items() if "_conv1d." not in k}
    taps = torch.zeros(24, 1, 4)
    taps[:, 0, -1] = 1e-3  # silu(x / 1000) is almost x / 2000: the projections see a scaled input
    for i in range(2):
        shared[f"model.layers.{i}.attn.h_conv1d.weight"] = taps
    plain = {k: w for k, w in shared.items() if "_conv1d." not in k}
    for i in range(2):
        for name in ("q_proj", "k_proj", "v_proj", "g_proj", "gk_proj.0"):
            plain[f"model.layers.{i}.attn.{name}.weight"] = (
                weights[f"model.layers.{i}.attn.{name}.weight"] / 2000
            )
    want = logits(CONFIG | {"norm_eps": 1e-12}, plain)
    assert torch.allclose(logits(config | {"norm_eps": 1e-12}, shared), want, atol=0.05, rtol=0.02)


def test_a_missing_head_is_the_embedding() -> None:
    config, weights = checkpoint(CONFIG)
    headless = {k: w for k, w in weights.items() if k != "lm_head.weight"}
    want = logits(config, weights | {"lm_head.weight": weights["model.embeddings.weight"]})
    assert torch.allclose(logits(config, headless), want, atol=1e-6)


def test_half_precision_files() -> None:
    config, weights = checkpoint(CONFIG)
    half = {k: w.bfloat16() for k, w in weights.items()}
    want = logits(config, {k: w.float() for k, w in half.items()})
    assert torch.equal(logits(config, half), want)
    got = logits(config, half, dtype=torch.bfloat16)
    assert got.dtype == torch.float32
    assert (got - want).norm() / want.norm() < 0.05


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"use_gk": False}, "use_gk"),
        ({"use_gv": True}, "use_gv"),
        ({"feature_map": "relu"}, "feature_map"),
        ({"attn": {"layers": [0], "num_heads": 2}}, "attn"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"num_heads": 5}, "num_heads"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
    ],
)
def test_refuses_by_name(change: dict[str, Any], named: str) -> None:
    _, weights = checkpoint(CONFIG)
    with pytest.raises(JrtError, match=named):
        GLA.from_checkpoint(CONFIG | change, weights)


def test_wrong_keys_are_named_with_both_shapes() -> None:
    config, weights = checkpoint(CONFIG)
    key = "model.layers.0.attn.gk_proj.1.bias"
    with pytest.raises(JrtError, match=rf"{key} has shape \(7,\), expected \(12,\)"):
        GLA.from_checkpoint(config, weights | {key: torch.zeros(7)})
    with pytest.raises(JrtError, match=r"model.layers.2.attn_norm.weight \(24,\) is unexpected"):
        GLA.from_checkpoint(config, weights | {"model.layers.2.attn_norm.weight": torch.zeros(24)})


def test_a_training_step_reaches_every_weight() -> None:
    torch.manual_seed(0)
    model = GLA.from_config(CONFIG | {"use_short_conv": True, "num_kv_heads": 1})
    model(IDS).logsumexp(-1).sum().backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert missing == []
