"""The gradient of Taylor linear attention on a GPU: two kernels, each a walk over the chunks with a state.

The gradient of queries wants the state before each chunk, which is made again as in reading; that of keys and
values wants its counterpart, the sum over later queries of phi(q_i) times the gradient of the numerator of i,
so it goes from the last chunk to the first, and then over the encoder. Between the two only the denominators
are kept, one number for each token and head.

With o_i = n_i / d_i and the gradient g_i of o_i: that of n_i is g_i / d_i, that of d_i is -(g_i . o_i) / d_i.
Symbols as in triton_forward.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from jrt_kernels.taylor_linear_attention.triton_features import (
    key_features,
    key_selection,
    key_weights,
    load_state,
    product,
    query_features,
    query_selection,
    units,
)
from jrt_kernels.taylor_linear_attention.triton_forward import add_block, bounds, load_rows, origin


@triton.jit
def load_gradient(g, o, den, at, H, V, rows, columns, live):
    """The gradients of a chunk's numerators (C, BV) and denominators (C,); 0 where `live` is not."""
    where = tl.cast(at + rows, tl.int64)
    inside = live[:, None] & (columns < V)[None, :]
    offsets = (where * (H * V))[:, None] + columns[None, :]
    grad = tl.load(g + offsets, inside, other=0.0).to(tl.float32)
    out = tl.load(o + offsets, inside, other=0.0).to(tl.float32)
    inverse = 1 / tl.load(den + where * H, live, other=1.0)
    return grad * inverse[:, None], -tl.sum(grad * out, 1) * inverse


@triton.jit
def score_gradient(
    q, kt, v, dn, dd, rows, rate, DECAY: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr
):
    """Of a chunk's products q k: their gradient (C, C), and the weights of the numerator."""
    scores = product(q, kt, None, PRECISION)
    weights = scores * (scores * (0.5 / K) + K**-0.5) + 1
    causal = rows[:, None] >= rows[None, :]
    grad = product(dn.to(v.dtype), tl.trans(v), None, PRECISION)
    if DECAY:
        decay = tl.exp2(rate * tl.maximum(rows[:, None] - rows[None, :], 0))
        grad *= decay
        weights *= decay
    grad = (grad + dd[:, None]) * (scores * (1.0 / K) + K**-0.5)
    return tl.where(causal, grad, 0.0), tl.where(causal, weights, 0.0)


