"""The peers of one kernel: softmax attention through PyTorch, and fla's kernels of Based.

B rows, T tokens, H heads, P head dim, K key dim, V value dim.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from jrt_kernels.registry import Unsupported

SAMPLED_QUERIES = 128
"""How many of the last queries of a head the check looks at: all scores of a long prompt are too many."""


@dataclass(frozen=True)
class Peer:
    """A function of (q, k, v), (B, T, H, dim) each, without a state. softmax: of attention, else Based's."""

    name: str
    softmax: bool
    call: Callable[[Tensor, Tensor, Tensor], Tensor]
    says: Callable[[str], str]
    """(device) -> what it is, for the header."""


def _sdpa(backend: SDPBackend) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if backend is SDPBackend.CUDNN_ATTENTION and q.device.type != "cuda":
            raise Unsupported("cuDNN's attention needs an NVIDIA GPU")
        with sdpa_kernel(backend):
            # (B, T, H, P) is how flash kernels want it in memory: a transposed view, no copy.
            return F.scaled_dot_product_attention(
                q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
            ).transpose(1, 2)

    return call


def _need_fla(x: Tensor) -> None:
    if x.device.type != "cuda":
        raise Unsupported("fla's kernels run on GPUs only")
    if find_spec("fla") is None:
        raise Unsupported("flash-linear-attention is not installed: pip install 'jrt[gpu]'")


def _fla_parallel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    _need_fla(q)
    from fla.ops.based import parallel_based

    o: Tensor = parallel_based(q, k, v)
    return o


def _fla_fused_chunk(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    _need_fla(q)
    from fla.ops.based import fused_chunk_based

    o: Tensor = fused_chunk_based(q, k, v)
    return o


def _flash_words(device: str) -> str:
    if device.startswith("cuda"):
        return "FlashAttention-2 through PyTorch's SDPA"
    return "PyTorch's SDPA, its flash kernel for CPUs"


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("flash", True, _sdpa(SDPBackend.FLASH_ATTENTION), _flash_words),
        Peer("cudnn", True, _sdpa(SDPBackend.CUDNN_ATTENTION), lambda device: "cuDNN attention"),
        Peer("fla-fused-chunk", False, _fla_fused_chunk, lambda device: "fla, linear in the tokens"),
        Peer("fla-parallel", False, _fla_parallel, lambda device: "fla, quadratic: the paper's fla row"),
    )
}
"""Name -> peer; the first is what the others are compared with unless another is named first."""


def attention_flops(batch: int, tokens: int, heads: int, dim: int) -> float:
    """Causal: scores and values of half of all pairs."""
    return 2.0 * batch * heads * tokens**2 * dim


def sampled_attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Softmax attention in fp64 of the last queries of the first and last head of the first and last row.

    Returns it, and what picks the same part of an output (B, T, H, P).
    """

    def part(x: Tensor) -> Tensor:
        return x[[0, -1]][:, :, [0, -1]].transpose(1, 2)

    def picked(o: Tensor) -> Tensor:
        return part(o)[:, :, -SAMPLED_QUERIES:]

    queries, keys, values = picked(q).double(), part(k).double(), part(v).double()
    tokens, asked = keys.shape[2], queries.shape[2]
    scores = queries @ keys.transpose(-1, -2) * keys.shape[-1] ** -0.5
    place = torch.arange(tokens, device=q.device)
    unseen = place > torch.arange(tokens - asked, tokens, device=q.device)[:, None]
    return scores.masked_fill(unseen, -torch.inf).softmax(-1) @ values, picked
