"""The operators as a benchmark calls them: their inputs, and the least work that they need.

B rows, T tokens, H heads, K key dim (N states in Mamba), V value dim (P head dim), D channels, F folded
Taylor features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from jrt_kernels.taylor_linear_attention.features import feature_count
from jrtcli.errors import UsageError

CHUNK = 64
"""Tokens of the chunk that the arithmetic is counted for: small chunks need the least of it."""
ATTENTION_HEAD_DIM = 64

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Dims:
    """heads x key dim x value dim; of the selective scan channels x states x 1."""

    heads: int
    keys: int
    values: int

    @property
    def attention_heads(self) -> int:
        """Heads of 64 of a softmax attention as wide as the values."""
        return max(1, self.heads * self.values // ATTENTION_HEAD_DIM)


def dims(text: str) -> Dims:
    """`16x16x64`: heads, key dim, value dim. Raises UsageError."""
    parts = text.lower().split("x")
    if len(parts) not in (2, 3) or not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(
            f"--shape {text!r}: give heads x key dim x value dim, as 16x16x64;"
            " of selective-scan channels x states, as 1536x16"
        )
    heads, keys, values = (int(part) for part in [*parts, "1"][:3])
    return Dims(heads, keys, values)


@dataclass(frozen=True)
class Operator:
    """One operator: its inputs, and its work.

    make (generator, B, T, dims, dtype): the tensors of each row, and those that rows share. cpu, gpu: the
    dims that are its default there. features (dims): F, rows of the state. shares_keys: whether all heads
    have one set of keys, as B and C of Mamba.
    """

    op: str
    cpu: Dims
    gpu: Dims
    make: Callable[[torch.Generator, int, int, Dims, torch.dtype], tuple[Tensors, Tensors]]
    features: Callable[[Dims], int]
    shares_keys: bool = False
    products: bool = True
    """Whether it can be written in matrix products; the scan of Mamba-1 cannot."""

    @property
    def prefix(self) -> bool:
        """Whether it has an encoder, here of the first half of the tokens as in the paper's table."""
        return self.op == "prefix_linear_attention"

    def flops(self, batch: int, tokens: int, dims: Dims) -> float | None:
        """Of the chunked form: reading and writing the state for each token, and the chunk's own scores."""
        if not self.products:
            return None
        state = 2 * self.features(dims) * dims.values
        chunk = 2 * min(CHUNK, tokens) * (dims.keys + dims.values)
        encoder = state * (tokens // 2) if self.prefix else 0
        return float(batch * dims.heads * (tokens * (2 * state + chunk) + encoder))


def _normal(generator: torch.Generator, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, device=generator.device, dtype=torch.float32).to(dtype)


def _qkv(g: torch.Generator, b: int, t: int, d: Dims, dtype: torch.dtype) -> tuple[Tensors, Tensors]:
    q, k = (_normal(g, dtype, b, t, d.heads, d.keys) for _ in range(2))
    return {"q": q, "k": k, "v": _normal(g, dtype, b, t, d.heads, d.values)}, {}


def _with_encoder(g: torch.Generator, b: int, t: int, d: Dims, dtype: torch.dtype) -> tuple[Tensors, Tensors]:
    made, shared = _qkv(g, b, t, d, dtype)
    made["k_enc"] = _normal(g, dtype, b, t // 2, d.heads, d.keys)
    made["v_enc"] = _normal(g, dtype, b, t // 2, d.heads, d.values)
    return made, shared


def _gated(g: torch.Generator, b: int, t: int, d: Dims, dtype: torch.dtype) -> tuple[Tensors, Tensors]:
    made, shared = _qkv(g, b, t, d, dtype)
    # As GLA makes its gates: a sixteenth of the log of a sigmoid, most of them close to 0.
    made["g"] = logsigmoid(_normal(g, torch.float32, b, t, d.heads, d.keys) + 3) / 16
    return made, shared


def _ssd(g: torch.Generator, b: int, t: int, d: Dims, dtype: torch.dtype) -> tuple[Tensors, Tensors]:
    made = {
        "x": _normal(g, dtype, b, t, d.heads, d.values),
        "dt": softplus(_normal(g, torch.float32, b, t, d.heads) - 4),
        "B": _normal(g, dtype, b, t, 1, d.keys),
        "C": _normal(g, dtype, b, t, 1, d.keys),
    }
    device = g.device
    return made, {
        "A": -torch.linspace(1, 16, d.heads, device=device),
        "D": torch.ones(d.heads, device=device),
    }


def _scan(g: torch.Generator, b: int, t: int, d: Dims, dtype: torch.dtype) -> tuple[Tensors, Tensors]:
    made = {
        "x": _normal(g, dtype, b, t, d.heads),
        "dt": softplus(_normal(g, torch.float32, b, t, d.heads) - 4),
        "B": _normal(g, dtype, b, t, d.keys),
        "C": _normal(g, dtype, b, t, d.keys),
    }
    states = torch.arange(1, d.keys + 1, device=g.device, dtype=torch.float32)
    return made, {"A": -states.expand(d.heads, -1).contiguous(), "D": torch.ones(d.heads, device=g.device)}


_TABLE_5 = Dims(16, 16, 64)


def _taylor_features(d: Dims) -> int:
    return feature_count(d.keys)


def _keys(d: Dims) -> int:
    return d.keys


# Without a source of its own: GLA and Mamba at the sizes of 340M and 130M models on a CPU, of 1.3B on a GPU.
OPERATORS: dict[str, Operator] = {
    "taylor": Operator("taylor_linear_attention", _TABLE_5, _TABLE_5, _qkv, _taylor_features),
    "prefix": Operator("prefix_linear_attention", _TABLE_5, _TABLE_5, _with_encoder, _taylor_features),
    "gla": Operator("gla", Dims(4, 128, 256), Dims(4, 256, 512), _gated, _keys),
    "ssd": Operator("ssd", Dims(24, 128, 64), Dims(64, 128, 64), _ssd, _keys, shares_keys=True),
    "selective-scan": Operator(
        "selective_scan", Dims(1536, 16, 1), Dims(4096, 16, 1), _scan, _keys, shares_keys=True, products=False
    ),
}
"""--op -> the operator."""


def moved_bytes(tensors: Tensors, shared: Tensors, output: Tensor) -> float:
    """Every input read once and the output written once; the states of a prefill are small beside them."""
    return float(sum(x.numel() * x.element_size() for x in (*tensors.values(), *shared.values(), output)))


def wide(tensors: Tensors, rows: list[int] | None = None) -> dict[str, Any]:
    """The same numbers in fp64, of some rows."""
    return {name: (x if rows is None else x[rows]).double() for name, x in tensors.items()}
