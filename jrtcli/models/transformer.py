"""Transformer++: the paper's attention baseline (rotary, SwiGLU, RMSNorm; HazyResearch's attn-* checkpoints).

Its state is the key-value cache of every layer, which grows with each token: what the recurrent models do
without.
"""

from __future__ import annotations

from jrtcli.models.hybrid import HybridLM


class Transformer(HybridLM):
    """Softmax attention in every layer."""

    architecture = "transformer"
    main_op = "sliding_window"
    other_ops = ("gated_norm",)
