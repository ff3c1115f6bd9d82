"""How Taylor linear attention is laid out on a GPU: block sizes by shape, segments by how full the GPU is.

Plain arithmetic: no device is asked, so that a CPU can test it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

LARGEST_KEYS = 24
LARGEST_VALUES = 128
CTAS = 2  # programs that fit on a processor at a time
FIRST_PASS = 0.55  # of a segment's time: its keys and values are read, and enter the state, twice
SEGMENT_CHUNKS = 4  # in chunks, what a segment costs besides: states written, added up and read
MOST_SEGMENTS = 64


@dataclass(frozen=True)
class Blocks:
    """Sizes of one compiled kernel."""

    keys: int  # K padded for the tensor cores
    features: tuple[int, int, int]  # three blocks that cover all features
    chunk: int  # tokens
    values: int  # of one program
    warps: int
    stages: int


def power(size: int) -> int:
    """The least power of two that is no less than `size`, and at least 16, as a matrix product needs."""
    return max(16, 1 << (size - 1).bit_length())


def feature_blocks(key_dim: int) -> tuple[int, int, int]:
    """Three powers of two, at least 16, that cover the features of `key_dim` dimensions; the constant is in
    the last."""
    if key_dim <= 8:
        return 16, 16, 16
    return (64, 64, 32) if key_dim <= 16 else (128, 128, 128)


def forward_blocks(key_dim: int, value_dim: int, dtype: torch.dtype) -> Blocks:
    """The sizes for reading K = `key_dim`, V = `value_dim`."""
    features = feature_blocks(key_dim)
    if dtype == torch.float32:
        return Blocks(power(key_dim), features, 16, 16, 4, 1)
    if key_dim > 16:
        return Blocks(power(key_dim), features, 64, min(32, power(value_dim)), 8, 2)
    return Blocks(power(key_dim), features, 64, min(64, power(value_dim)), 4, 2)


def backward_blocks(key_dim: int, value_dim: int, dtype: torch.dtype) -> Blocks:
    """The sizes for the gradient; a program takes all values, since a key's gradient sums over them."""
    chunk = 16 if dtype == torch.float32 else 32
    return Blocks(power(key_dim), feature_blocks(key_dim), chunk, power(value_dim), 8, 1)


def segment_tokens(programs: int, tokens: int, processors: int, chunk: int) -> int | None:
    """Tokens of a segment where `programs` sequences (times heads and blocks of values) of `tokens` tokens
    each are worth cutting up on so many processors, else None.

    The time is that of a wave of CTAS * processors programs, times the waves. Cut into n segments a wave
    takes 1 / n of the tokens, but all is read twice, and a segment has a cost of its own.
    """
    slots = CTAS * processors
    chunks = -(-tokens // chunk)

    def cost(n: int) -> float:
        each = -(-chunks // n)
        waves = -(-programs * n // slots)
        return waves * (each if n == 1 else each * (1 + FIRST_PASS) + SEGMENT_CHUNKS)

    best = min(range(1, max(2, min(MOST_SEGMENTS, chunks) + 1)), key=cost)
    return None if best == 1 else -(-chunks // best) * chunk
