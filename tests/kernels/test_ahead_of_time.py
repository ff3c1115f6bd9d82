"""The Triton kernels compile for an H100: the interpreter does not see what the compiler refuses.

Each op is called with tensors on the CPU, in a process that does not interpret: what it launches is compiled.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CODE = """
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from jrt_kernels import gpu
from jrt_kernels.registry import resolve

TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.int64: "i64"}
compiled = []


def compile(self: Any, *given: Any, grid: Any = None, warmup: bool = False, **named: Any) -> None:
    values = dict(zip(self.arg_names, given)) | {n: x for n, x in named.items() if n in self.arg_names}
    signature, constants, aligned = {}, {}, {}
    for at, parameter in enumerate(self.params):
        name, x = parameter.name, values[parameter.name]
        if parameter.is_constexpr or x is None or (type(x) is int and x == 1):
            signature[name], constants[name] = "constexpr", x
        elif isinstance(x, torch.Tensor):
            signature[name] = "*" + TYPES[x.dtype]
            aligned[(at,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32" if isinstance(x, float) else "i32"
    options = {n: x for n, x in named.items() if n not in self.arg_names}
    made = triton.compile(
        ASTSource(self, signature, constants, aligned), target=GPUTarget("cuda", 90, 32), options=options
    )
    # Shared memory of an H100, and nothing of a kernel's registers in memory.
    assert made.metadata.shared <= 227 << 10, made.metadata.shared
    assert ".local" not in made.asm["ptx"]
    compiled.append(self.__name__)


JITFunction.run = compile
gpu.interpreting = lambda: True
op, dtype, packed = sys.argv[1], getattr(torch, sys.argv[2]), sys.argv[3] == "packed"
cu = torch.tensor([0, 20, 64]) if packed else None
rows = 2 if packed else 1


def tokens(*shape: int) -> torch.Tensor:
    return torch.zeros(1, 64, *shape, dtype=dtype)


def state(*shape: int) -> torch.Tensor:
    return torch.zeros(rows, *shape)


f = resolve(op, "triton")
if op == "short_conv":
    x, d = tokens(64), torch.zeros(64)
    f(x, torch.zeros(64, 4), d, activation="silu", initial_state=state(64, 3), cu_seqlens=cu)
    f(tokens(64), torch.zeros(64, 3), cu_seqlens=cu)
elif op == "gated_norm":
    f(tokens(64), torch.zeros(64), eps=1e-5, z=tokens(64))
    f(tokens(64), torch.zeros(32), eps=1e-5, z=tokens(64), group=32, norm_first=True)
elif op == "sliding_window":
    x, kept = tokens(2, 64), torch.zeros(rows, dtype=torch.int64)
    f(x, x, x, window=32, initial_state=(state(32, 2, 64), state(32, 2, 64), kept), cu_seqlens=cu)
    f(x, x, x, window=None)
elif op == "ssd":
    b = tokens(1, 64)
    step, d = torch.zeros(1, 64, 2), torch.zeros(2)
    f(tokens(2, 32), step, d, b, b, d, initial_state=state(2, 32, 64), cu_seqlens=cu)
elif op == "selective_scan":
    x, b, d = torch.zeros(1, 128, 64, dtype=dtype)[:, :64], tokens(16), torch.zeros(64)
    h = state(16, 64).transpose(1, 2)
    f(x, x, torch.zeros(64, 16), b, b, d, dt_bias=d, z=x, initial_state=h, cu_seqlens=cu)
    if not packed:  # in segments
        x, b = torch.zeros(1, 128, 64, dtype=dtype), torch.zeros(1, 128, 16, dtype=dtype)
        f(x, x, torch.zeros(64, 16), b, b, d, dt_bias=d, z=x, initial_state=h)
else:
    x = tokens(2, 32)
    f(x, x, x, torch.zeros(1, 64, 2, 32), initial_state=state(2, 32, 32), cu_seqlens=cu)
print(*compiled)
"""
KERNELS = {
    "short_conv": "_kernel",
    "gated_norm": "_kernel",
    "sliding_window": "_attend",
    "ssd": "_kernel",
    "selective_scan": "_scan",
    "gla": "_walk",
}


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "shape"), [("bfloat16", "dense"), ("float32", "packed")])
@pytest.mark.parametrize("op", KERNELS)
def test_compiles_for_an_h100(op: str, dtype: str, shape: str, tmp_path: Path) -> None:
    environment = {n: x for n, x in os.environ.items() if n != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT / "kernels")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE, op, dtype, shape],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert KERNELS[op] in done.stdout.split()
