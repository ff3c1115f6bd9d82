"""Starting the Triton kernels of Taylor linear attention: what they can do, memory, strides, segments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from jrt_kernels.packed import bounds
from jrt_kernels.registry import Unsupported
from jrt_kernels.taylor_linear_attention import schedule
from jrt_kernels.taylor_linear_attention.features import feature_count
from jrt_kernels.taylor_linear_attention.triton_backward import key_value_gradient, query_gradient
from jrt_kernels.taylor_linear_attention.triton_forward import segment_starts, taylor_forward

State = tuple[Tensor, Tensor]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def check(op: str, q: Tensor, k: Tensor, v: Tensor, *more: Tensor) -> None:
    """Raises Unsupported, with the reason, for what the kernels cannot do."""
    given = (q, k, v, *more)
    if any(x.dtype not in DTYPES for x in given):
        raise Unsupported(f"{op}: triton computes in fp32, bf16 or fp16; take the backend torch for fp64")
    if any(not x.is_cuda for x in given) and not triton.knobs.runtime.interpret:
        raise Unsupported(f"{op}: triton's kernels run on a GPU; take the backend numba or torch on a CPU")
    if q.shape[-1] > schedule.LARGEST_KEYS or v.shape[-1] > schedule.LARGEST_VALUES:
        raise Unsupported(
            f"{op}: triton's kernels hold a state of up to {schedule.LARGEST_KEYS} keys and "
            f"{schedule.LARGEST_VALUES} values, not {q.shape[-1]} and {v.shape[-1]}; take the backend torch"
        )


def wants_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd records what is done to one of these."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def processors(device: torch.device) -> int:
    """The multiprocessors of a GPU; 1 for the interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def allocate(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """Memory for something a kernel writes whole."""
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device)


def rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x (B, T, H, X) as the kernels read it, each head's values side by side. No copy where that is so."""
    x = x.to(dtype)
    return x if x.shape[-1] == 1 or x.stride(-1) == 1 else x.contiguous()


def log_decay(decay: Tensor | None) -> Tensor | None:
    """log2 of the decay (H,) in fp32; a decay of 0 stays finite."""
    return None if decay is None else decay.float().log2().clamp(min=-126).contiguous()


def whole_state(state: State | None) -> tuple[Tensor | None, Tensor | None]:
    """A state as the kernels read it: fp32, contiguous."""
    return (None, None) if state is None else (state[0].float().contiguous(), state[1].float().contiguous())


