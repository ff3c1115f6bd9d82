"""Where and how a model runs: device, dtype and backend as asked, checked against this machine."""

from __future__ import annotations

from jrtcli.errors import UsageError

DTYPES = {
    "float32": "float32", "fp32": "float32", "bfloat16": "bfloat16", "bf16": "bfloat16",
    "float16": "float16", "fp16": "float16", "half": "float16",
}  # fmt: skip


def resolve_device(device: str) -> str:
    """ "auto", "cpu", "cuda", "cuda:N" or "mps" -> a device that this machine has. Raises UsageError."""
    import torch

    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        asked = torch.device(device)
    except (RuntimeError, TypeError):
        asked = None
    if asked is None or asked.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"there is no device {device!r}: take auto, cpu, cuda or cuda:N")
    if asked.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (asked.index or 0) >= count:
            have = f"has {count} GPU{'s' * (count > 1)}" if count else "has no GPU that this torch can use"
            raise UsageError(
                f"--device {device}: this machine {have} (`jrt doctor` says more); take --device cpu"
            )
        return f"cuda:{asked.index or 0}"
    if asked.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps: this machine has no GPU of Apple's; take --device cpu")
    return asked.type


def resolve_dtype(dtype: str, device: str) -> str:
    """ "auto" or a name -> "float32", "bfloat16" or "float16". Raises UsageError."""
    if dtype == "auto":
        return "bfloat16" if device.startswith("cuda") else "float32"
    name = DTYPES.get(str(dtype).removeprefix("torch."))
    if name is None:
        raise UsageError(f"there is no dtype {dtype!r}: take auto, float32, bfloat16 or float16")
    return name


def resolve_backend(backend: str, kind: str, device: str) -> str:
    """ "auto" or a name -> the backend of an architecture's kernels. Raises UsageError."""
    from jrt_kernels import registry
    from jrtcli.models import architecture

    op = architecture(kind).main_op
    if backend == "auto":
        return registry.choose(op, device)
    have = registry.OPS[op]
    if backend not in have:
        raise UsageError(f"{kind} has no backend {backend!r}: take auto or {', '.join(have)}")
    return backend
