"""Where and how a benchmark ran: what its table's header says, and the machine's fields of each record."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata

from jrtcli import __version__
from jrtcli.bench.ceilings import Ceilings, measure
from jrtcli.bench.clock import Clock, threads_of
from jrtcli.machine import processor
from jrtcli.placement import resolve_dtype

_DISTRIBUTIONS = (
    "numba",
    "triton",
    "flash-linear-attention",
    "mamba-ssm",
    "transformers",
    "llama-cpp-python",
)


@dataclass(frozen=True)
class Setting:
    """device: its name; driver: of a GPU; versions: of what computes; clock: what the times are."""

    command: str
    date: str
    device: str
    driver: str | None
    processor: str
    platform: str
    versions: dict[str, str]
    clock: str
    ceilings: tuple[tuple[int, Ceilings], ...]
    """(threads, what the device did with them)."""

    @property
    def machine(self) -> dict[str, str | None]:
        """The fields that every record carries."""
        shown = " ".join(f"{name}={version}" for name, version in self.versions.items())
        return {
            "build": f"jrt {__version__}",
            "date": self.date,
            "command": self.command,
            "cpu_info": self.processor,
            "gpu_info": None if self.driver is None else self.device,
            "driver": self.driver,
            "platform": self.platform,
            "versions": shown,
            "clock": self.clock,
        }

    def lines(self) -> list[str]:
        """The header, one fact a line."""
        driver = f", driver {self.driver}" if self.driver else ""
        said = [f"jrt {__version__} bench, {self.date}", f"command   {self.command}"]
        said.append(f"device    {self.device}{driver} ({self.platform})")
        said.append(f"versions  {', '.join(f'{name} {version}' for name, version in self.versions.items())}")
        said.append(f"clock     {self.clock}: median of the repetitions, p20 and p80 in brackets")
        for threads, c in self.ceilings:
            rate = c.flops_per_s
            shown = f"{rate / 1e12:.1f} TFLOP/s" if rate >= 1e12 else f"{rate / 1e9:.0f} GFLOP/s"
            on = "" if self.driver else f", {threads} thread{'s' * (threads > 1)}"
            copied = f"{c.bytes_per_s / 1e9:,.1f} GB/s copied"
            said.append(f"ceilings  {copied}, {shown} in {c.dtype}{on}, measured in this run")
        return list(dict.fromkeys(said))


def ceilings_of(
    device: str, dtypes: Sequence[str], threads: Sequence[int]
) -> dict[tuple[str, int], Ceilings]:
    """(dtype, threads) -> what the device did just now; some seconds for each."""
    found = {}
    for count in threads:
        with threads_of(count):
            for dtype in dtypes:
                # Weights in int8 are multiplied with what the device computes in otherwise.
                kind = resolve_dtype("auto", device) if dtype == "int8" else dtype
                found[dtype, count] = measure(Clock(device, count), kind)
    return found


def describe(command: str, device: str, ceilings: Mapping[tuple[str, int], Ceilings], clock: str) -> Setting:
    """The setting of a run on `device`. Imports no optional package."""
    import torch

    name, driver = processor()[0], None
    versions = {"Python": platform.python_version(), "torch": torch.__version__}
    if device.startswith("cuda"):
        name, driver = torch.cuda.get_device_name(device), _driver()
        versions["CUDA"] = str(torch.version.cuda)
        cudnn = torch.backends.cudnn.version()
        if cudnn is not None:
            versions["cuDNN"] = str(cudnn)
    for distribution in _DISTRIBUTIONS:
        try:
            versions[distribution] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return Setting(
        command=command,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        device=name,
        driver=driver,
        processor=processor()[0],
        platform=f"{sys.platform} {platform.machine()}",
        versions=versions,
        clock=clock,
        ceilings=tuple((threads, c) for (_, threads), c in ceilings.items()),
    )


def _driver() -> str:
    """The version of NVIDIA's driver where Linux shows it."""
    from pathlib import Path

    for path, word in ((Path("/sys/module/nvidia/version"), 0), (Path("/proc/driver/nvidia/version"), 7)):
        try:
            return path.read_text().split()[word]
        except (OSError, IndexError):
            continue
    return "unknown"