@dataclass(frozen=True)
class Sequences:
    """N sequences of tokens, as rows of a batch or in a pack, and how many tokens of each count."""

    count: int
    tokens: int  # of a row, or of the pack
    marks: Tensor | None = None  # (N + 1,), the bounds in a pack
    lengths: Tensor | None = None  # (N,)

    def slots(self, segment: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """(slots,) the sequence of each slot of `segment` tokens, (N + 1,) the first slot of each sequence.

        A sequence has at least one slot. In a pack the slots are as many as the tokens may need; those that
        are left over come after the last one's and have no tokens.
        """
        if self.marks is None:
            each = max(1, -(-self.tokens // segment))
            first = torch.arange(self.count + 1, device=device) * each
            total = self.count * each
        else:
            marks = self.marks.clamp(0, self.tokens)
            needed = ((marks.diff() + segment - 1) // segment).clamp(min=1)
            first = torch.nn.functional.pad(needed.cumsum(0), (1, 0))
            total = self.tokens // segment + self.count
        rows = torch.searchsorted(first[1:], torch.arange(total, device=device), right=True)
        return rows.clamp(max=self.count - 1).int(), first.int()


def sequences(x: Tensor, cu_seqlens: Tensor | None) -> Sequences:
    """The sequences of x (B, T, ...). Raises ValueError for bounds that do not fit, if a CPU holds them."""
    if cu_seqlens is None:
        return Sequences(x.shape[0], x.shape[1])
    if cu_seqlens.device.type == "cpu":
        bounds(cu_seqlens, x.shape[1])
    return Sequences(len(cu_seqlens) - 1, x.shape[1], cu_seqlens.to(x.device).contiguous())


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_enc: Tensor | None,
    v_enc: Tensor | None,
    rates: Tensor | None,
    state: Sequence[Tensor | None],
    own: Sequences,
    encoder: Sequences | None,
    keep: bool = False,
) -> tuple[Tensor, Tensor | None, State]:
    """The output (B, T, H, V), with `keep` the denominators (B, T, H), the end state."""
    batch, tokens, heads, value_dim = v.shape
    o = allocate(v, *v.shape)
    den = allocate(v, batch, tokens, heads, dtype=torch.float32) if keep else None
    blocks = schedule.forward_blocks(q.shape[-1], value_dim, v.dtype)
    sizes = constants(q.shape[-1], value_dim, blocks)
    programs = own.count * heads * -(-value_dim // blocks.values)
    longest = -(-own.tokens // own.count) if own.marks is not None else own.tokens
    segment = schedule.segment_tokens(programs, longest, processors(v.device), blocks.chunk)
    if segment is None:
        end = launch(q, k, v, k_enc, v_enc, o, den, rates, state, own, encoder, sizes)
        return o, den, end
    slots = own.slots(segment, v.device)
    parts = launch(None, k, v, None, None, None, None, rates, (None, None), own, None, sizes, segment, slots)
    before: Sequence[Tensor | None] = (None, None)
    enc_first = None
    if encoder is not None:
        assert k_enc is not None and v_enc is not None
        enc_slots = encoder.slots(segment, v.device)
        before = launch(
            None,
            k_enc,
            v_enc,
            None,
            None,
            None,
            None,
            None,
            (None, None),
            encoder,
            None,
            sizes,
            segment,
            enc_slots,
        )
        enc_first = enc_slots[1]
    starts = allocate(parts[0], *parts[0].shape), allocate(parts[1], *parts[1].shape)
    features = feature_count(q.shape[-1])
    segment_starts[(own.count * heads, triton.cdiv(features, 16))](
        *parts, *starts, *state, *before, rates, slots[1], enc_first, heads, value_dim, segment,
        FEATURES=features, ROWS=16, BV=schedule.power(value_dim),
    )  # fmt: skip
    return o, den, launch(q, k, v, None, None, o, den, rates, starts, own, None, sizes, segment, slots)


def launch(
    q: Tensor | None,
    k: Tensor,
    v: Tensor,
    k_enc: Tensor | None,
    v_enc: Tensor | None,
    o: Tensor | None,
    den: Tensor | None,
    rates: Tensor | None,
    state: Sequence[Tensor | None],
    own: Sequences,
    encoder: Sequences | None,
    sizes: dict[str, Any],
    segment: int = 0,
    slots: tuple[Tensor, Tensor] | None = None,
) -> State:
    """`taylor_forward` over all slots: fills o and den, returns the states it writes."""
    heads, value_dim, key_dim = v.shape[2], v.shape[3], k.shape[3]
    count = own.count if slots is None else len(slots[0])
    states = count if q is None else own.count
    features = feature_count(key_dim)
    kv = allocate(v, states, heads, features, value_dim, dtype=torch.float32)
    ksum = allocate(v, states, heads, features, dtype=torch.float32)
    grid = (count * triton.cdiv(value_dim, sizes["BV"]) * heads,)
    if grid[0]:
        taylor_forward[grid](
            q, k, v, k_enc, v_enc, o, den, rates, *state, kv, ksum,
            own.marks, own.lengths if encoder is None else encoder.lengths, *(slots or (None, None)),
            *strides(q), *strides(k), *strides(v), *strides(k_enc), *strides(v_enc),
            own.tokens, 0 if encoder is None else encoder.tokens, heads, value_dim, segment,
            **sizes,
        )  # fmt: skip
    return kv, ksum


def strides(x: Tensor | None) -> tuple[int, ...]:
    """The strides of rows, tokens and heads."""
    return (0, 0, 0) if x is None else x.stride()[:3]


def constants(key_dim: int, value_dim: int, blocks: schedule.Blocks) -> dict[str, Any]:
    """What `taylor_forward` is compiled for."""
    return {
        "K": key_dim,
        "KP": blocks.keys,
        "F1": blocks.features[0],
        "F2": blocks.features[1],
        "F3": blocks.features[2],
        "C": blocks.chunk,
        "BV": blocks.values,
        "POWER": 2.0 ** -round(math.log2(key_dim)),
        "FULL": value_dim % blocks.values == 0,
        "PRECISION": "ieee",
        "num_warps": blocks.warps,
        "num_stages": blocks.stages,
    }


def backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_enc: Tensor | None,
    v_enc: Tensor | None,
    rates: Tensor | None,
    state: Sequence[Tensor | None],
    own: Sequences,
    encoder: Sequences | None,
    o: Tensor,
    den: Tensor,
    grad: Tensor,
    grad_end: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """The gradients of q, k, v, k_enc, v_enc and the state's two parts, from those of o and the end state."""
    batch, tokens, heads, value_dim = v.shape
    key_dim, features = k.shape[3], feature_count(k.shape[3])
    blocks = schedule.backward_blocks(key_dim, value_dim, v.dtype)
    sizes = constants(key_dim, value_dim, blocks)
    lengths = None if encoder is None else encoder.lengths
    shape = (own.tokens, 0 if encoder is None else encoder.tokens, heads, value_dim)
    steps = [s for x in (q, k, v, k_enc, v_enc) for s in strides(x)]
    dq, dk = (allocate(x, batch, tokens, heads, key_dim) for x in (q, k))
    dv = allocate(v, batch, tokens, heads, value_dim)
    # Tokens that do not count have a gradient too: 0.
    dke, dve = (
        None if x is None else torch.zeros_like(x, memory_format=torch.contiguous_format)
        for x in (k_enc, v_enc)
    )
    ds = dz = None
    if state[0] is not None:
        ds = allocate(v, own.count, heads, features, value_dim, dtype=torch.float32)
        dz = allocate(v, own.count, heads, features, dtype=torch.float32)
    grid = (own.count * heads,)
    if grid[0]:
        query_gradient[grid](
            q,
            k,
            v,
            k_enc,
            v_enc,
            grad,
            o,
            den,
            dq,
            rates,
            *state,
            own.marks,
            lengths,
            *steps,
            *shape,
            **sizes,
        )
        key_value_gradient[grid](
            q, k, v, k_enc, v_enc, grad, o, den, dk, dv, dke, dve, rates, *grad_end, ds, dz,
            own.marks, lengths, *steps, *shape, **sizes,
        )  # fmt: skip
    return [dq, dk, dv, dke, dve, ds, dz]