@triton.jit
def query_block(
    dq, q, dn, dd, s, z, pick_a, pick_b, FIRST: tl.constexpr, K: tl.constexpr, F: tl.constexpr,
    POWER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq (C, KP) plus what comes through one block of features, whose state is s, z."""
    dphi = product(dn.to(q.dtype), tl.trans(s).to(q.dtype), None, PRECISION) + dd[:, None] * z[None, :]
    da = product(q, pick_b, None, PRECISION) * (1 / (K * POWER))
    if FIRST + F > K * (K + 1) // 2:
        linear, _ = units(FIRST, K, F, K**-0.5)
        da += linear[None, :]
    db = product(q, pick_a, None, PRECISION) * (1 / (K * POWER))
    dq = product((dphi * da).to(q.dtype), tl.trans(pick_a), dq, PRECISION)
    return product((dphi * db).to(q.dtype), tl.trans(pick_b), dq, PRECISION)


@triton.jit
def key_block(
    dkt, dv, kt, v, s, z, pick_a, pick_b, FIRST: tl.constexpr, K: tl.constexpr, F: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dkt (KP, C) and dv (C, BV) plus what comes through one block of features; s, z: the gradient of the
    state after the chunk."""
    a = product(pick_a, kt, None, PRECISION)
    b = product(pick_b, kt, None, PRECISION)
    half = s.to(v.dtype)
    dphi = product(half, tl.trans(v), None, PRECISION) + z[:, None]
    da = dphi * b
    if FIRST + F > K * (K + 1) // 2:
        linear, _ = units(FIRST, K, F, 1.0)
        da += dphi * linear[:, None]
    dkt = product(tl.trans(pick_a), da.to(v.dtype), dkt, PRECISION)
    dkt = product(tl.trans(pick_b), (dphi * a).to(v.dtype), dkt, PRECISION)
    phi = key_features(kt, pick_a, pick_b, FIRST, K, F, PRECISION)
    return dkt, product(tl.trans(phi.to(v.dtype)), half, dv, PRECISION)


@triton.jit
def add_queries(
    s, z, q, dn, dd, pick_a, pick_b, FIRST: tl.constexpr, K: tl.constexpr, F: tl.constexpr,
    POWER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of one block of the state before a chunk, from that after it."""
    phi = query_features(q, pick_a, pick_b, FIRST, K, F, POWER, PRECISION)
    z += tl.sum(phi * dd[:, None], 0)
    return product(tl.trans(phi.to(q.dtype)), dn.to(q.dtype), s, PRECISION), z


@triton.jit
def load_state_gradient(
    kv, ksum, which, columns, V, FIRST: tl.constexpr, K: tl.constexpr, F: tl.constexpr, BV: tl.constexpr
):
    """As load_state, for a gradient: the weights go the other way."""
    s, z = load_state(kv, ksum, which, columns, V, FIRST, K, F, BV)
    square = key_weights(FIRST, K, F)
    square *= square
    return s * square[:, None], z * square


@triton.jit
def store_state_gradient(
    kv, ksum, which, s, z, columns, V, FIRST: tl.constexpr, K: tl.constexpr, F: tl.constexpr
):
    """As store_state, for a gradient."""
    f = FIRST + tl.arange(0, F)
    live = f < K * (K + 1) // 2 + K + 1
    weight = key_weights(FIRST, K, F)
    mask = live[:, None] & (columns < V)[None, :]
    tl.store(kv + which * V + (f[:, None] * V + columns[None, :]), s / weight[:, None], mask)
    tl.store(ksum + which + f, z / weight, live)


@triton.jit
def store_rows(base, x, at, stride, rows, columns, live, WIDTH):
    """x (C, columns) to rows at .. at + C of (T, WIDTH)."""
    pointers = base + (tl.cast(at + rows, tl.int64) * stride)[:, None] + columns[None, :]
    tl.store(pointers, x.to(base.dtype.element_ty), live[:, None] & (columns < WIDTH)[None, :])


@triton.jit
def query_gradient(
    q, k, v, ke, ve, g, o, den, dq, rates, s_in, z_in, marks, lengths,
    q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, ke_b, ke_t, ke_h, ve_b, ve_t, ve_h, T, E, H, V,
    K: tl.constexpr, KP: tl.constexpr, F1: tl.constexpr, F2: tl.constexpr, F3: tl.constexpr, C: tl.constexpr,
    BV: tl.constexpr, POWER: tl.constexpr, FULL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq (rows, H, K). Program (head, sequence); arguments as `taylor_forward`, g: the gradient of o."""
    head = tl.program_id(0) % H
    n = tl.program_id(0) // H
    start, tokens = bounds(marks, n, T)
    rows = tl.arange(0, C)
    keys = tl.arange(0, KP)
    columns = tl.arange(0, BV)
    dtype: tl.constexpr = v.dtype.element_ty
    features: tl.constexpr = K * (K + 1) // 2 + K + 1
    a1, b1 = key_selection(0, K, KP, F1, dtype)
    a2, b2 = key_selection(F1, K, KP, F2, dtype)
    a3, b3 = key_selection(F1 + F2, K, KP, F3, dtype)
    qa1, qb1 = query_selection(0, K, KP, F1, POWER, dtype)
    qa2, qb2 = query_selection(F1, K, KP, F2, POWER, dtype)
    qa3, qb3 = query_selection(F1 + F2, K, KP, F3, POWER, dtype)
    which = tl.cast(n * H + head, tl.int64) * features
    s1, z1 = load_state(s_in, z_in, which, columns, V, 0, K, F1, BV)
    s2, z2 = load_state(s_in, z_in, which, columns, V, F1, K, F2, BV)
    s3, z3 = load_state(s_in, z_in, which, columns, V, F1 + F2, K, F3, BV)
    if ke is not None:
        region = tokens
        if marks is None:
            region = n * 0 + E
        if lengths is not None:
            region = tl.minimum(region, tl.maximum(tl.cast(tl.load(lengths + n), tl.int32), 0))
        ke += origin(marks, n, start, head, ke_b, ke_t, ke_h)
        ve += origin(marks, n, start, head, ve_b, ve_t, ve_h)
        for t in range(0, region, C):
            live = t + rows < region
            kt = tl.trans(load_rows(ke, t, ke_t, rows, keys, live, K, K == KP))
            values = load_rows(ve, t, ve_t, rows, columns, live, V, FULL)
            short = tl.cast(tl.maximum(t + C - region, 0), tl.float32)
            s1, z1 = add_block(s1, z1, kt, values, a1, b1, short, 0, K, F1, PRECISION)
            s2, z2 = add_block(s2, z2, kt, values, a2, b2, short, F1, K, F2, PRECISION)
            s3, z3 = add_block(s3, z3, kt, values, a3, b3, short, F1 + F2, K, F3, PRECISION)

    q += origin(marks, n, start, head, q_b, q_t, q_h)
    k += origin(marks, n, start, head, k_b, k_t, k_h)
    v += origin(marks, n, start, head, v_b, v_t, v_h)
    T64 = tl.cast(T, tl.int64)
    g += origin(marks, n, start, head, T64 * H * V, H * V, V)
    o += origin(marks, n, start, head, T64 * H * V, H * V, V)
    den += origin(marks, n, start, head, T64 * H, H, 1)
    dq += origin(marks, n, start, head, T64 * H * K, H * K, K)
    rate = 0.0
    if rates is not None:
        rate = tl.load(rates + head)
    for t in range(0, tokens, C):
        live = t + rows < tokens
        short = tl.cast(tl.maximum(t + C - tokens, 0), tl.float32)
        queries = load_rows(q, t, q_t, rows, keys, live, K, K == KP)
        own_keys = load_rows(k, t, k_t, rows, keys, live, K, K == KP)
        values = load_rows(v, t, v_t, rows, columns, live, V, FULL)
        kt = tl.trans(own_keys)
        dn, dd = load_gradient(g, o, den, t, H, V, rows, columns, live)
        grad, _ = score_gradient(queries, kt, values, dn, dd, rows, rate, rates is not None, K, PRECISION)
        total = product(grad.to(dtype), own_keys, None, PRECISION)
        if rates is not None:
            dn *= tl.exp2(rate * (rows + 1))[:, None]
        total = query_block(total, queries, dn, dd, s1, z1, qa1, qb1, 0, K, F1, POWER, PRECISION)
        total = query_block(total, queries, dn, dd, s2, z2, qa2, qb2, F1, K, F2, POWER, PRECISION)
        total = query_block(total, queries, dn, dd, s3, z3, qa3, qb3, F1 + F2, K, F3, POWER, PRECISION)
        store_rows(dq, total, t, H * K, rows, keys, live, K)
        if rates is not None:
            s1 *= tl.exp2(rate * (C - short))
            s2 *= tl.exp2(rate * (C - short))
            s3 *= tl.exp2(rate * (C - short))
            left = tl.maximum(C - 1 - short - rows, 0.0)
            values = (values.to(tl.float32) * tl.exp2(rate * left)[:, None]).to(dtype)
        s1, z1 = add_block(s1, z1, kt, values, a1, b1, short, 0, K, F1, PRECISION)
        s2, z2 = add_block(s2, z2, kt, values, a2, b2, short, F1, K, F2, PRECISION)
        s3, z3 = add_block(s3, z3, kt, values, a3, b3, short, F1 + F2, K, F3, PRECISION)


@triton.jit
def key_value_gradient(
    q, k, v, ke, ve, g, o, den, dk, dv, dke, dve, rates, ds_end, dz_end, ds, dz, marks, lengths,
    q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, ke_b, ke_t, ke_h, ve_b, ve_t, ve_h, T, E, H, V,
    K: tl.constexpr, KP: tl.constexpr, F1: tl.constexpr, F2: tl.constexpr, F3: tl.constexpr, C: tl.constexpr,
    BV: tl.constexpr, POWER: tl.constexpr, FULL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dk (rows, H, K), dv (rows, H, V), dke and dve the same of the encoder, ds and dz of the state before.

    ds_end, dz_end: the gradient of the end state, or None.
    """
    head = tl.program_id(0) % H
    n = tl.program_id(0) // H
    start, tokens = bounds(marks, n, T)
    rows = tl.arange(0, C)
    keys = tl.arange(0, KP)
    columns = tl.arange(0, BV)
    dtype: tl.constexpr = v.dtype.element_ty
    features: tl.constexpr = K * (K + 1) // 2 + K + 1
    a1, b1 = key_selection(0, K, KP, F1, dtype)
    a2, b2 = key_selection(F1, K, KP, F2, dtype)
    a3, b3 = key_selection(F1 + F2, K, KP, F3, dtype)
    qa1, qb1 = query_selection(0, K, KP, F1, POWER, dtype)
    qa2, qb2 = query_selection(F1, K, KP, F2, POWER, dtype)
    qa3, qb3 = query_selection(F1 + F2, K, KP, F3, POWER, dtype)
    which = tl.cast(n * H + head, tl.int64) * features
    s1, z1 = load_state_gradient(ds_end, dz_end, which, columns, V, 0, K, F1, BV)
    s2, z2 = load_state_gradient(ds_end, dz_end, which, columns, V, F1, K, F2, BV)
    s3, z3 = load_state_gradient(ds_end, dz_end, which, columns, V, F1 + F2, K, F3, BV)

    q += origin(marks, n, start, head, q_b, q_t, q_h)
    k += origin(marks, n, start, head, k_b, k_t, k_h)
    v += origin(marks, n, start, head, v_b, v_t, v_h)
    T64 = tl.cast(T, tl.int64)
    g += origin(marks, n, start, head, T64 * H * V, H * V, V)
    o += origin(marks, n, start, head, T64 * H * V, H * V, V)
    dv += origin(marks, n, start, head, T64 * H * V, H * V, V)
    den += origin(marks, n, start, head, T64 * H, H, 1)
    dk += origin(marks, n, start, head, T64 * H * K, H * K, K)
    rate = 0.0
    if rates is not None:
        rate = tl.load(rates + head)
    chunks = (tokens + C - 1) // C
    for i in range(0, chunks):
        t = (chunks - 1 - i) * C
        live = t + rows < tokens
        short = tl.cast(tl.maximum(t + C - tokens, 0), tl.float32)
        queries = load_rows(q, t, q_t, rows, keys, live, K, K == KP)
        own_keys = load_rows(k, t, k_t, rows, keys, live, K, K == KP)
        values = load_rows(v, t, v_t, rows, columns, live, V, FULL)
        kt = tl.trans(own_keys)
        dn, dd = load_gradient(g, o, den, t, H, V, rows, columns, live)
        grad, weights = score_gradient(
            queries, kt, values, dn, dd, rows, rate, rates is not None, K, PRECISION
        )
        # What a later token sees of this one has decayed since: it stands beside the value, and again here.
        left = tl.zeros((C,), tl.float32) + 1
        if rates is not None:
            left = tl.exp2(rate * tl.maximum(C - 1 - short - rows, 0.0))
            values = (values.to(tl.float32) * left[:, None]).to(dtype)
        dkt = product(tl.trans(queries), grad.to(dtype), None, PRECISION)
        out = tl.zeros((C, BV), tl.float32)
        dkt, out = key_block(dkt, out, kt, values, s1, z1, a1, b1, 0, K, F1, PRECISION)
        dkt, out = key_block(dkt, out, kt, values, s2, z2, a2, b2, F1, K, F2, PRECISION)
        dkt, out = key_block(dkt, out, kt, values, s3, z3, a3, b3, F1 + F2, K, F3, PRECISION)
        out = product(tl.trans(weights).to(dtype), dn.to(dtype), out * left[:, None], PRECISION)
        store_rows(dk, tl.trans(dkt), t, H * K, rows, keys, live, K)
        store_rows(dv, out, t, H * V, rows, columns, live, V)
        if rates is not None:
            s1 *= tl.exp2(rate * (C - short))
            s2 *= tl.exp2(rate * (C - short))
            s3 *= tl.exp2(rate * (C - short))
            dn *= tl.exp2(rate * (rows + 1))[:, None]
        s1, z1 = add_queries(s1, z1, queries, dn, dd, qa1, qb1, 0, K, F1, POWER, PRECISION)
        s2, z2 = add_queries(s2, z2, queries, dn, dd, qa2, qb2, F1, K, F2, POWER, PRECISION)
        s3, z3 = add_queries(s3, z3, queries, dn, dd, qa3, qb3, F1 + F2, K, F3, POWER, PRECISION)

    if ke is not None:
        region = tokens
        rows_of_encoder = T64
        if marks is None:
            region = n * 0 + E
            rows_of_encoder = tl.cast(E, tl.int64)
        if lengths is not None:
            region = tl.minimum(region, tl.maximum(tl.cast(tl.load(lengths + n), tl.int32), 0))
        ke += origin(marks, n, start, head, ke_b, ke_t, ke_h)
        ve += origin(marks, n, start, head, ve_b, ve_t, ve_h)
        dke += origin(marks, n, start, head, rows_of_encoder * H * K, H * K, K)
        dve += origin(marks, n, start, head, rows_of_encoder * H * V, H * V, V)
        for t in range(0, region, C):
            live = t + rows < region
            kt = tl.trans(load_rows(ke, t, ke_t, rows, keys, live, K, K == KP))
            values = load_rows(ve, t, ve_t, rows, columns, live, V, FULL)
            dkt = tl.zeros((KP, C), tl.float32)
            out = tl.zeros((C, BV), tl.float32)
            dkt, out = key_block(dkt, out, kt, values, s1, z1, a1, b1, 0, K, F1, PRECISION)
            dkt, out = key_block(dkt, out, kt, values, s2, z2, a2, b2, F1, K, F2, PRECISION)
            dkt, out = key_block(dkt, out, kt, values, s3, z3, a3, b3, F1 + F2, K, F3, PRECISION)
            store_rows(dke, tl.trans(dkt), t, H * K, rows, keys, live, K)
            store_rows(dve, out, t, H * V, rows, columns, live, V)

    if ds is not None:
        store_state_gradient(ds, dz, which, s1, z1, columns, V, 0, K, F1)
        store_state_gradient(ds, dz, which, s2, z2, columns, V, F1, K, F2)
        store_state_gradient(ds, dz, which, s3, z3, columns, V, F1 + F2, K, F3)
