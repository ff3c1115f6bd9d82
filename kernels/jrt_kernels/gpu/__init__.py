"""What the GPU kernels share: what they refuse, and how a pack is cut into blocks. Imports no Triton."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from jrt_kernels.registry import Unsupported, problem


def interpreting() -> bool:
    """Whether Triton's kernels run in its interpreter, on a CPU: how they are tested without a GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def wants_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd would record an operation on these."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def check(op: str, backend: str, *tensors: Tensor | None, backward: bool = False) -> None:
    """Raises Unsupported for what no kernel does: fp64, tensors elsewhere, gradients without `backward`."""
    for x in tensors:
        if x is None:
            continue
        if x.dtype == torch.float64:
            raise Unsupported(f"{op}: {backend} computes in fp32; fp64 is for the backends torch and naive")
        if x.device.type != "cuda" and not interpreting():
            raise Unsupported(
                f"{op}: {backend} runs on a CUDA device, not on {x.device}; take --backend torch"
            )
    if not backward and wants_gradient(*tensors):
        raise Unsupported(f"{op}: {backend} has no backward; train with the backend torch")


def require(op: str, backend: str) -> None:
    """Raises Unsupported where the package of a backend is missing, with the extra that installs it."""
    if (missing := problem(backend)) is not None:
        raise Unsupported(f"{op}: {missing}")


def power(n: int, least: int = 1) -> int:
    """The smallest power of two that is not below n or `least`."""
    return max(least, 1 << max(n - 1, 0).bit_length())


def blocks(cu_seqlens: Tensor, tokens: int, size: int) -> tuple[Tensor, Tensor]:
    """A pack in blocks of `size` tokens, none of which has tokens of two sequences.

    cu_seqlens (N + 1,) -> (sequence, first), (M,) int64 each, M = tokens // size + N: the sequence of a
    block, N for one that is not needed, and its first token, counted from that of the sequence. Computed on
    the device: the number of blocks needed is not known here, and nothing waits for it.
    """
    counts = (cu_seqlens.diff() + size - 1) // size
    ends = counts.cumsum(0)
    index = torch.arange(tokens // size + len(counts), device=cu_seqlens.device)
    sequence = torch.searchsorted(ends, index, right=True)
    before = torch.nn.functional.pad(ends, (1, 0))[sequence]
    return sequence, (index - before) * size


def check_pack(op: str, x: Tensor, cu_seqlens: Tensor | None) -> None:
    """Raises ValueError where a pack has more than one row. Its bounds are on the GPU and stay unread."""
    if cu_seqlens is not None and (x.shape[0] != 1 or cu_seqlens.dim() != 1 or len(cu_seqlens) < 2):
        raise ValueError(
            f"{op}: a pack has one row of tokens and cu_seqlens (N + 1,), not {x.shape[0]} rows and "
            f"{tuple(cu_seqlens.shape)}"
        )
