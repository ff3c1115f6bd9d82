"""The paper's Table 5: prefill latency in ms of one kernel call on an NVIDIA H100 (arXiv 2407.05483).

16 heads, feature dim 16, head dim 64, bf16. Its own protocol: wall time around one call, without
denominators; JRT-Prompt is the causal kernel over 2N tokens, JRT-RNN has an encoder of N/2.
"""

from __future__ import annotations

LENGTHS = (2048, 4096, 8192, 16384, 32768)
"""At batch 16."""
BATCHES = (2, 4, 8, 16, 32, 64)
"""At length 16384."""
BATCH, LENGTH = 16, 16384

_BY_LENGTH: dict[str, tuple[float | None, ...]] = {
    "causal": (0.3, 0.6, 1.2, 2.3, 4.5),
    "prefix": (0.4, 0.8, 1.5, 2.8, 5.6),
    "causal torch": (17.1, 74.5, 284.6, None, None),
    "prefix torch": (21.3, 89.2, None, None, None),
    "jrt-prompt": (0.6, 1.2, 2.3, 4.5, 9.0),
    "flash": (0.5, 1.8, 6.8, 26.6, 107.8),
    "fla-parallel": (1.0, 2.8, 9.3, 32.6, 123.7),
}
_BY_BATCH: dict[str, tuple[float | None, ...]] = {
    "causal": (1.2, 1.3, 1.5, 2.3, 4.5, 8.9),
    "prefix": (1.5, 1.5, 1.8, 2.8, 5.6, 11.1),
    "causal torch": (140.9, 281.5, None, None, None, None),
    "prefix torch": (169.6, 340.3, None, None, None, None),
    "jrt-prompt": (2.3, 2.5, 2.9, 4.5, 9.0, 17.8),
    "flash": (3.5, 6.7, None, None, 52.9, 108.2),
    "fla-parallel": (4.6, 8.7, 16.7, 32.4, 64.2, 127.8),
}


def published_ms(runner: str, batch: int, tokens: int) -> float | None:
    """The paper's time of a kernel of that kind; None where it ran out of memory or was not read by us."""
    if batch == BATCH and tokens in LENGTHS:
        return _BY_LENGTH.get(runner, (None,) * len(LENGTHS))[LENGTHS.index(tokens)]
    if tokens == LENGTH and batch in BATCHES:
        return _BY_BATCH.get(runner, (None,) * len(BATCHES))[BATCHES.index(batch)]
    return None
