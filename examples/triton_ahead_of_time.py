"""Compile the Triton kernels of Taylor linear attention for an H100 or H200 on a machine without a GPU.

    python examples/triton_ahead_of_time.py        # every configuration
    python examples/triton_ahead_of_time.py forward-bf16-16-64 --json

Triton brings NVIDIA's assembler and disassembler. "loop" counts the instructions of the largest loop, once
through for one warp; "local" those among them that reach for spilled registers; wgmma and mma are the tensor
core instructions of warp groups and of warps. Do not set TRITON_INTERPRET here.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from jrt_kernels.taylor_linear_attention import schedule, triton_backward, triton_forward
from jrt_kernels.taylor_linear_attention.features import feature_count
from jrt_kernels.taylor_linear_attention.triton_launch import constants

TARGET = GPUTarget("cuda", 90, 32)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
HALF = {"q", "k", "v", "ke", "ve", "o", "g", "dq", "dk", "dv", "dke", "dve"}
INTEGERS = {
    "marks": "i64",
    "lengths": "i64",
    "slot_rows": "i32",
    "first_slots": "i32",
    "enc_first_slots": "i32",
}
LENGTHS = {"T", "E", "segment"}  # not known to be multiples of 16
READ = {"q", "k", "v", "o", "s_in", "z_in", "s_out", "z_out"}
ENCODER = {"ke", "ve", "lengths"}
SLOTS = {"slot_rows", "first_slots"}
GRADIENT = {"q", "k", "v", "g", "o", "den"}
SUMS = {"parts", "part_sums", "starts", "start_sums", "enc_parts", "enc_sums", "enc_first_slots"}
# name -> (kernel, tensors that are given)
PASSES = {
    "forward": (triton_forward.taylor_forward, READ),
    "packed": (triton_forward.taylor_forward, READ | SLOTS | {"marks"}),
    "training": (triton_forward.taylor_forward, READ | {"den"}),
    "decay": (triton_forward.taylor_forward, READ | {"rates"}),
    "encoder": (triton_forward.taylor_forward, READ | ENCODER),
    "segments": (triton_forward.taylor_forward, {"k", "v", "s_out", "z_out"} | SLOTS),
    "starts": (triton_forward.segment_starts, SUMS | {"s_in", "z_in", "rates", "first_slots"}),
    "step": (triton_forward.taylor_step, READ | {"rates"}),
    "queries": (triton_backward.query_gradient, GRADIENT | {"dq", "s_in", "z_in"}),
    "queries_encoder": (triton_backward.query_gradient, GRADIENT | ENCODER | {"dq", "s_in", "z_in"}),
    "queries_decay": (triton_backward.query_gradient, GRADIENT | {"dq", "rates"}),
    "keys": (triton_backward.key_value_gradient, GRADIENT | {"dk", "dv", "ds", "dz"}),
    "keys_encoder": (
        triton_backward.key_value_gradient,
        GRADIENT | ENCODER | {"dk", "dv", "dke", "dve", "ds", "dz", "ds_end", "dz_end"},
    ),
    "keys_decay": (triton_backward.key_value_gradient, GRADIENT | {"dk", "dv", "rates"}),
}
BACKWARD = ("queries", "keys")
SHAPES = [
    *((name, dtype, 16, 64) for name in ("forward", "encoder", "segments") for dtype in ("bf16",)),
    *(("forward", "bf16", *shape) for shape in ((16, 112), (16, 32), (16, 16), (8, 64), (24, 64))),
    ("forward", "fp16", 16, 64),
    ("forward", "fp32", 16, 64),
    *((name, "bf16", 16, 64) for name in ("decay", "packed", "training", "starts", "step")),
    *((f"{name}{more}", "bf16", 16, 64) for name in BACKWARD for more in ("", "_encoder", "_decay")),
    *((name, dtype, 16, 128) for name in BACKWARD for dtype in ("bf16", "fp32")),
    *((name, "bf16", 24, 128) for name in BACKWARD),
]
NAMES = {"-".join(map(str, shape)): shape for shape in SHAPES}


def source(kernel: Any, given: set[str], dtype: str, sizes: dict[str, Any]) -> ASTSource:
    """A kernel for tensors of `dtype`; pointers that are not `given` are None, strides multiples of 16."""
    signature, constant, hints = {}, {}, {}
    pointers = {name for name in kernel.arg_names if not re.search(r"_[bth]$", name)}
    pointers -= LENGTHS | {"H", "V"} | set(sizes)
    for i, name in enumerate(kernel.arg_names):
        if name in sizes or (name in pointers and name not in given):
            signature[name], constant[(i,)] = "constexpr", sizes.get(name)
            continue
        half = dtype if name in HALF else "fp32"
        signature[name] = "*" + INTEGERS.get(name, half) if name in pointers else "i32"
        if name not in LENGTHS:
            hints[(i,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constant, hints)


def disassembly(cubin: bytes) -> tuple[str, str]:
    """What a binary uses, and its instructions."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        calls = ([tools / "cuobjdump", "-res-usage", file.name], [tools / "nvdisasm", "-c", file.name])
        usage, code = (subprocess.run(c, capture_output=True, text=True, check=True).stdout for c in calls)
    return usage, code


