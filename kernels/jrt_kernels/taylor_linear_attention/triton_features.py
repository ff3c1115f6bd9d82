"""The folded feature map inside a Triton kernel, made of products with 0/1 matrices.

A folded feature (features.py) is a product of two columns of x, or one column, or the constant. A matrix
with a single 1 in each column picks columns of x on the tensor cores, exactly, and leaves the features in the
layout that the next matrix product takes: no gather, no trip through memory.

Here keys carry no weights and queries carry those of both sides, so a pair of features still multiplies to
its term of 1 + s + s^2 / 2, and fewer numbers are multiplied. The rows of a state are divided by the keys'
weight when they are read from memory and multiplied by it when they are written.

C tokens of a chunk, K key dim, KP the same padded (at least 16), F features of one block, a power of two:
`FIRST`, `FIRST` + 1, ...; those beyond the last feature are 0.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def product(a, b, acc, PRECISION: tl.constexpr):
    """acc + a @ b in fp32, acc may be None; PRECISION "ieee": fp32 is multiplied as fp32, not as tf32."""
    return tl.dot(a, b, acc=acc, input_precision=PRECISION)


@triton.jit
def factors(FIRST: tl.constexpr, K: tl.constexpr, F: tl.constexpr):
    """(F,) the columns a and b of x whose product is the feature; -1 for none."""
    f = FIRST + tl.arange(0, F)
    products: tl.constexpr = K * (K + 1) // 2
    a = tl.where(f < products, f % K, tl.where(f < products + K, f - products, -1))
    b = tl.where(f < products, (f % K + f // K) % K, -1)
    return a, b


@triton.jit
def key_weights(FIRST: tl.constexpr, K: tl.constexpr, F: tl.constexpr):
    """(F,) the weights of features.py: K^-1/2 for products (times sqrt(1/2) for squares), K^-1/4, 1."""
    f = FIRST + tl.arange(0, F)
    products: tl.constexpr = K * (K + 1) // 2
    product = tl.where(f < K, 0.7071067811865476 * K**-0.5, K**-0.5)
    return tl.where(f < products, product, tl.where(f < products + K, K**-0.25, 1.0))


@triton.jit
def units(FIRST: tl.constexpr, K: tl.constexpr, F: tl.constexpr, WEIGHT: tl.constexpr):
    """(F,) `WEIGHT` for the linear features, else 0; 1 for the constant, else 0."""
    f = FIRST + tl.arange(0, F)
    products: tl.constexpr = K * (K + 1) // 2
    linear = tl.where((f >= products) & (f < products + K), WEIGHT, 0.0)
    return linear, tl.where(f == products + K, 1.0, 0.0)


@triton.jit
def key_selection(
    FIRST: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, F: tl.constexpr, dtype: tl.constexpr
):
    """(F, KP) twice: the matrices that pick the two factors of keys' features."""
    a, b = factors(FIRST, K, F)
    columns = tl.arange(0, KP)[None, :]
    first = tl.where(a[:, None] == columns, 1.0, 0.0).to(dtype)
    return first, tl.where(b[:, None] == columns, 1.0, 0.0).to(dtype)


@triton.jit
def key_features(
    kt, pick_a, pick_b, FIRST: tl.constexpr, K: tl.constexpr, F: tl.constexpr, PRECISION: tl.constexpr
):
    """kt (KP, C) -> (F, C) in fp32: the features of keys, without weights, tokens along the columns."""
    a = product(pick_a, kt, None, PRECISION)
    b = product(pick_b, kt, None, PRECISION)
    phi = a * b
    if FIRST + F > K * (K + 1) // 2:
        linear, one = units(FIRST, K, F, 1.0)
        phi += a * linear[:, None] + one[:, None]
    return phi


@triton.jit
def query_selection(
    FIRST: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
    F: tl.constexpr,
    POWER: tl.constexpr,
    dtype: tl.constexpr,
):
    """(KP, F) twice: the matrices for queries. The second carries the products' weight as far as it is a
    power of two, `POWER`: exact in every dtype."""
    a, b = factors(FIRST, K, F)
    f = FIRST + tl.arange(0, F)
    rows = tl.arange(0, KP)[:, None]
    weight = tl.where(f < K, 0.5 * POWER, POWER)
    first = tl.where(rows == a[None, :], 1.0, 0.0).to(dtype)
    return first, tl.where(rows == b[None, :], weight[None, :], 0.0).to(dtype)


@triton.jit
def query_features(
    q, pick_a, pick_b, FIRST: tl.constexpr, K: tl.constexpr, F: tl.constexpr, POWER: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """q (C, KP) -> (C, F) in fp32: the features of queries, with the weights of both sides."""
    a = product(q, pick_a, None, PRECISION)
    b = product(q, pick_b, None, PRECISION)
    phi = a * b
    if K * POWER != 1:
        phi *= 1 / (K * POWER)  # the rest of the products' weight
    if FIRST + F > K * (K + 1) // 2:
        linear, one = units(FIRST, K, F, K**-0.5)
        phi += a * linear[None, :] + one[None, :]
    return phi


@triton.jit
def load_state(
    kv, ksum, which, columns, V, FIRST: tl.constexpr, K: tl.constexpr, F: tl.constexpr, BV: tl.constexpr
):
    """One block of the state (FT, V), (FT,) at `which` of kv and ksum -> (F, BV), (F,) without the keys'
    weights; zeros where kv is None."""
    if kv is None:
        return tl.zeros((F, BV), tl.float32), tl.zeros((F,), tl.float32)
    else:
        f = FIRST + tl.arange(0, F)
        live = f < K * (K + 1) // 2 + K + 1
        weight = key_weights(FIRST, K, F)
        mask = live[:, None] & (columns < V)[None, :]
        s = tl.load(kv + which * V + (f[:, None] * V + columns[None, :]), mask, other=0.0)
        z = tl.load(ksum + which + f, live, other=0.0)
        return s / weight[:, None], z / weight


@triton.jit
def store_state(
    kv, ksum, which, s, z, columns, V, block, FIRST: tl.constexpr, K: tl.constexpr, F: tl.constexpr
):
    """The reverse of `load_state`; the program of the first block of values writes ksum."""
    f = FIRST + tl.arange(0, F)
    live = f < K * (K + 1) // 2 + K + 1
    weight = key_weights(FIRST, K, F)
    mask = live[:, None] & (columns < V)[None, :]
    tl.store(kv + which * V + (f[:, None] * V + columns[None, :]), s * weight[:, None], mask)
    tl.store(ksum + which + f, z * weight, live & (f * 0 + block == 0))
