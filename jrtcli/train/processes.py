"""What several processes have to agree on, and whole tensors out of sharded ones and back.

With FSDP every process holds a slice of each parameter (a DTensor). Checkpoints hold whole tensors, so that a
run goes on with any number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def several() -> bool:
    """Whether this process is one of several."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def wait() -> None:
    """Until all processes are here."""
    if several():
        torch.distributed.barrier()


def summed(numbers: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Sums over all processes, entry by entry."""
    if not several():
        return dict(numbers)
    wide = torch.float64 if device.type != "mps" else torch.float32
    added = torch.tensor(list(numbers.values()), dtype=wide, device=device)
    torch.distributed.all_reduce(added)
    return dict(zip(numbers, added.tolist(), strict=True))


def greatest(value: float, device: torch.device) -> float:
    """The greatest value of any process."""
    if not several():
        return value
    found = torch.tensor(float(value), device=device)
    torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
    return float(found)


def is_sharded(module: nn.Module) -> bool:
    """Whether parameters are slices."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def whole(tree: Any) -> Any:
    """Nested values with every slice gathered: all processes have to call it, and all get the result."""
    if isinstance(tree, DTensor):
        return tree.full_tensor()
    if isinstance(tree, Mapping):
        return {key: whole(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(whole(value) for value in tree)
    return tree


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """A whole tensor as a slice where `model` is one of the same shape."""
    if isinstance(model, DTensor) and model.shape == tensor.shape:
        return distribute_tensor(tensor.to(model.device), model.device_mesh, model.placements)
    return tensor


def load_module(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """`load_state_dict` of whole tensors into slices. Raises RuntimeError or KeyError where they do not
    fit."""
    live = module.state_dict()
    module.load_state_dict({name: like(x, live[name]) if name in live else x for name, x in state.items()})


def load_optimizer(optimizer: Any, state: dict[str, Any]) -> None:
    """`load_state_dict` of whole tensors, in the order of the optimizer's parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    sliced = {
        index: {key: like(x, parameters[index]) if isinstance(x, Tensor) else x for key, x in values.items()}
        for index, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": sliced})