def largest_loop(code: str) -> collections.Counter[str]:
    """The instructions between the label and the jump back that lie farthest apart."""
    names: list[str] = []
    labels: dict[str, int] = {}
    best = (0, 0)
    for line in code.splitlines():
        if label := re.match(r"(\.L\w+):", line.strip()):
            labels[label[1]] = len(names)
        if found := re.match(r"\s+/\*[0-9a-f]{4,5}\*/\s+(.*);", line):
            words = found[1].split()
            names.append((words[1] if words[0].startswith("@") else words[0]).split(".")[0])
            jump = re.search(r"BRA.*`\((\.L\w+)\)", found[1])
            if jump and jump[1] in labels:
                best = max(best, (labels[jump[1]], len(names)), key=lambda pair: pair[1] - pair[0])
    return collections.Counter(names[best[0] : best[1]])


def measure(name: str) -> dict[str, Any]:
    """Compiles one configuration: what a row of the table shows."""
    kind, dtype, key_dim, value_dim = NAMES[name]
    blocks = schedule.backward_blocks if kind.startswith(BACKWARD) else schedule.forward_blocks
    chosen = blocks(key_dim, value_dim, DTYPES[dtype])
    sizes = constants(key_dim, value_dim, chosen)
    options = {option: sizes.pop(option) for option in ("num_warps", "num_stages")}
    if kind in ("starts", "step"):  # no chunks, all values of a head; as their launches say
        values = schedule.power(value_dim)
        sizes = {"FEATURES": feature_count(key_dim), "ROWS": 16, "BV": values}
        if kind == "step":
            sizes = {"K": key_dim, "F": 32, "BV": values}
        chosen, options = replace(chosen, chunk=1, values=values, warps=4), {"num_warps": 4}
    kernel, given = PASSES[kind]
    began = time.process_time()
    built = triton.compile(source(kernel, given, dtype, sizes), target=TARGET, options=options)
    usage, code = disassembly(built.asm["cubin"])
    counts = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert counts, usage
    loop = largest_loop(code)
    return {
        "kernel": name,
        "chunk": chosen.chunk,
        "values": chosen.values,
        "warps": chosen.warps,
        "registers": int(counts[1]),
        "spilled_bytes": int(counts[2]),
        "shared_bytes": built.metadata.shared,
        "loop": sum(loop.values()),
        "local": loop["LDL"] + loop["STL"],
        "wgmma": loop["HGMMA"],
        "mma": loop["HMMA"],
        "compile_s": round(time.process_time() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(NAMES)} (all)")
    parser.add_argument("--json", action="store_true", help="one line of JSON for each")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(NAMES):
        parser.error(f"no configuration {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET is set: there would be nothing to compile")
    for i, name in enumerate(asked.names or NAMES):
        row = measure(name)
        if asked.json:
            print(json.dumps(row), flush=True)
            continue
        if i == 0:
            print("| " + " | ".join(row) + " |")
            print("|---" * len(row) + "|")
        print("| " + " | ".join(map(str, row.values())) + " |", flush=True)


if __name__ == "__main__":
    main()
