"""The clock of a benchmark: what a call takes, again and again, and the memory it needs."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from jrtcli.freed_memory import give_back

LEAST_REPEATS = 3
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")

Call = Callable[[], object]


class Clock:
    """Times calls on one device: by the GPU's own events, or by what a CPU's process or its wall shows.

    One thread is timed by its CPU time, which other programs disturb least; several only by the wall.
    """

    def __init__(self, device: str, threads: int = 1) -> None:
        self.device, self.threads = device, threads
        self.gpu = device.startswith("cuda")

    @property
    def name(self) -> str:
        """What the times are."""
        if self.gpu:
            return "CUDA events"
        return "process CPU time" if self.threads == 1 else "wall time"

    def once(self, call: Call) -> float:
        """One call, in ms."""
        if self.gpu:
            return self._events([call])[0]
        now = time.process_time if self.threads == 1 else time.perf_counter
        start = now()
        call()
        return 1e3 * (now() - start)

    def both(self, call: Call) -> tuple[float, float]:
        """One call in ms of this clock, and of the wall until its result is there."""
        self.wait()
        start = time.perf_counter()
        ms = self.once(call)
        return ms, 1e3 * (time.perf_counter() - start)

    def repeated(self, calls: Sequence[Call], repeat: int, most_s: float) -> list[float]:
        """ms of each call: `repeat` times, the calls in turn; fewer, but three, past `most_s` seconds."""
        first = self.once(calls[0])  # not counted: caches are cold, memory is not yet there
        second = self.once(calls[1 % len(calls)])
        typical = min(first, second)
        count = min(repeat, max(LEAST_REPEATS, int(1e3 * most_s / max(typical, 1e-6))))
        turns = [calls[i % len(calls)] for i in range(count)]
        return self._events(turns) if self.gpu else [self.once(call) for call in turns]

    def wait(self) -> None:
        """Until the device has done what was asked of it."""
        if self.gpu:
            torch.cuda.synchronize(self.device)

    def peak(self, call: Call) -> int | None:
        """Bytes that a call takes above what is held before it; None where the system does not say."""
        if self.gpu:
            self.wait()
            before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            call()
            self.wait()
            return torch.cuda.max_memory_allocated(self.device) - before
        return resident_peak(call)

    def _events(self, calls: Sequence[Call]) -> list[float]:
        pairs = []
        with torch.cuda.device(self.device):
            self.wait()
            for call in calls:
                start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                call()
                stop.record()
                pairs.append((start, stop))
            self.wait()
        return [start.elapsed_time(stop) for start, stop in pairs]


def resident_peak(call: Call) -> int | None:
    """Bytes by which the resident memory of this process grows at most in a call (Linux; else None)."""
    gc.collect()
    give_back()  # what the allocator keeps of earlier calls would hide its growth
    try:
        _RESET.write_text("5")  # the peak counts from here (proc(5))
        before = _status("VmRSS")
    except OSError:
        call()
        return None
    call()
    after = _status("VmHWM")
    return max(0, after - before)


def _status(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"{_STATUS} has no {field}")


@contextmanager
def threads_of(count: int) -> Iterator[None]:
    """torch, and with it the kernels, on so many threads; as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the sorted values lie, between neighbours by their distance."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])
