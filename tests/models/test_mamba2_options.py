"""Mamba-2 in every published form: sizes, groups, step limits, norms, and what it refuses."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from jrtcli.errors import JrtError
from jrtcli.models.mamba2 import GatedNorm, Mamba2, Mamba2Config

SMALL = {"layer": "Mamba2", "d_state": 8, "headdim": 6}
SSM: dict[str, Any] = {
    "d_model": 24,
    "d_intermediate": 0,
    "n_layer": 2,
    "vocab_size": 61,
    "ssm_cfg": SMALL,
    "attn_layer_idx": [],
    "attn_cfg": {},
    "rms_norm": True,
    "residual_in_fp32": True,
    "fused_add_norm": True,
    "pad_vocab_size_multiple": 16,
    "tie_embeddings": True,
}
HF: dict[str, Any] = {
    "model_type": "mamba2",
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "vocab_size": 64,
    "state_size": 8,
    "num_heads": 8,
    "head_dim": 6,
    "n_groups": 1,
    "expand": 2,
    "conv_kernel": 4,
    "chunk_size": 32,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "time_step_limit": [0.0, math.inf],
    "norm_before_gate": True,
}
IDS = torch.arange(1, 41).view(2, 20)


def checkpoint(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    torch.manual_seed(0)
    model = Mamba2.from_config(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.to_checkpoint()


@torch.no_grad()
def logits(config: dict[str, Any], weights: dict[str, Tensor], **options: Any) -> Tensor:
    return Mamba2.from_checkpoint(config, weights, **options)(IDS)


def ssm(**cfg: Any) -> dict[str, Any]:
    return SSM | {"ssm_cfg": SMALL | cfg}


def test_published_sizes_of_the_ssm_format() -> None:
    config = Mamba2Config.from_dict(
        {"d_model": 768, "n_layer": 24, "vocab_size": 50277, "ssm_cfg": {"layer": "Mamba2"}}
        | {"pad_vocab_size_multiple": 16}
    )
    assert (config.vocab_rows, config.num_heads, config.state_size, config.n_groups) == (50288, 24, 128, 1)
    assert config.time_step_limit == (0.0, math.inf) and config.tied and not config.norm_before_gate
    _, weights = checkpoint(SSM)
    assert weights["backbone.layers.0.mixer.in_proj.weight"].shape == (2 * 48 + 2 * 8 + 8, 24)
    assert weights["backbone.layers.0.mixer.conv1d.weight"].shape == (48 + 16, 1, 4)
    assert len(weights) == 2 + 2 * 9


def test_both_formats_and_prefix_are_the_same_model() -> None:
    config, weights = checkpoint(SSM)
    want = logits(config, weights)
    renamed = {k.replace("backbone.embedding.", "backbone.embeddings."): w for k, w in weights.items()}
    assert torch.equal(logits(HF, renamed), want)
    wrapped = {f"model.{k}": w for k, w in weights.items()}
    assert torch.equal(logits(config, wrapped | {"val_metrics.loss": torch.tensor(1)}), want)


@pytest.mark.parametrize(
    "cfg",
    [
        {"ngroups": 2},
        {"ngroups": 4, "headdim": 12},
        {"d_conv": 3, "expand": 3, "chunk_size": 7},
        {"bias": True},
        {"conv_bias": False},
        {"dt_limit": [0.01, 0.05]},
        {"rmsnorm": False},
        {"norm_before_gate": True},
        {"norm_before_gate": True, "ngroups": 2},
        {"d_ssm": 24},
    ],
)
def test_ssm_cfg_overrides(cfg: dict[str, Any]) -> None:
    config, weights = checkpoint(ssm(**cfg))
    want = logits(config, weights)
    assert torch.allclose(logits(config, weights, backend="naive"), want, atol=1e-4)
    model = Mamba2.from_checkpoint(config, weights)
    state = model.prefill(IDS[:, :11])[1]
    assert torch.allclose(model.prefill(IDS[:, 11:], state)[0], want[:, -1], atol=1e-4)
    # An option that is not an option of the plain model changes what the same weights say.
    plain = {"dt_limit", "norm_before_gate"} & cfg.keys()
    if plain:
        without = ssm(**{k: v for k, v in cfg.items() if k not in plain})
        assert not torch.allclose(logits(without, weights), want, atol=1e-3)


@pytest.mark.parametrize("infinity", ['{"__float__": "Infinity"}', "Infinity", '"Infinity"', "1e30"])
def test_spellings_of_no_limit(infinity: str) -> None:
    config, weights = checkpoint(HF)
    limit = json.loads(f"[0.0, {infinity}]")
    assert torch.equal(logits(config | {"time_step_limit": limit}, weights), logits(config, weights))


def test_step_limit_clamps_after_softplus() -> None:
    config, weights = checkpoint(HF)
    key = "backbone.layers.{}.mixer.dt_bias"
    fixed = weights | {key.format(i): torch.full((8,), 50.0) for i in range(2)}  # softplus of it is about 50
    limited = logits(config | {"time_step_limit": [0.0, 0.5]}, fixed)
    inverse = math.log(math.expm1(0.5))
    same = dict(weights)
    for i in range(2):
        same[key.format(i)] = torch.full((8,), inverse)
        projection = same[f"backbone.layers.{i}.mixer.in_proj.weight"].clone()
        projection[-8:] = 0  # the step of a token is then its bias alone
        same[f"backbone.layers.{i}.mixer.in_proj.weight"] = projection
    assert torch.allclose(limited, logits(config, same), atol=1e-4)


def test_transformers_ignores_norm_before_gate() -> None:
    config, weights = checkpoint(HF)
    assert torch.equal(logits(config | {"norm_before_gate": False}, weights), logits(config, weights))


def test_grouped_norm_by_hand() -> None:
    for before in (False, True):
        config = Mamba2Config.from_dict(ssm(ngroups=2, norm_before_gate=before))
        norm = GatedNorm(config, "torch")
        torch.manual_seed(0)
        with torch.no_grad():
            norm.weight.normal_()
            y, z = torch.randn(3, 48), torch.randn(3, 48)
            gate = z / (1 + torch.exp(-z))
            inner = y if before else y * gate
            halves = [h / (h.square().mean(-1, keepdim=True) + 1e-5).sqrt() for h in inner.chunk(2, -1)]
            want = torch.cat(halves, -1) * norm.weight * (gate if before else 1)
            assert torch.allclose(norm(y, z), want, atol=1e-5)


@pytest.mark.parametrize("stale", [{"n_groups": None}, {"n_groups": 1}, {"num_heads": 3, "vocab_size": 61}])
def test_sizes_follow_the_tensors_where_a_config_is_stale(stale: dict[str, Any]) -> None:
    config, weights = checkpoint(HF | {"n_groups": 2})
    assert torch.equal(logits(HF | {"n_groups": 2} | stale, weights), logits(config, weights))


def test_head_untied_by_default_in_transformers_format() -> None:
    bare = {k: v for k, v in HF.items() if k != "tie_word_embeddings"}
    config, weights = checkpoint(bare)
    assert "lm_head.weight" in weights
    tied = logits(
        config, {k: w for k, w in weights.items() if k != "lm_head.weight"}
    )  # left out: the embedding
    assert not torch.allclose(logits(config, weights), tied)


def test_mixed_precision_files() -> None:
    config, weights = checkpoint(SSM)
    fp32 = (".D", "A_log", "dt_bias")
    mixed = {k: w if k.endswith(fp32) else w.half() for k, w in weights.items()}
    want = logits(config, {k: w.float() for k, w in mixed.items()})
    assert torch.equal(logits(config, mixed), want)
    got = logits(config, mixed, dtype=torch.bfloat16)
    assert (got - want).norm() / want.norm() < 0.05


@pytest.mark.parametrize("config", [SSM, HF, ssm(ngroups=2), ssm(d_ssm=24)])
def test_to_checkpoint_goes_round(config: dict[str, Any]) -> None:
    first_config, weights = checkpoint(config)
    again_config, again = Mamba2.from_checkpoint(first_config, weights).to_checkpoint()
    assert again_config == config
    assert again.keys() == weights.keys()
    assert all(torch.equal(w, weights[k]) for k, w in again.items())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rms_norm": False}, "rms_norm"),
        ({"d_intermediate": 64}, "d_intermediate"),
        ({"attn_layer_idx": [1]}, "attn_layer_idx"),
        ({"ssm_cfg": {}}, "Mamba1"),
        ({"ssm_cfg": SMALL | {"D_has_hdim": True}}, "D_has_hdim"),
        ({"ssm_cfg": SMALL | {"n_groups": 2}}, "n_groups"),
    ],
)
def test_refuses_by_name(change: dict[str, Any], named: str) -> None:
    _, weights = checkpoint(SSM)
    with pytest.raises(JrtError, match=named):
        Mamba2.from_checkpoint(SSM | change, weights)


def test_wrong_keys_are_named_with_both_shapes() -> None:
    config, weights = checkpoint(SSM)
    key = "backbone.layers.1.mixer.conv1d.weight"
    with pytest.raises(JrtError, match=rf"{key} \(64, 1, 4\) is missing"):
        Mamba2.from_checkpoint(config, {k: w for k, w in weights.items() if k != key})
    with pytest.raises(JrtError, match=rf"{key} has shape \(60, 1, 4\), expected \(64, 1, 4\)"):
        Mamba2.from_checkpoint(config, weights | {key: torch.zeros(60, 1, 4)})


def test_a_training_step_reaches_every_weight() -> None:
    torch.manual_seed(0)
    model = Mamba2.from_config(ssm(ngroups=2, d_ssm=24))
    model(IDS).logsumexp(-1).sum().backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert missing == []
