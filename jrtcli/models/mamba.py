"""Mamba: a selective state space per channel (arXiv 2312.00752).

Formats and semantics: state-spaces/mamba and transformers. B batch, T tokens, D = expand * hidden_size
channels, N states of a channel, R rank of the step size, K taps of the convolution.
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
from jrtcli.models.layers import tap_major
from jrtcli.models.linear import Derived, Linear
from jrtcli.models.published import settle, sizes
from jrtcli.models.span import LayerState, Span
from jrtcli.models.state_space import StateSpaceConfig, StateSpaceLM, read_backbone, read_options

if TYPE_CHECKING:
    from jrt_kernels.jit.plan import Plan
    from jrt_kernels.jit.program import Room


@dataclass(frozen=True)
class MambaConfig(StateSpaceConfig):
    """time_step_rank: R."""

    time_step_rank: int

    @classmethod
    def from_dict(cls, config: Mapping[str, Any], weights: Mapping[str, Tensor] | None = None) -> MambaConfig:
        """Reads either format's config.json; sizes follow the weights (plain published names).

        Raises CheckpointError for an option that is missing or not supported.
        """
        weights = weights or {}
        options = read_options(config, "Mamba1")
        common = read_backbone(options, weights, tied=True)
        width = common["hidden_size"]
        inner = [n for key in ("A_log", "D", "conv1d.weight") for n in sizes(weights, f"mixer.{key}", 0)]
        inner += [n // 2 for n in sizes(weights, "mixer.in_proj.weight", 0)]
        inner += [n for key in ("x_proj", "out_proj") for n in sizes(weights, f"mixer.{key}.weight", 1)]
        rank = options.get("time_step_rank", "auto")
        return cls(
            **common,
            intermediate_size=settle(
                inner,
                options.get("intermediate_size") or int(options.get("expand", 2) * width),
                "intermediate_size",
            ),
            state_size=settle(sizes(weights, "mixer.A_log", 1), options.get("state_size", 16), "state_size"),
            time_step_rank=settle(
                sizes(weights, "mixer.dt_proj.weight", 1),
                -(-width // 16) if rank == "auto" else rank,
                "time_step_rank",
            ),
        )


def decay_rates(A_log: Tensor) -> Tensor:
    """A_log (D, N) -> A = -exp(A_log) (D, N), N-major in memory as the scan wants it."""
    return (-torch.exp(A_log.to(torch.promote_types(A_log.dtype, torch.float32)).t().contiguous())).t()


class MambaMixer(nn.Module):
    """out_proj(scan(silu(conv(x))) * silu(z)) with [x, z] = in_proj, [dt, B, C] = x_proj(x)."""

    def __init__(self, config: MambaConfig, backend: str) -> None:
        super().__init__()
        inner, states, rank = config.intermediate_size, config.state_size, config.time_step_rank
        self.in_proj = Linear(config.hidden_size, 2 * inner, bias=config.use_bias)
        # Only its weights are used: short_conv computes it, from a state.
        self.conv1d = nn.Conv1d(inner, inner, config.conv_kernel, groups=inner, bias=config.use_conv_bias)
        self.x_proj = Linear(inner, rank + 2 * states, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.empty(inner, states))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = Linear(inner, config.hidden_size, bias=config.use_bias)
        self.sizes = [rank, states, states]
        self.decay_rates = Derived(decay_rates)
        self.filters = Derived(tap_major)
        self.short_conv = resolve("short_conv", backend)
        self.scan = resolve("selective_scan", backend)
        if self.A_log.is_meta:  # a checkpoint's values come; computing there imports torch's compiler
            return
        with torch.no_grad():  # steps from 0.001 to 0.1, evenly in the logarithm
            self.A_log.copy_(torch.log(torch.arange(1.0, states + 1)))
            step = torch.exp(torch.rand(inner) * math.log(100.0) + math.log(0.001))
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))

    def init_state(self, batch: int, device: torch.device) -> LayerState:
        inner, states = self.A_log.shape
        taps = self.conv1d.weight.shape[2]
        return {
            "conv": torch.zeros(batch, inner, taps - 1, device=device),
            "ssm": torch.zeros(batch, states, inner, device=device),  # (B,N,D): channels innermost are fast
        }

    def forward(self, x: Tensor, state: LayerState, span: Span) -> tuple[Tensor, LayerState]:
        x, z = self.in_proj(x).chunk(2, dim=-1)
        x, conv = self.short_conv(
            x,
            self.filters(self.conv1d.weight),
            self.conv1d.bias,
            activation="silu",
            initial_state=state["conv"],
            cu_seqlens=span.cu_seqlens,
        )
        low, B, C = self.x_proj(x).split(self.sizes, dim=-1)
        y, ssm = self.scan(
            x,
            F.linear(low, self.dt_proj.weight),
            self.decay_rates(self.A_log),
            B,
            C,
            self.D,
            dt_bias=self.dt_proj.bias,
            z=z,
            initial_state=state["ssm"].transpose(1, 2),
            cu_seqlens=span.cu_seqlens,
        )
        return self.out_proj(y), {"conv": conv, "ssm": ssm.transpose(1, 2).contiguous()}

    def plan(self, plan: Plan, x: Room, layer: int) -> Room:
        """The same for one token, as stages."""
        from jrt_kernels.jit.program import After, Before, Kept
        from jrt_kernels.jit.stages.scan import scan

        (inner, states), taps = self.A_log.shape, self.conv1d.weight.shape[2]
        both = plan.product(x, self.in_proj.matrix)
        conv = Kept(layer, "conv", (taps - 1, inner), (1, 0))
        u = plan.convolve(both, self.conv1d.weight[:, 0], self.conv1d.bias, conv)
        low, y = plan.product(u, self.x_proj.matrix), plan.room(inner)
        rates = decay_rates(self.A_log).float().t() * math.log2(math.e)
        ssm = Kept(layer, "ssm", (states, inner))
        plan.add(
            scan, inner, states, self.sizes[0], both.width, u, both.part(inner), low,
            plan.weight(self.dt_proj.weight.t()), plan.weight(self.dt_proj.bias), plan.weight(rates),
            plan.weight(self.D), Before(ssm), After(ssm), y,
        )  # fmt: skip
        return plan.product(y, self.out_proj.matrix)


class Mamba(StateSpaceLM):
    """The language model."""

    architecture = "mamba"
    main_op = "selective_scan"
    other_ops = ("short_conv", "gated_norm")
    Config: ClassVar[type[MambaConfig]] = MambaConfig
    Mixer = MambaMixer
