"""Trains under FSDP on CPUs, which accelerate offers on GPUs only: RECIPE OUTPUT [KEY=VALUE...], by
torchrun."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from jrtcli.train import loop, processes
from jrtcli.train.config import load_recipe
from jrtcli.train.events import Event


class OnCPU(Accelerator):
    """As launched with examples/accelerate/fsdp.yaml on GPUs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        AcceleratorState._shared_state["distributed_type"] = DistributedType.FSDP
        AcceleratorState._shared_state["fsdp_plugin"] = FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
        )

    def prepare(self, *given: Any, **options: Any) -> Any:
        made = super().prepare(*given, **options)
        assert processes.is_sharded(made[0])
        return made


def show(event: Event) -> None:
    sys.stderr.write(f"{event}\n")


if __name__ == "__main__":
    loop.Accelerator = OnCPU  # type: ignore[misc]
    recipe = load_recipe(sys.argv[1], sys.argv[3:])
    loop.train(replace(recipe, output=sys.argv[2]), on_event=show)
