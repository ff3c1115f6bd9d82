"""StateSpaceLM: what Mamba and Mamba-2 share: the two published formats, the block, the backbone.

Formats: state-spaces/mamba (`d_model`, `n_layer`, `ssm_cfg`) and transformers (`hidden_size`, ...); both have
the keys `backbone.{embedding|embeddings,layers.{i}.{norm,mixer},norm_f}`, and mostly a tied head.
B batch, T tokens, D model dim, V vocabulary rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from jrtcli.errors import CheckpointError
from jrtcli.models.layers import Pointwise, RMSNorm
from jrtcli.models.planned import PlannedLM
from jrtcli.models.published import Unfilled, fill, plain_names, refuse, settle, sizes
from jrtcli.models.span import LayerState, Span

if TYPE_CHECKING:
    from jrt_kernels.jit.plan import TokenPlan

# state-spaces/mamba's name -> transformers' name
_SSM_NAMES = {
    "d_state": "state_size",
    "d_conv": "conv_kernel",
    "expand": "expand",
    "dt_rank": "time_step_rank",
    "bias": "use_bias",
    "conv_bias": "use_conv_bias",
    "headdim": "head_dim",
    "ngroups": "n_groups",
    "dt_limit": "time_step_limit",
    "d_ssm": "d_ssm",
    "rmsnorm": "rmsnorm",
    "norm_before_gate": "norm_before_gate",
}
# They steer the fresh weights or the published kernels, not what is computed.
_NO_EFFECT = {
    "layer", "dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "A_init_range", "conv_init",
    "chunk_size", "use_fast_path", "use_mem_eff_path", "device", "dtype", "layer_idx",
}  # fmt: skip


@dataclass(frozen=True)
class StateSpaceConfig:
    """The fields that both architectures have, with transformers' names; vocab_rows counts padding rows."""

    hidden_size: int
    num_hidden_layers: int
    vocab_rows: int
    intermediate_size: int
    state_size: int
    conv_kernel: int
    layer_norm_epsilon: float
    use_bias: bool
    use_conv_bias: bool
    tied: bool


def is_transformers_format(config: Mapping[str, Any]) -> bool:
    """Whether a config.json has transformers' field names (it may repeat some of the others, stale)."""
    return "hidden_size" in config


def read_options(config: Mapping[str, Any], layer: str) -> dict[str, Any]:
    """Either format's options with transformers' names. Raises CheckpointError for what is not supported.

    layer: "Mamba1" or "Mamba2". Only options that the file states are in the result.
    """
    if is_transformers_format(config):
        refuse(config, {"hidden_act": ("silu", "swish")})
        # transformers applies the gate first whatever this says, and always has the norm.
        return {
            k: v
            for k, v in config.items()
            if k not in ("norm_before_gate", "rmsnorm", "d_ssm") and v is not None
        }
    refuse(config, {"rms_norm": (True,), "d_intermediate": (0, None), "attn_layer_idx": ([], (), None)})
    inner = dict(config.get("ssm_cfg") or {})
    if inner.get("layer", "Mamba1") != layer:
        raise CheckpointError(f"ssm_cfg.layer is {inner.get('layer', 'Mamba1')!r}, expected {layer!r}")
    refuse(
        inner, {"D_has_hdim": (False,), "process_group": (None,), "activation": ("silu", "swish")}, "ssm_cfg"
    )
    options = {"layer_norm_epsilon": 1e-5}
    for name, value in inner.items():
        if name in _SSM_NAMES:
            options[_SSM_NAMES[name]] = value
        elif name not in _NO_EFFECT and name not in (
            "D_has_hdim",
            "process_group",
            "activation",
            "sequence_parallel",
        ):
            raise CheckpointError(f"ssm_cfg has {name} = {value!r}, which is not supported")
    for name, ours in (("d_model", "hidden_size"), ("n_layer", "num_hidden_layers")):
        if config.get(name) is not None:
            options[ours] = config[name]
    options["tie_word_embeddings"] = config.get("tie_embeddings", True)
    if config.get("vocab_size") is not None:
        multiple = int(config.get("pad_vocab_size_multiple") or 1)
        options["vocab_size"] = -(-int(config["vocab_size"]) // multiple) * multiple
    return options


def read_backbone(options: Mapping[str, Any], weights: Mapping[str, Tensor], tied: bool) -> dict[str, Any]:
    """The fields of StateSpaceConfig but for the mixer's sizes. tied: what an absent option means."""
    table = [w for name, w in weights.items() if name.startswith("backbone.embedding") and w.dim() == 2]
    if options.get("num_hidden_layers") is None:
        raise CheckpointError("config.json has no number of layers (num_hidden_layers or n_layer)")
    widths = (
        [w.shape[1] for w in table] + sizes(weights, "norm.weight", 0) + sizes(weights, "norm_f.weight", 0)
    )
    widths += sizes(weights, "mixer.in_proj.weight", 1)
    return {
        "hidden_size": settle(widths, options.get("hidden_size"), "hidden_size (d_model)"),
        "num_hidden_layers": int(options["num_hidden_layers"]),
        "vocab_rows": settle([w.shape[0] for w in table], options.get("vocab_size"), "vocab_size"),
        "conv_kernel": settle(
            sizes(weights, "mixer.conv1d.weight", 2), options.get("conv_kernel", 4), "conv_kernel"
        ),
        "layer_norm_epsilon": float(options.get("layer_norm_epsilon", 1e-5)),
        "use_bias": bool(options.get("use_bias", False)),
        "use_conv_bias": bool(options.get("use_conv_bias", True)),
        # A head that the file leaves out is the embedding.
        "tied": bool(options.get("tie_word_embeddings", tied))
        or (bool(weights) and "lm_head.weight" not in weights),
    }


class StateSpaceBlock(nn.Module):
    """x + mixer(norm(x)); the residual stream stays fp32."""

    def __init__(self, config: StateSpaceConfig, mixer: nn.Module, backend: str) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.layer_norm_epsilon, backend)
        self.mixer = mixer
        self.pointwise = Pointwise(backend)

    def init_state(self, batch: int, device: torch.device) -> LayerState:
        state: LayerState = self.mixer.init_state(batch, device)  # type: ignore[operator]
        return state

    def forward(self, x: Tensor, state: LayerState, span: Span) -> tuple[Tensor, LayerState]:
        y, state = self.mixer(self.norm(x), state, span)
        return self.pointwise.add(x, y), state


