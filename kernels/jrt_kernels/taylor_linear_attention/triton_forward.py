"""Taylor linear attention on a GPU: one kernel that reads a sequence, or a segment of one, in chunks.

The state (features x values, and its normaliser) stays in registers from the first chunk to the last, those
of the encoder first. Within a chunk weights come from the scores, 1 + s + s^2 / 2; what came before enters
through the features of the queries. Nothing but the output and the end state is written.

N sequences, H heads, T tokens, C tokens of a chunk, K key dim, V value dim, BV values of one program, FT
features, F1 + F2 + F3 the same in three blocks (powers of two).
"""

from __future__ import annotations

import triton
import triton.language as tl

from jrt_kernels.taylor_linear_attention.triton_features import (
    key_features,
    key_selection,
    load_state,
    product,
    query_features,
    query_selection,
    store_state,
)


@triton.jit
def load_rows(base, at, stride, rows, columns, live, WIDTH, FULL: tl.constexpr):
    """Rows at .. at + C of (T, WIDTH) at `base`, 0 where `live` is not or beyond WIDTH: (C, columns)."""
    pointers = base + (tl.cast(at + rows, tl.int64) * stride)[:, None] + columns[None, :]
    if FULL:
        return tl.load(pointers, live[:, None], other=0.0)
    return tl.load(pointers, live[:, None] & (columns < WIDTH)[None, :], other=0.0)


@triton.jit
def add_block(
    s, z, kt, v, a, b, short, FIRST: tl.constexpr, K: tl.constexpr, F: tl.constexpr, PRECISION: tl.constexpr
):
    """One block of the state, s (F, BV) and z (F,), after a chunk kt (KP, C), v (C, BV); `short` tokens of
    the C are none, their k and v 0."""
    phi = key_features(kt, a, b, FIRST, K, F, PRECISION)
    z += tl.sum(phi, 1)
    constant: tl.constexpr = K * (K + 1) // 2 + K
    if constant < FIRST + F:  # the constant of a token that is none is 1 too: it must not count
        z -= tl.where(FIRST + tl.arange(0, F) == constant, short, 0.0)
    return product(phi.to(v.dtype), v, s, PRECISION), z


