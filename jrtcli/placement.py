"""Where and how a model runs: device, dtype and backend as asked, checked against this machine."""

from __future__ import annotations

from jrtcli.errors import UsageError

DTYPES = {
    "float32": "float32", "fp32": "float32", "bfloat16": "bfloat16", "bf16": "bfloat16",
    "float16": "float16", "fp16": "float16", "half": "float16",
}  # fmt: skip
WEIGHTS = ("auto", "int8")


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


def resolve_weights(weights: str, device: str) -> str:
    """ "auto" (in the model's dtype) or "int8" -> the same, where `device` can do it. Raises UsageError."""
    if weights not in WEIGHTS:
        raise UsageError(f"there are no --weights {weights!r}: take {' or '.join(WEIGHTS)}")
    if weights == "int8" and device != "cpu":
        raise UsageError(f"--weights int8 runs on a CPU, not on {device}: take --dtype bfloat16 there")
    return weights


def resolve_backend(backend: str, kind: str, device: str) -> str:
    """ "auto", "NAME" or "NAME,OP=NAME,..." -> the backends of an architecture's kernels, as NAME where all
    its operators have the same, else as NAME,OP=NAME,... (jrt_kernels.registry.plan). Raises UsageError for
    what does not exist, needs another device, is not installed, or cannot serve a model.
    """
    from jrt_kernels import registry
    from jrtcli.models import architecture

    model = architecture(kind)
    ops = (model.main_op, *model.other_ops)
    if backend != "auto":
        first, *others = backend.split(",")
        if first != "auto":
            _check_backend(first, kind, model.main_op, device)
        for part in others:
            op, equals, name = part.partition("=")
            if not equals or op not in ops:
                raise UsageError(
                    f"--backend {backend}: after the first name come OP=NAME, OP one of {', '.join(ops)}"
                )
            if name != "auto":
                _check_backend(name, kind, op, device)
    return registry.plan(ops, backend, device)


def _check_backend(name: str, kind: str, op: str, device: str) -> None:
    """Raises UsageError where a backend that was asked for cannot serve an operator of a model."""
    from jrt_kernels import registry

    have = registry.OPS[op]
    if name not in have:
        raise UsageError(f"{kind} has no backend {name!r}: take auto or {', '.join(have)}")
    if (op, name) in registry.FROM_NOTHING:
        raise UsageError(f"--backend {name}: its {op} cannot go on from a state, as {kind} must; take auto")
    if name == "numba" and device != "cpu":
        raise UsageError(f"--backend numba runs on a CPU, not on {device}; take auto")
    if name not in registry.PACKAGES:
        return
    if not device.startswith("cuda"):
        raise UsageError(f"--backend {name} runs on a CUDA device, not on {device}; take --backend auto")
    if (problem := registry.problem(name)) is not None:
        raise UsageError(f"--backend {name}: {problem}")
