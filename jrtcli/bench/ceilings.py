"""The ceilings of a device, measured: how fast it copies memory, and how fast it multiplies matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from jrtcli.bench.clock import Clock, percentile
from jrtcli.models.linear import Linear


@dataclass(frozen=True)
class Ceilings:
    """bytes_per_s: read and written by a copy. flops_per_s: of a large matrix product in `dtype`."""

    dtype: str
    bytes_per_s: float
    flops_per_s: float

    def predicted_ms(self, moved_bytes: float, flops: float) -> float:
        """The roofline: the longer of moving the bytes and doing the arithmetic."""
        return 1e3 * max(moved_bytes / self.bytes_per_s, flops / self.flops_per_s)


@torch.no_grad()
def measure(clock: Clock, dtype: str, *, small: bool = False) -> Ceilings:
    """Both ceilings with the threads that are set. small: in milliseconds, and not to be trusted."""
    device, kind = clock.device, getattr(torch, dtype)
    size = 2**22 if small else 2**30 if clock.gpu else 2**28
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = _best(clock, lambda: target.copy_(source), small)
    n = 256 if small else 8192 if clock.gpu else 2048
    a = torch.randn(n, n, device=device).to(kind)
    b = torch.randn(n, n, device=device).to(kind)
    out = torch.empty_like(a)
    product = _best(clock, lambda: torch.mm(a, b, out=out), small)
    if not clock.gpu:
        # The fp32 weights of models are reordered for oneDNN, which some CPUs run faster than torch.mm.
        linear = Linear(n, n, bias=False).requires_grad_(False).to(kind)
        product = min(product, _best(clock, lambda: linear(a), small))
    return Ceilings(dtype, 1e3 * 2 * size / copy, 1e3 * 2 * n**3 / product)


def _best(clock: Clock, call: Callable[[], object], small: bool) -> float:
    # The fastest tenth: a ceiling is what the device can do, not what it did beside other programs.
    return percentile(clock.repeated([call], 3 if small else 20, 1.0), 0.1)
