"""Mamba-2: state space duality, one decay per head (arXiv 2405.21060).

Formats and semantics: state-spaces/mamba and transformers. B batch, T tokens, H heads, P head dim, D = H P
channels, N state dim, G groups of heads that share B and C, K taps of the convolution, M channels that bypass
the recurrence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jrt_kernels.registry import resolve
from jrtcli.errors import CheckpointError
from jrtcli.models.layers import tap_major
from jrtcli.models.linear import Derived, Linear
from jrtcli.models.published import number, settle, sizes
from jrtcli.models.span import LayerState, Span
from jrtcli.models.state_space import (
    StateSpaceConfig,
    StateSpaceLM,
    is_transformers_format,
    read_backbone,
    read_options,
)

if TYPE_CHECKING:
    from jrt_kernels.jit.plan import Plan
    from jrt_kernels.jit.program import Room


@dataclass(frozen=True)
class Mamba2Config(StateSpaceConfig):
    """intermediate_size: D; bypass_size: M, gated channels beside the recurrence (0 in published files).

    time_step_limit: bounds of dt after softplus. rmsnorm: whether the output is normed; norm_before_gate:
    before the gate rather than after it.
    """

    num_heads: int
    n_groups: int
    time_step_limit: tuple[float, float]
    rmsnorm: bool
    norm_before_gate: bool
    bypass_size: int

    @classmethod
    def from_dict(
        cls, config: Mapping[str, Any], weights: Mapping[str, Tensor] | None = None
    ) -> Mamba2Config:
        """Reads either format's config.json; sizes follow the weights (plain published names).

        Raises CheckpointError for an option that is missing or not supported.
        """
        weights = weights or {}
        options = read_options(config, "Mamba2")
        common = read_backbone(options, weights, tied=not is_transformers_format(config))
        expanded = options.get("intermediate_size") or int(options.get("expand", 2) * common["hidden_size"])
        rmsnorm = bool(options.get("rmsnorm", True))
        told = options.get("d_ssm") or expanded
        inner = settle(sizes(weights, "mixer.norm.weight", 0), told, "intermediate_size")
        heads = options.get("num_heads") or inner // int(options.get("head_dim", 64))
        votes = [n for key in ("A_log", "D", "dt_bias") for n in sizes(weights, f"mixer.{key}", 0)]
        heads = settle(votes, heads, "num_heads")
        states, groups = int(options.get("state_size", 128)), options.get("n_groups")
        groups = (8 if is_transformers_format(config) else 1) if groups is None else int(groups)
        shared = settle(
            [(n - inner) // 2 for n in sizes(weights, "mixer.conv1d.weight", 0)], groups * states, "n_groups"
        )
        if shared != groups * states:  # the tensors know only the product
            if shared % states == 0:
                groups = shared // states
            elif shared % groups == 0:
                states = shared // groups
        if heads < 1 or inner % heads or heads % groups:
            raise CheckpointError(
                f"{inner} channels do not divide into {heads} heads, or those not into {groups} groups "
                "(num_heads, n_groups)"
            )
        low, high = options.get("time_step_limit") or (0.0, math.inf)
        whole = settle(sizes(weights, "mixer.out_proj.weight", 1), expanded, "intermediate_size")
        return cls(
            **common,
            intermediate_size=inner,
            state_size=states,
            num_heads=heads,
            n_groups=groups,
            time_step_limit=(number(low), number(high)),
            rmsnorm=rmsnorm,
            norm_before_gate=bool(options.get("norm_before_gate", False)),
            bypass_size=max(0, whole - inner) if options.get("d_ssm") else 0,
        )


class GatedNorm(nn.Module):
    """RMSNorm of y silu(z), or (before) RMSNorm of y, times silu(z); per group of channels, in fp32."""

    def __init__(self, config: Mamba2Config, backend: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.intermediate_size))
        self.eps, self.before = config.layer_norm_epsilon, config.norm_before_gate
        self.group = config.intermediate_size // config.n_groups
        self.gated_norm = resolve("gated_norm", backend)

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        o: Tensor = self.gated_norm(
            y,
            self.weight,
            eps=self.eps,
            z=z,
            group=self.group,
            norm_first=self.before,
            dtype=self.weight.dtype,
        )[0]
        return o


class Mamba2Mixer(nn.Module):
    """out_proj(norm(ssd(silu(conv([x, B, C])), dt) * silu(z))) with [z, x, B, C, dt] = in_proj."""

    def __init__(self, config: Mamba2Config, backend: str) -> None:
        super().__init__()
        inner, heads = config.intermediate_size, config.num_heads
        shared = config.n_groups * config.state_size
        mixed, bypass = inner + 2 * shared, config.bypass_size
        self.sizes = [bypass, bypass, inner, mixed, heads]
        self.in_proj = Linear(config.hidden_size, sum(self.sizes), bias=config.use_bias)
        # Only its weights are used: short_conv computes it, from a state.
        self.conv1d = nn.Conv1d(mixed, mixed, config.conv_kernel, groups=mixed, bias=config.use_conv_bias)
        self.dt_bias = nn.Parameter(torch.zeros(heads))
        self.A_log = nn.Parameter(torch.empty(heads))
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = GatedNorm(config, backend) if config.rmsnorm else None
        self.out_proj = Linear(inner + bypass, config.hidden_size, bias=config.use_bias)
        self.config, self.shared = config, shared
        self.filters = Derived(tap_major)
        self.short_conv = resolve("short_conv", backend)
        self.ssd = resolve("ssd", backend)
        if self.A_log.is_meta:  # a checkpoint's values come; computing there imports torch's compiler
            return
        with torch.no_grad():  # steps from 0.001 to 0.1, evenly in the logarithm
            self.A_log.copy_(torch.log(torch.rand(heads) * 15 + 1))
            step = torch.exp(torch.rand(heads) * math.log(100.0) + math.log(0.001))
            self.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))

    def init_state(self, batch: int, device: torch.device) -> LayerState:
        c = self.config
        mixed, _, taps = self.conv1d.weight.shape
        width = c.intermediate_size // c.num_heads
        return {
            "conv": torch.zeros(batch, mixed, taps - 1, device=device),
            "ssm": torch.zeros(batch, c.num_heads, width, c.state_size, device=device),
        }

    def forward(self, x: Tensor, state: LayerState, span: Span) -> tuple[Tensor, LayerState]:
        c = self.config
        gate, aside, z, mixed, raw = self.in_proj(x).split(self.sizes, dim=-1)
        mixed, conv = self.short_conv(
            mixed,
            self.filters(self.conv1d.weight),
            self.conv1d.bias,
            activation="silu",
            initial_state=state["conv"],
            cu_seqlens=span.cu_seqlens,
        )
        values, B, C = mixed.split([c.intermediate_size, self.shared, self.shared], dim=-1)
        dt = F.softplus(raw.to(torch.promote_types(raw.dtype, torch.float32)) + self.dt_bias)
        low, high = c.time_step_limit
        if low > 0 or high < math.inf:
            dt = dt.clamp(low, high)
        y, ssm = self.ssd(
            values.unflatten(-1, (c.num_heads, -1)),
            dt,
            -torch.exp(self.A_log),
            B.unflatten(-1, (c.n_groups, -1)),
            C.unflatten(-1, (c.n_groups, -1)),
            self.D,
            initial_state=state["ssm"],
            cu_seqlens=span.cu_seqlens,
        )
        y = y.flatten(-2)
        y = y * F.silu(z) if self.norm is None else self.norm(y, z)
        if c.bypass_size:
            y = torch.cat([F.silu(gate) * aside, y], dim=-1)
        return self.out_proj(y), {"conv": conv, "ssm": ssm}

    def plan(self, plan: Plan, x: Room, layer: int) -> Room:
        """The same for one token, as stages."""
        from jrt_kernels.jit.program import After, Before, Kept
        from jrt_kernels.jit.stages.linear_attention import ssd

        c, (mixed, _, taps) = self.config, self.conv1d.weight.shape
        inner, width = c.intermediate_size, c.intermediate_size // c.num_heads
        both = plan.product(x, self.in_proj.matrix)
        conv = Kept(layer, "conv", (taps - 1, mixed), (1, 0))
        u = plan.convolve(both.part(inner), self.conv1d.weight[:, 0], self.conv1d.bias, conv)
        y, ssm = plan.room(inner), Kept(layer, "ssm", (c.num_heads, c.state_size, width), (0, 2, 1))
        rates = -torch.exp(self.A_log.float()) * math.log2(math.e)
        plan.add(
            ssd, c.num_heads, width, c.state_size, c.n_groups, both.width, u, both.part(inner + mixed),
            plan.weight(self.dt_bias), plan.weight(rates), plan.weight(self.D),
            plan.constants(*c.time_step_limit), Before(ssm), After(ssm), y,
        )  # fmt: skip
        assert self.norm is not None
        gated = plan.gated_norm(y, self.norm.weight, self.norm.group, both, norm_first=self.norm.before)
        return plan.product(gated, self.out_proj.matrix)


class Mamba2(StateSpaceLM):
    """The language model."""

    architecture = "mamba2"
    main_op = "ssd"
    other_ops = ("short_conv", "gated_norm")
    Config: ClassVar[type[Mamba2Config]] = Mamba2Config
    Mixer = Mamba2Mixer
    most_rows = 256  # their states cost more than the products, and are not copied in one call

    def plannable(self) -> bool:
        c: Any = self.config
        width, shared = c.intermediate_size // c.num_heads, c.n_groups * c.state_size
        whole = not (width % 64 or 2 * shared % 16 or c.intermediate_size // c.n_groups % 16)
        return whole and c.rmsnorm and not c.bypass_size and super().plannable()