class StateSpaceLM(PlannedLM):
    """The backbone; a subclass gives Config and the mixer."""

    config: StateSpaceConfig
    Mixer: ClassVar[type[nn.Module]]
    keep_fp32: ClassVar[tuple[str, ...]] = ("A_log", "D", "dt_bias")
    """Small, and an error of a decay is an error at every later token."""

    def __init__(
        self, config: StateSpaceConfig, *, backend: str = "torch", published: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.config, self.backend, self.published = config, backend, dict(published or {})
        self.embedding = nn.Embedding(config.vocab_rows, config.hidden_size)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.layers = nn.ModuleList(
            StateSpaceBlock(config, self.Mixer(config, backend), backend)
            for _ in range(config.num_hidden_layers)
        )
        self.norm_f = RMSNorm(config.hidden_size, config.layer_norm_epsilon, backend)
        self.lm_head = None if config.tied else nn.Linear(config.hidden_size, config.vocab_rows, bias=False)

    def embed(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.embedding(tokens)
        return x.to(torch.promote_types(x.dtype, torch.float32))

    def head(self, hidden: Tensor) -> Tensor:
        return self.logits(self.norm_f(hidden))

    @property
    def unembedding(self) -> Tensor:
        return self.embedding.weight if self.lm_head is None else self.lm_head.weight

    def token_plan(self) -> TokenPlan:
        from jrt_kernels.jit.plan import Plan

        plan = Plan(self.config.hidden_size, self.config.layer_norm_epsilon)
        for i, block in enumerate(self.layers):
            plan.join(block.mixer.plan(plan, plan.norm(block.norm.weight), i))  # type: ignore[operator,union-attr,arg-type]
        return plan.finished(self.norm_f.weight, self.head_matrix)

    def plannable(self) -> bool:
        c = self.config
        return not (c.use_bias or c.intermediate_size % 16) and super().plannable()

    @classmethod
    def from_checkpoint(
        cls,
        config: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        *,
        backend: str = "torch",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Self:
        named = plain_names(weights)
        settings = cls.Config.from_dict(config, named)  # type: ignore[attr-defined]
        spelled = [f"backbone.{name}.weight" for name in ("embedding", "embeddings")]
        table = spelled[1] if spelled[1] in named else spelled[0]
        head = named.get("lm_head.weight")
        if settings.tied and head is not None:
            shape = (settings.vocab_rows, settings.hidden_size)
            if tuple(head.shape) != shape:
                raise CheckpointError(f"lm_head.weight has shape {tuple(head.shape)}, expected {shape}")
            del named["lm_head.weight"]

        def published(name: str) -> str:
            if name == "embedding.weight":
                return table
            return name if name.startswith("lm_head.") else f"backbone.{name}"

        with torch.device("meta"), Unfilled():
            model = cls(settings, backend=backend, published=config)
        fill(model, named, published, cls.keep_fp32, dtype, device)
        return model.eval()

    def to_checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        table = "embeddings" if is_transformers_format(self.published) else "embedding"
        weights = {}
        for name, w in self.own_weights().items():
            key = name if name.startswith("lm_head.") else f"backbone.{name}"
            weights[key.replace("backbone.embedding.", f"backbone.{table}.")] = w.detach().clone()
        return dict(self.published), weights