@triton.jit
def read_block(
    sums, total, s, z, q, a, b, count, FIRST: tl.constexpr, K: tl.constexpr, F: tl.constexpr,
    POWER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What one block of the state gives the queries (C, KP): added to sums (C, BV), over `count`, and to
    total (C,)."""
    phi = query_features(q, a, b, FIRST, K, F, POWER, PRECISION)
    total += tl.sum(phi * z[None, :], 1)
    if q.dtype == tl.float16:
        s *= 1 / count  # a tensor's division is many instructions
    return product(phi.to(q.dtype), s.to(q.dtype), sums, PRECISION), total


@triton.jit
def twice(a, b, acc, PRECISION: tl.constexpr):
    """acc + a @ b for fp32 a and half-precision b: a rounded, and what that lost, rounded."""
    if b.dtype == tl.float32:
        return product(a, b, acc, PRECISION)
    else:
        # Cut off by its bits: rounding to bf16 and back takes three times the instructions.
        high = (a.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)
        acc = product(high.to(b.dtype), b, acc, PRECISION)
        return product((a - high).to(b.dtype), b, acc, PRECISION)


@triton.jit
def bounds(marks, n, T):
    """First row in its pack (int64; 0 in a batch) and number of tokens of sequence n."""
    if marks is not None:
        start = tl.minimum(tl.maximum(tl.load(marks + n), 0), T)
        stop = tl.minimum(tl.maximum(tl.load(marks + n + 1), start), T)
        return tl.cast(start, tl.int64), tl.cast(stop - start, tl.int32)
    else:
        return tl.cast(n * 0, tl.int64), n * 0 + T


@triton.jit
def origin(marks, n, start, head, stride_b, stride_t, stride_h):
    """Where the tokens of sequence n and one head begin in a tensor, as an int64 offset."""
    row = tl.cast(n, tl.int64) * stride_b
    if marks is not None:
        row = start * stride_t
    return row + tl.cast(head, tl.int64) * stride_h


@triton.jit
def taylor_forward(
    q, k, v, ke, ve, o, den, rates, s_in, z_in, s_out, z_out, marks, lengths, slot_rows, first_slots,
    q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, ke_b, ke_t, ke_h, ve_b, ve_t, ve_h,
    T, E, H, V, segment,
    K: tl.constexpr, KP: tl.constexpr, F1: tl.constexpr, F2: tl.constexpr, F3: tl.constexpr,
    C: tl.constexpr, BV: tl.constexpr, POWER: tl.constexpr, FULL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program for each slot, block of values and head (the head runs fastest).

    What is None decides what is done. marks (N + 1,): the sequences of a pack. slot_rows (slots,) with
    first_slots (N + 1,): a slot is `segment` tokens of a sequence, else it is a sequence. q: o (rows, H, V)
    is written, and den (rows, H) where it is given. ke: these keys and values enter the state first. lengths
    (N,): how many tokens of ke count, or without it of k. s_in, z_in: the state before each slot. rates (H,):
    log2 of the decay. s_out, z_out: the state after each sequence, without q after each slot.
    """
    head = tl.program_id(0) % H
    blocks = tl.cdiv(V, BV)
    block = (tl.program_id(0) // H) % blocks
    slot = tl.program_id(0) // (H * blocks)
    n = slot
    first = slot * 0
    if slot_rows is not None:
        n = tl.load(slot_rows + slot)
        first = (slot - tl.load(first_slots + n)) * segment
    start, tokens = bounds(marks, n, T)
    region = tokens
    if ke is not None and marks is None:
        region = n * 0 + E
    if lengths is not None:
        region = tl.minimum(region, tl.maximum(tl.cast(tl.load(lengths + n), tl.int32), 0))
        if ke is None:
            tokens = region
    stop = tokens
    if slot_rows is not None:
        stop = tl.minimum(tokens, first + segment)

    rows = tl.arange(0, C)
    keys = tl.arange(0, KP)
    columns = block * BV + tl.arange(0, BV)
    dtype: tl.constexpr = v.dtype.element_ty
    features: tl.constexpr = K * (K + 1) // 2 + K + 1
    a1, b1 = key_selection(0, K, KP, F1, dtype)
    a2, b2 = key_selection(F1, K, KP, F2, dtype)
    a3, b3 = key_selection(F1 + F2, K, KP, F3, dtype)
    which = tl.cast(slot * H + head, tl.int64) * features
    s1, z1 = load_state(s_in, z_in, which, columns, V, 0, K, F1, BV)
    s2, z2 = load_state(s_in, z_in, which, columns, V, F1, K, F2, BV)
    s3, z3 = load_state(s_in, z_in, which, columns, V, F1 + F2, K, F3, BV)

    if ke is not None:
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

    k += origin(marks, n, start, head, k_b, k_t, k_h)
    v += origin(marks, n, start, head, v_b, v_t, v_h)
    if q is not None:
        q += origin(marks, n, start, head, q_b, q_t, q_h)
        o += origin(marks, n, start, head, tl.cast(T, tl.int64) * H * V, H * V, V)
        qa1, qb1 = query_selection(0, K, KP, F1, POWER, dtype)
        qa2, qb2 = query_selection(F1, K, KP, F2, POWER, dtype)
        qa3, qb3 = query_selection(F1 + F2, K, KP, F3, POWER, dtype)
        if den is not None:
            den += origin(marks, n, start, head, tl.cast(T, tl.int64) * H, H, 1)
    rate = 0.0
    if rates is not None:
        rate = tl.load(rates + head)
    for t in range(first, stop, C):
        live = t + rows < stop
        own_keys = load_rows(k, t, k_t, rows, keys, live, K, K == KP)
        values = load_rows(v, t, v_t, rows, columns, live, V, FULL)
        kt = tl.trans(own_keys)
        short = tl.cast(tl.maximum(t + C - stop, 0), tl.float32)
        if q is not None:
            queries = load_rows(q, t, q_t, rows, keys, live, K, K == KP)
            count = 1.0
            if dtype == tl.float16:  # a sum over many tokens leaves its range; a mean does not
                count = tl.sum(tl.where(F1 + F2 + tl.arange(0, F3) == features - 1, z3, 0.0), 0)
                count = tl.maximum(count, 1.0)
            sums = tl.zeros((C, BV), tl.float32)
            total = tl.zeros((C,), tl.float32)
            sums, total = read_block(
                sums, total, s1, z1, queries, qa1, qb1, count, 0, K, F1, POWER, PRECISION
            )
            sums, total = read_block(
                sums, total, s2, z2, queries, qa2, qb2, count, F1, K, F2, POWER, PRECISION
            )
            sums, total = read_block(
                sums, total, s3, z3, queries, qa3, qb3, count, F1 + F2, K, F3, POWER, PRECISION
            )
            if dtype == tl.float16:
                sums *= count
            if rates is not None:
                sums *= tl.exp2(rate * (rows + 1))[:, None]
            scores = product(queries, kt, None, PRECISION)
            weights = scores * (scores * (0.5 / K) + K**-0.5) + 1
            weights = tl.where(rows[:, None] >= rows[None, :], weights, 0.0)
            total += tl.sum(weights, 1)
            if rates is not None:
                weights *= tl.exp2(rate * tl.maximum(rows[:, None] - rows[None, :], 0))
            # Most weights are near 1, where rounding is coarsest: alone it would cost half as much again as
            # rounding the output.
            sums = twice(weights, values, sums, PRECISION)
            pointers = o + (tl.cast(t + rows, tl.int64) * (H * V))[:, None] + columns[None, :]
            mask = live[:, None] & (columns < V)[None, :]
            tl.store(pointers, (sums * (1 / total)[:, None]).to(o.dtype.element_ty), mask)
            if den is not None:
                tl.store(den + tl.cast(t + rows, tl.int64) * H, total, live & (rows * 0 + block == 0))
        if rates is not None:
            s1 *= tl.exp2(rate * (C - short))
            s2 *= tl.exp2(rate * (C - short))
            s3 *= tl.exp2(rate * (C - short))
            left = tl.maximum(C - 1 - short - rows, 0.0)
            values = (values.to(tl.float32) * tl.exp2(rate * left)[:, None]).to(dtype)
        s1, z1 = add_block(s1, z1, kt, values, a1, b1, short, 0, K, F1, PRECISION)
        s2, z2 = add_block(s2, z2, kt, values, a2, b2, short, F1, K, F2, PRECISION)
        s3, z3 = add_block(s3, z3, kt, values, a3, b3, short, F1 + F2, K, F3, PRECISION)

    if s_out is not None:
        last = stop >= 0
        if q is not None and slot_rows is not None:
            # Slots that a pack's last sequence has no use for come after its own: they have no state to give.
            last = (first + segment >= tokens) & ((first < tokens) | (first == 0))
            which = tl.cast(n * H + head, tl.int64) * features
        if last:
            store_state(s_out, z_out, which, s1, z1, columns, V, block, 0, K, F1)
            store_state(s_out, z_out, which, s2, z2, columns, V, block, F1, K, F2)
            store_state(s_out, z_out, which, s3, z3, columns, V, block, F1 + F2, K, F3)


@triton.jit
def segment_starts(
    parts, part_sums, starts, start_sums, s_in, z_in, enc_parts, enc_sums, rates,
    first_slots, enc_first_slots, H, V, segment,
    FEATURES: tl.constexpr, ROWS: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """What each segment of a sequence adds -> the state before it: the exclusive sum, in fp32.

    Program (block of ROWS features, sequence, head). The encoder's segments come before the first; the last
    segment of a sequence adds to nothing here.
    """
    head = tl.program_id(0) % H
    n = tl.program_id(0) // H
    f = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BV)
    inside = (f < FEATURES)[:, None] & (columns < V)[None, :]
    at = f[:, None] * V + columns[None, :]
    s = tl.zeros((ROWS, BV), tl.float32)
    z = tl.zeros((ROWS,), tl.float32)
    if s_in is not None:
        which = tl.cast(n * H + head, tl.int64) * FEATURES
        s = tl.load(s_in + which * V + at, inside, other=0.0)
        z = tl.load(z_in + which + f, f < FEATURES, other=0.0)
    if enc_parts is not None:
        for slot in range(tl.load(enc_first_slots + n), tl.load(enc_first_slots + n + 1)):
            which = tl.cast(slot * H + head, tl.int64) * FEATURES
            s += tl.load(enc_parts + which * V + at, inside, other=0.0)
            z += tl.load(enc_sums + which + f, f < FEATURES, other=0.0)
    passes = 1.0
    if rates is not None:
        passes = tl.exp2(tl.load(rates + head) * segment)
    for slot in range(tl.load(first_slots + n), tl.load(first_slots + n + 1)):
        which = tl.cast(slot * H + head, tl.int64) * FEATURES
        tl.store(starts + which * V + at, s, inside)
        tl.store(start_sums + which + f, z, f < FEATURES)
        s = s * passes + tl.load(parts + which * V + at, inside, other=0.0)
        z += tl.load(part_sums + which + f, f < FEATURES, other=0.0)


@triton.jit
def taylor_step(
    q, k, v, o, rates, s_in, z_in, s_out, z_out,
    q_b, q_h, k_b, k_h, v_b, v_h, H, V,
    K: tl.constexpr, F: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """One token of each row: features, new state, output. Program (head, row).

    Each tile of the state is read once, before it is written: s_out may be s_in.
    """
    head = tl.program_id(0) % H
    row = tl.cast(tl.program_id(0) // H, tl.int64)
    features: tl.constexpr = K * (K + 1) // 2 + K + 1
    products: tl.constexpr = K * (K + 1) // 2
    columns = tl.arange(0, BV)
    inside = columns < V
    q += row * q_b + tl.cast(head, tl.int64) * q_h
    k += row * k_b + tl.cast(head, tl.int64) * k_h
    value = tl.load(v + row * v_b + tl.cast(head, tl.int64) * v_h + columns, inside, other=0.0).to(tl.float32)
    which = (row * H + head) * features
    total = tl.zeros((F,), tl.float32)
    sums = tl.zeros((BV,), tl.float32)
    decay = 1.0
    if rates is not None:
        decay = tl.exp2(tl.load(rates + head))
    for first in range(0, features, F):
        f = first + tl.arange(0, F)
        live = f < features
        a = tl.where(f < products, f % K, f - products)
        b = (f % K + f // K) % K
        linear = f < products + K  # or a product
        qa = tl.load(q + a, linear, other=1.0).to(tl.float32)
        ka = tl.load(k + a, linear, other=1.0).to(tl.float32)
        qb = tl.load(q + b, f < products, other=1.0).to(tl.float32)
        kb = tl.load(k + b, f < products, other=1.0).to(tl.float32)
        weight = tl.where(f < products, K**-0.5, tl.where(linear, K**-0.25, 1.0))
        weight *= tl.where(f < K, 0.7071067811865476, 1.0)
        phi_q = qa * qb * weight
        phi_k = ka * kb * weight
        at = which * V + f[:, None] * V + columns[None, :]
        mask = live[:, None] & inside[None, :]
        s = phi_k[:, None] * value[None, :]
        z = phi_k
        if s_in is not None:
            s += decay * tl.load(s_in + at, mask, other=0.0)
            z += tl.load(z_in + which + f, live, other=0.0)
        tl.store(s_out + at, s, mask)
        tl.store(z_out + which + f, z, live)
        total += tl.where(live, phi_q * z, 0.0)
        sums += tl.sum(tl.where(live, phi_q, 0.0)[:, None] * s, 0)
    out = sums / tl.sum(total)
    tl.store(o + (row * H + head) * V + columns, out.to(o.dtype.element_ty), inside)
