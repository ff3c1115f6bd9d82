"""GLA: gated linear attention with a decay per key dimension (arXiv 2312.06635).

Formats and semantics: fla's GLAForCausalLM, in its layouts since 2024. B batch, T tokens, H heads, K key dim,
V value dim, I inner dim of the MLP.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from jrt_kernels.registry import resolve
from jrtcli.errors import CheckpointError
from jrtcli.models.layers import Pointwise, RMSNorm
from jrtcli.models.linear import Linear
from jrtcli.models.planned import PlannedLM
from jrtcli.models.published import Unfilled, fill, plain_names, refuse, settle, sizes
from jrtcli.models.span import LayerState, Span

if TYPE_CHECKING:
    from jrt_kernels.jit.plan import Plan, TokenPlan
    from jrt_kernels.jit.program import Room

_SWISH = ("swish", "silu")


@dataclass(frozen=True)
class GLAConfig:
    """Fields of config.json, with sizes in place of ratios; vocab_rows counts padding rows.

    conv: "none", "qkv" (three short convolutions) or "input" (one before the projections, early fla).
    """

    hidden_size: int
    num_hidden_layers: int
    vocab_rows: int
    num_heads: int
    num_kv_heads: int
    key_size: int
    value_size: int
    gate_rank: int
    intermediate_size: int
    norm_eps: float
    clamp_min: float | None
    use_output_gate: bool
    elementwise_affine: bool
    conv: str
    conv_size: int
    conv_bias: bool
    tied: bool

    @classmethod
    def from_dict(cls, config: Mapping[str, Any], weights: Mapping[str, Tensor] | None = None) -> GLAConfig:
        """Reads config.json; sizes follow the weights (published names) where they differ.

        Raises CheckpointError for an option that is missing or not supported.
        """
        weights = weights or {}
        refuse(
            config,
            {
                "use_gk": (True,),
                "use_gv": (False, None),
                "feature_map": (None,),
                "attn": (None,),
                "hidden_act": _SWISH,
                "gate_fn": _SWISH,
                "gate_logit_normalizer": (16,),
            },
        )
        for name in ("hidden_size", "num_hidden_layers"):
            if config.get(name) is None:
                raise CheckpointError(f"config.json has no {name}")
        width = settle(
            sizes(weights, "embeddings.weight", 1) + sizes(weights, "attn.q_proj.weight", 1),
            config["hidden_size"],
            "hidden_size",
        )
        heads = int(config.get("num_heads") or 4)
        kv_heads = int(config.get("num_kv_heads") or heads)
        keys = settle(
            sizes(weights, "attn.q_proj.weight", 0), int(width * config.get("expand_k", 0.5)), "expand_k"
        )
        values = settle(
            sizes(weights, "attn.o_proj.weight", 1), int(width * config.get("expand_v", 1)), "expand_v"
        )
        if heads % kv_heads or keys % heads or values % heads:
            raise CheckpointError(
                f"{keys} key and {values} value dimensions do not divide into {heads} heads (num_heads), "
                f"or those not among {kv_heads} num_kv_heads"
            )
        inner = config.get("intermediate_size")
        if inner is None:
            inner = -(-int(width * (config.get("hidden_ratio") or 4) * 2 / 3) // 256) * 256
        conv = "qkv" if config.get("use_short_conv") else "none"
        if any(".attn.h_conv1d." in name for name in weights):
            conv = "input"
        taps = [n for key in "qkvh" for n in sizes(weights, f"attn.{key}_conv1d.weight", 2)]
        eps = config.get("norm_eps")
        clamp = config.get("clamp_min")
        return cls(
            hidden_size=width,
            num_hidden_layers=int(config["num_hidden_layers"]),
            vocab_rows=settle(sizes(weights, "embeddings.weight", 0), config.get("vocab_size"), "vocab_size"),
            num_heads=heads,
            num_kv_heads=kv_heads,
            key_size=keys,
            value_size=values,
            gate_rank=settle(
                sizes(weights, "attn.gk_proj.0.weight", 0), config.get("gate_low_rank_dim", 16), "gate_rank"
            ),
            intermediate_size=settle(sizes(weights, "mlp.down_proj.weight", 1), inner, "intermediate_size"),
            norm_eps=float(config.get("rms_norm_eps", 1e-6) if eps is None else eps),
            clamp_min=None if clamp is None else float(clamp),
            use_output_gate=bool(config.get("use_output_gate", True)),
            elementwise_affine=bool(config.get("elementwise_affine", True)),
            conv=conv,
            conv_size=settle(taps, config.get("conv_size", 4), "conv_size"),
            conv_bias=any("_conv1d.bias" in name for name in weights) or bool(config.get("conv_bias", False)),
            # A head that the file leaves out is the embedding.
            tied=bool(config.get("tie_word_embeddings", False))
            or (bool(weights) and "lm_head.weight" not in weights),
        )


class GatedLinearAttention(nn.Module):
    """o_proj(norm(gla(q, k, v, gk)) * silu(g)), everything a projection of x; the norm is per head."""

    def __init__(self, config: GLAConfig, backend: str) -> None:
        super().__init__()
        width, share = config.hidden_size, config.num_heads // config.num_kv_heads
        self.key_dim = config.key_size // config.num_heads
        self.value_dim = config.value_size // config.num_heads
        keys, values = config.key_size // share, config.value_size // share
        self.q_proj = Linear(width, config.key_size, bias=False)
        self.k_proj = Linear(width, keys, bias=False)
        self.v_proj = Linear(width, values, bias=False)
        self.g_proj = Linear(width, config.value_size, bias=False) if config.use_output_gate else None
        self.gk_proj = nn.Sequential(
            nn.Linear(width, config.gate_rank, bias=False), nn.Linear(config.gate_rank, keys)
        )
        self.o_proj = Linear(config.value_size, width, bias=False)
        # Only their weights are used: short_conv computes them, from a state.
        channels: dict[str, int] = {}
        if config.conv == "qkv":
            channels = {"q_conv1d": config.key_size, "k_conv1d": keys, "v_conv1d": values}
        elif config.conv == "input":
            channels = {"h_conv1d": width}
        self.convs = nn.ModuleDict(
            {
                name: nn.Conv1d(size, size, config.conv_size, groups=size, bias=config.conv_bias)
                for name, size in channels.items()
            }
        )
        self.g_norm = RMSNorm(self.value_dim, config.norm_eps, backend) if config.elementwise_affine else None
        self.config, self.share = config, share
        self.short_conv = resolve("short_conv", backend)
        self.gla = resolve("gla", backend)
        self.gated_norm = resolve("gated_norm", backend)
        self.pointwise = Pointwise(backend)

    def init_state(self, batch: int, device: torch.device) -> LayerState:
        state = {"kv": torch.zeros(batch, self.config.num_heads, self.key_dim, self.value_dim, device=device)}
        for name, conv in self.convs.items():
            size, _, taps = conv.weight.shape  # type: ignore[misc]
            state[name] = torch.zeros(batch, size, taps - 1, device=device)
        return state

    def _convolved(self, name: str, x: Tensor, state: LayerState, new: LayerState, span: Span) -> Tensor:
        """x (B,T,C) through the short convolution of that name, if there is one; its state goes to `new`."""
        if name not in self.convs:
            return x
        conv = self.convs[name]
        y, new[name] = self.short_conv(
            x,
            conv.weight[:, 0],  # type: ignore[index]
            conv.bias,
            activation="silu",
            initial_state=state[name],
            cu_seqlens=span.cu_seqlens,
        )
        return y

    def forward(self, x: Tensor, state: LayerState, span: Span) -> tuple[Tensor, LayerState]:
        new: LayerState = {}
        x = self._convolved("h_conv1d", x, state, new, span)
        q = self._convolved("q_conv1d", self.q_proj(x), state, new, span)
        k = self._convolved("k_conv1d", self.k_proj(x), state, new, span)
        v = self._convolved("v_conv1d", self.v_proj(x), state, new, span)
        raw = self.gk_proj(x)
        gate = self.pointwise.log_sigmoid(raw, 1 / 16)
        if self.config.clamp_min is not None:
            gate = gate.clamp(min=self.config.clamp_min)
        q, k, gate = (y.unflatten(-1, (-1, self.key_dim)) for y in (q, k, gate))
        v = v.unflatten(-1, (-1, self.value_dim))
        if self.share > 1:
            k, v, gate = (y.repeat_interleave(self.share, 2) for y in (k, v, gate))
        o, new["kv"] = self.gla(q, k, v, gate, initial_state=state["kv"], cu_seqlens=span.cu_seqlens)
        o, _ = self.gated_norm(
            o.flatten(-2),
            None if self.g_norm is None else self.g_norm.weight,
            eps=self.config.norm_eps,
            z=None if self.g_proj is None else self.g_proj(x),
            group=self.value_dim,
            norm_first=True,
            dtype=x.dtype,
        )
        return self.o_proj(o), new

    def _planned(self, name: str, x: Room, plan: Plan, layer: int) -> Room:
        """As `_convolved`, for one token."""
        from jrt_kernels.jit.program import Kept

        if name not in self.convs:
            return x
        weight: Tensor = self.convs[name].weight  # type: ignore[assignment]
        size, _, taps = weight.shape
        kept = Kept(layer, name, (taps - 1, size), (1, 0))
        return plan.convolve(x, weight[:, 0], self.convs[name].bias, kept)  # type: ignore[arg-type]

    def plan(self, plan: Plan, x: Room, layer: int) -> Room:
        """`forward` for one token, as stages."""
        from jrt_kernels.jit.program import After, Before, Kept
        from jrt_kernels.jit.stages.linear_attention import gla

        c = self.config
        x = self._planned("h_conv1d", x, plan, layer)
        q = self._planned("q_conv1d", plan.product(x, self.q_proj.matrix), plan, layer)
        k = self._planned("k_conv1d", plan.product(x, self.k_proj.matrix), plan, layer)
        v = self._planned("v_conv1d", plan.product(x, self.v_proj.matrix), plan, layer)
        down, up = self.gk_proj
        raw = plan.product(plan.product(x, (down.weight, None)), (up.weight, None), up.bias)  # type: ignore[arg-type]
        least = -math.inf if c.clamp_min is None else c.clamp_min * math.log2(math.e)
        kv, o = Kept(layer, "kv", (c.num_heads, self.key_dim, self.value_dim)), plan.room(c.value_size)
        plan.add(
            gla, c.num_heads, self.key_dim, self.value_dim, self.share, q, k, raw, v, plan.constants(least),
            Before(kv), After(kv), o,
        )  # fmt: skip
        z = None if self.g_proj is None else plan.product(x, self.g_proj.matrix)
        scale = torch.ones(self.value_dim) if self.g_norm is None else self.g_norm.weight
        return plan.product(plan.gated_norm(o, scale, self.value_dim, z, norm_first=True), self.o_proj.matrix)


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, width: int, inner: int, backend: str) -> None:
        super().__init__()
        self.pointwise = Pointwise(backend)
        self.gate_proj = Linear(width, inner, bias=False)
        self.up_proj = Linear(width, inner, bias=False)
        self.down_proj = Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down_proj(self.pointwise.gated(self.up_proj(x), self.gate_proj(x)))
        return y

    def plan(self, plan: Plan, x: Room) -> Room:
        """The same for one token, as stages."""
        gate, up = plan.product(x, self.gate_proj.matrix), plan.product(x, self.up_proj.matrix)
        return plan.product(plan.gated(up, gate, up.width), self.down_proj.matrix)


class GLABlock(nn.Module):
    """x + attn(attn_norm(x)), then x + mlp(mlp_norm(x)); the residual stream stays fp32."""

    def __init__(self, config: GLAConfig, backend: str) -> None:
        super().__init__()
        self.pointwise = Pointwise(backend)
        self.attn_norm = RMSNorm(config.hidden_size, config.norm_eps, backend)
        self.attn = GatedLinearAttention(config, backend)
        self.mlp_norm = RMSNorm(config.hidden_size, config.norm_eps, backend)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size, backend)

    def init_state(self, batch: int, device: torch.device) -> LayerState:
        return self.attn.init_state(batch, device)

    def forward(self, x: Tensor, state: LayerState, span: Span) -> tuple[Tensor, LayerState]:
        y, state = self.attn(self.attn_norm(x), state, span)
        x = self.pointwise.add(x, y)
        return self.pointwise.add(x, self.mlp(self.mlp_norm(x))), state


def one_layout(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the newest names: gate and up of the MLP apart, the per-head norm always `g_norm`.

    Until February 2025 fla kept [gate; up] in one `gate_proj` (2I, D), told by its shape.
    """
    new: dict[str, Tensor] = {}
    for name, tensor in plain_names(weights).items():
        base, _, last = name.rpartition(".mlp.")
        up, down = f"{base}.mlp.up_proj.weight", weights.get(f"{base}.mlp.down_proj.weight")
        alone = last == "gate_proj.weight" and up not in weights
        if alone and down is not None and tensor.shape[0] == 2 * down.shape[1]:
            new[name], new[up] = tensor.chunk(2)
        else:
            new[name.replace(".g_norm_swish_gate.", ".g_norm.")] = tensor
    return new


