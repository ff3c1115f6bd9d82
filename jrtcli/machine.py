"""What this machine has for jrt: Python, torch, processor, GPUs and the optional packages."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from jrtcli.models import ARCHITECTURES
from jrtcli.models import architecture as model_class
from jrtcli.placement import resolve_backend

EXTRAS: dict[str, tuple[str, str, str]] = {
    "triton": ("triton", "gpu", "kernels on NVIDIA GPUs"),
    "flash-linear-attention": ("fla", "gpu", "kernels on NVIDIA GPUs"),
    "mamba-ssm": ("mamba_ssm", "mamba-ssm", "the original CUDA kernels of Mamba"),
    "causal-conv1d": ("causal_conv1d", "mamba-ssm", "the original CUDA kernels of Mamba"),
    "accelerate": ("accelerate", "train", "jrt train"),
    "pypdf": ("pypdf", "docs", "PDF documents"),
    "mammoth": ("mammoth", "docs", "DOCX documents"),
    "selectolax": ("selectolax", "docs", "HTML documents"),
}
"""Distribution -> (module, extra that installs it, what it is for)."""

GPU_EXTRAS = ("gpu", "mamba-ssm")
_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")


@dataclass(frozen=True)
class Package:
    """An optional package: its version, or None where it is missing."""

    name: str
    version: str | None
    extra: str
    purpose: str


@dataclass(frozen=True)
class Backend:
    """What `--backend auto` means for an architecture here (NAME, or NAME,OP=NAME,...), and why for its main
    operator."""

    architecture: str
    backend: str
    reason: str


@dataclass(frozen=True)
class Machine:
    """The facts. gpus: names with memory in bytes. bfloat16, float32: what the processor does with weights.
    install: one command for what is missing, or None.
    """

    python: str
    platform: str
    torch: str
    processor: str
    features: tuple[str, ...]
    bfloat16: str
    float32: str
    cores: int
    threads: int
    gpus: tuple[tuple[str, int], ...]
    device: str
    dtype: str
    packages: tuple[Package, ...]
    backends: tuple[Backend, ...]
    install: str | None


def inspect() -> Machine:
    """Look at this machine. Imports torch, and no optional package."""
    import torch

    from jrtcli.placement import resolve_device, resolve_dtype

    device = resolve_device("auto")
    gpus = []
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(i)
        gpus.append((properties.name, properties.total_memory))
    packages = tuple(
        Package(name, _version(name) if find_spec(module) else None, extra, purpose)
        for name, (module, extra, purpose) in EXTRAS.items()
    )
    model, features = processor()
    return Machine(
        python=platform.python_version(),
        platform=platform.platform(terse=True),
        torch=torch.__version__,
        processor=model,
        features=features,
        bfloat16=_bfloat16(),
        float32=_float32(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        gpus=tuple(gpus),
        device=device,
        dtype=resolve_dtype("auto", device),
        packages=packages,
        backends=tuple(_backend(name, device) for name in ARCHITECTURES),
        install=install_command(packages, has_gpu=bool(gpus)),
    )


def _float32() -> str:
    """Whose matrix products of many float32 tokens are taken on this CPU, and why."""
    from jrtcli.models.linear import mkl_suffices, packable

    if mkl_suffices():
        return "multiplied by MKL, which is made for this processor: weights used in place"
    import torch

    if torch.float32 in packable():
        return "multiplied by oneDNN with weights reordered once, in a second copy"
    return "multiplied by PyTorch's own operators"


def _bfloat16() -> str:
    """What `--dtype auto` does on this CPU with weights that are stored in bfloat16, and why."""
    from jrtcli.models.linear import multiplies_bf16

    if multiplies_bf16():
        tiles = ", on AMX's tiles" if _tiles() else ""
        return f"multiplied by this processor{tiles}: weights stored so are used in place"
    return "not multiplied by this processor: weights stored so are widened to float32"


def _tiles() -> bool:
    """Whether compiled kernels take AMX's tiles."""
    from jrt_kernels.registry import numba_problem

    if numba_problem() is not None:
        return False
    from jrt_kernels.jit.tiles import present

    return present()


def install_command(packages: tuple[Package, ...], *, has_gpu: bool) -> str | None:
    """One command that adds what is missing and of use here: GPU kernels only where there is a GPU."""
    wanted = {p.extra for p in packages if p.version is None and (has_gpu or p.extra not in GPU_EXTRAS)}
    if not wanted:
        return None
    return f"{_quote(sys.executable)} -m pip install 'jrt[{','.join(sorted(wanted))}]'"


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, tuple[str, ...]]:
    """The processor's name, and which of the instruction sets that matter for jrt it has."""
    fields: dict[str, str] = {}
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip().lower(), value.strip())
    flags = (fields.get("flags") or fields.get("features") or "").split()
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, tuple(feature for feature in _FEATURES if feature in flags)


def _backend(architecture: str, device: str) -> Backend:
    from jrt_kernels.registry import OPS, PACKAGES, named, numba_problem, problem

    op = model_class(architecture).main_op
    spec = resolve_backend("auto", architecture, device)
    chosen = named(op, spec)
    on_gpu = device.startswith("cuda")
    others = [name for name in OPS[op] if name != chosen and (on_gpu or name not in PACKAGES)]
    what = {
        "triton": "kernels for this GPU",
        "numba": "compiled for this processor",
        "torch": "matrix products over chunks",
        "naive": "the recurrence, token by token",
    }
    reason = f"{what.get(chosen, 'kernels of its own')} on {device}"
    if others:
        reason += f"; also {', '.join(others)}"
    if device == "cpu" and chosen != "numba" and (missing := numba_problem()) is not None:
        reason += f"; numba, which is faster, cannot be imported: {missing}"
    if on_gpu and chosen == "torch" and "triton" in OPS[op] and (missing := problem("triton")) is not None:
        reason += f"; triton, which is faster, cannot be used: {missing}"
    return Backend(architecture, spec, reason)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown version"


def _quote(path: str) -> str:
    return f"'{path}'" if " " in path else path
