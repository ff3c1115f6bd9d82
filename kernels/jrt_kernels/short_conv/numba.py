"""Causal depthwise convolution in compiled code for a CPU: row by row, all channels of a token in turn.

B batch, T tokens, D channels, W filter width, N sequences.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from jrt_kernels.jit.compiler import jit, piece
from jrt_kernels.jit.lanes import fma, load, silu, store
from jrt_kernels.jit.tensors import check, flat, rows, run, sequences, whole

CHANNELS = 64


@piece
def _four(low, high, channels, x, at, step, weight, bias, gated, out, out_at):  # type: ignore[no-untyped-def]
    """Four tokens, the first at x[at:], through four taps: of seven inputs, each is read once."""
    for c in range(low, high, 16):
        w0, w1 = load(weight, c), load(weight, channels + c)
        w2, w3 = load(weight, 2 * channels + c), load(weight, 3 * channels + c)
        first, plus = at + c, load(bias, c)
        x0, x1, x2 = load(x, first - 3 * step), load(x, first - 2 * step), load(x, first - step)
        x3, x4, x5 = load(x, first), load(x, first + step), load(x, first + 2 * step)
        x6 = load(x, first + 3 * step)
        y0 = fma(w3, x3, fma(w2, x2, fma(w1, x1, fma(w0, x0, plus))))
        y1 = fma(w3, x4, fma(w2, x3, fma(w1, x2, fma(w0, x1, plus))))
        y2 = fma(w3, x5, fma(w2, x4, fma(w1, x3, fma(w0, x2, plus))))
        y3 = fma(w3, x6, fma(w2, x5, fma(w1, x4, fma(w0, x3, plus))))
        if gated:
            y0, y1, y2, y3 = silu(y0), silu(y1), silu(y2), silu(y3)
        store(out, out_at + c, y0)
        store(out, out_at + channels + c, y1)
        store(out, out_at + 2 * channels + c, y2)
        store(out, out_at + 3 * channels + c, y3)


@jit
def _conv(  # type: ignore[no-untyped-def]
    first, last, bounds, channels, taps, x, x_step, weight, bias, gated, source, target, out,
):  # fmt: skip
    """Units are 64 channels of a sequence; weight (W, D), states (N, W - 1, D), oldest input first."""
    blocks = channels // CHANNELS
    kept = taps - 1
    for sequence in range(first // blocks, (last + blocks - 1) // blocks):
        low = max(first - sequence * blocks, 0) * CHANNELS
        high = min(last - sequence * blocks, blocks) * CHANNELS
        start, stop = bounds[sequence], bounds[sequence + 1]
        place = sequence * kept * channels
        t = start
        while t < stop:
            early = t - start < kept
            if taps == 4 and not early and t + 4 <= stop:
                _four(low, high, channels, x, t * x_step, x_step, weight, bias, gated, out, t * channels)
                t += 4
                continue
            for c in range(low, high, 16):
                y = load(bias, c)
                if early:
                    for w in range(taps):
                        back = t - start + w  # counted from the oldest input of the state
                        if back < kept:
                            y = fma(
                                load(weight, w * channels + c), load(source, place + back * channels + c), y
                            )
                        else:
                            y = fma(load(weight, w * channels + c), load(x, (t - kept + w) * x_step + c), y)
                else:
                    for w in range(taps):
                        y = fma(load(weight, w * channels + c), load(x, (t - kept + w) * x_step + c), y)
                if gated:
                    y = silu(y)
                store(out, t * channels + c, y)
            t += 1
        for w in range(kept):
            back = stop - start + w
            for c in range(low, high, 16):
                at = place + w * channels + c
                if back < kept:
                    store(target, at, load(source, place + back * channels + c))
                else:
                    store(target, at, load(x, (stop - kept + w) * x_step + c))


def short_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `jrt_kernels.short_conv.naive.short_conv`; the state (B, D, W - 1) lies in memory as (B, W - 1, D).

    Raises Unsupported for fp64, for tensors on a GPU and where a gradient is wanted.
    """
    if activation not in (None, "silu"):
        raise ValueError(f"activation must be None or 'silu', not {activation!r}")
    check("short_conv", x, weight, bias, initial_state)
    batch, tokens, channels = x.shape
    taps = weight.shape[1]
    marks = sequences(batch, tokens, cu_seqlens)
    wide = -channels % CHANNELS
    filters = weight.float().t()
    offset = torch.zeros(channels) if bias is None else bias.float()
    if initial_state is None:
        before = torch.zeros(len(marks) - 1, taps - 1, channels + wide)
    else:
        given = initial_state.float().transpose(1, 2)
        before = pad(given, (0, wide)) if wide else given.contiguous()
    half = x.dtype == torch.bfloat16
    values = x
    if wide:
        values, filters, offset = (pad(y, (0, wide)) for y in (x, filters, offset))
    out = torch.empty(batch, tokens, channels + wide, dtype=torch.bfloat16 if half else torch.float32)
    after = torch.empty_like(before)
    if tokens == 0:
        after = before.clone()
    else:
        run(
            _conv, (len(marks) - 1) * ((channels + wide) // CHANNELS), marks, channels + wide, taps,
            *rows(values), whole(filters), whole(offset), activation == "silu",
            flat(before), flat(after), flat(out), parallel=tokens > 1,
        )  # fmt: skip
    y = out[..., :channels] if wide else out
    return y.to(x.dtype), after[:, :, :channels].transpose(1, 2)