def published_name(name: str) -> str:
    """The name in fla's files of one of the model's own names."""
    return name if name.startswith("lm_head.") else "model." + name.replace(".attn.convs.", ".attn.")


class GLA(PlannedLM):
    """The language model."""

    architecture = "gla"
    main_op = "gla"
    other_ops = ("short_conv", "gated_norm")
    Config: ClassVar[type[GLAConfig]] = GLAConfig
    config: GLAConfig

    def __init__(
        self, config: GLAConfig, *, backend: str = "torch", published: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.config, self.backend, self.published = config, backend, dict(published or {})
        self.embeddings = nn.Embedding(config.vocab_rows, config.hidden_size)
        nn.init.normal_(self.embeddings.weight, std=0.02)
        self.layers = nn.ModuleList(GLABlock(config, backend) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps, backend)
        self.lm_head = None if config.tied else nn.Linear(config.hidden_size, config.vocab_rows, bias=False)

    def embed(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.embeddings(tokens)
        return x.to(torch.promote_types(x.dtype, torch.float32))

    def head(self, hidden: Tensor) -> Tensor:
        return self.logits(self.norm(hidden))

    @property
    def unembedding(self) -> Tensor:
        return self.embeddings.weight if self.lm_head is None else self.lm_head.weight

    def token_plan(self) -> TokenPlan:
        from jrt_kernels.jit.plan import Plan

        plan = Plan(self.config.hidden_size, self.config.norm_eps)
        for i, block in enumerate(self.layers):
            one: Any = block
            plan.join(one.attn.plan(plan, plan.norm(one.attn_norm.weight), i))
            plan.join(one.mlp.plan(plan, plan.norm(one.mlp_norm.weight)))
        return plan.finished(self.norm.weight, self.head_matrix)

    def plannable(self) -> bool:
        c = self.config
        keys, values = c.key_size // c.num_heads, c.value_size // c.num_heads
        whole = not (keys % 16 or values % 64 or c.gate_rank % 16 or c.intermediate_size % 16)
        return whole and super().plannable()

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
        named = one_layout(weights)
        settings = cls.Config.from_dict(config, named)
        head = named.pop("lm_head.weight", None) if settings.tied else None
        if head is not None and tuple(head.shape) != (settings.vocab_rows, settings.hidden_size):
            expected = (settings.vocab_rows, settings.hidden_size)
            raise CheckpointError(f"lm_head.weight has shape {tuple(head.shape)}, expected {expected}")
        with torch.device("meta"), Unfilled():
            model = cls(settings, backend=backend, published=config)
        fill(model, named, published_name, (), dtype, device)
        return model.eval()

    def to_checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        fused = self.config.use_output_gate and self.published.get("fuse_norm", True)
        norm = (
            "g_norm_swish_gate"
            if fused and self.published.get("hidden_act", "swish") == "swish"
            else "g_norm"
        )
        weights = {}
        for name, w in self.own_weights().items():
            weights[published_name(name).replace(".attn.g_norm.", f".attn.{norm}.")] = w.detach().clone()
        return dict(self.published), weights
