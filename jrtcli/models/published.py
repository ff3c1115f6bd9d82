"""What published files need before they become a model: plain names, dimensions from tensors, a check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from jrtcli.errors import CheckpointError
from jrtcli.models.linear import Linear


def plain_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefix `model.` of some trainers' files, and without their entries of training metrics."""
    wrapped = any(name.startswith("model.backbone.") for name in weights)
    return {
        name.removeprefix("model.") if wrapped else name: tensor
        for name, tensor in weights.items()
        if "metrics" not in name and not name.endswith("rotary_emb.inv_freq")
    }


def sizes(weights: Mapping[str, Tensor], suffix: str, dim: int) -> list[int]:
    """The size of dimension `dim` of every tensor whose name ends in `suffix`."""
    return [w.shape[dim] for name, w in weights.items() if name.endswith(suffix) and w.dim() > dim]


def settle(from_weights: Iterable[int], from_config: int | None, name: str) -> int:
    """A dimension by majority: one stale field of a config, or one broken tensor, does not decide it.

    Raises CheckpointError where nothing tells it.
    """
    votes = [*from_weights, *([] if from_config is None else [int(from_config)])]
    if not votes:
        raise CheckpointError(f"config.json has no {name}")
    return Counter(votes).most_common(1)[0][0]  # of equals the first: tensors before the config


def number(value: Any) -> float:
    """A float as config files spell it: a number, "Infinity", or transformers' {"__float__": "Infinity"}."""
    return float(value["__float__"] if isinstance(value, Mapping) else value)


def refuse(
    config: Mapping[str, Any], accepted: Mapping[str, tuple[Any, ...]], where: str = "config.json"
) -> None:
    """Raises CheckpointError, naming the option, where one has a value other than the accepted ones."""
    for name, values in accepted.items():
        if name in config and config[name] not in values:
            raise CheckpointError(f"{where} has {name} = {config[name]!r}, which is not supported")


def fill(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    published: Callable[[str], str],
    keep_fp32: tuple[str, ...],
    dtype: torch.dtype,
    device: torch.device | str,
) -> None:
    """Puts weights by their published names into a model on the meta device.

    published: the model's name -> the published one. Parameters whose last name is in `keep_fp32` are never
    below fp32. Raises CheckpointError that names keys as they are in the file.
    """
    names = {name: published(name) for name in model.state_dict()}
    known = set(names.values())
    problems = []
    for name, tensor in model.state_dict().items():
        key, shape = names[name], tuple(tensor.shape)
        if key not in weights:
            problems.append(f"{key} {shape} is missing")
        elif tuple(weights[key].shape) != shape:
            problems.append(f"{key} has shape {tuple(weights[key].shape)}, expected {shape}")
    problems += [f"{key} {tuple(w.shape)} is unexpected" for key, w in weights.items() if key not in known]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise CheckpointError(f"the weights do not fit the config: {'; '.join(problems[:3])}{more}")
    load_weights(model, {name: weights[key] for name, key in names.items()}, dtype, device)
    wide = torch.promote_types(dtype, torch.float32)
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] in keep_fp32 and parameter.dtype != wide:
            parameter.data = weights[names[name]].to(device=device, dtype=wide)


class Unfilled(TorchFunctionMode):
    """Skips initial values, which a checkpoint replaces: on meta tensors they import torch's compiler."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        name = getattr(func, "__name__", "")
        if getattr(func, "__module__", "") == "torch.nn.init" or name in ("normal_", "uniform_"):
            return given.get("tensor", args[0] if args else None)
        return func(*args, **given)


def load_weights(
    model: nn.Module, weights: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device | str
) -> None:
    """Puts renamed weights into a model built on the meta device, each cast to `dtype` on `device`.

    Raises CheckpointError that names the first missing, unexpected or wrongly shaped keys, with both shapes.
    """
    expected = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    problems = [f"missing {name} {shape}" for name, shape in expected.items() if name not in weights]
    problems += [f"unexpected {name} {tuple(x.shape)}" for name, x in weights.items() if name not in expected]
    problems += [
        f"{name} has shape {tuple(weights[name].shape)}, expected {shape}"
        for name, shape in expected.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise CheckpointError(f"the weights do not fit the model: {'; '.join(problems[:3])}{more}")
    cast = {name: weights[name].to(device=device, dtype=dtype) for name in expected}
    model.load_state_dict(cast, assign=True)
    for module in model.modules():
        if isinstance(module, Linear):
            module.compiled = getattr(model, "backend", None) == "numba"
    model.requires_grad_(False)
