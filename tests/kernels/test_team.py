"""Kernels in the threads of torch's own operators."""

from __future__ import annotations

import threading

import pytest
import torch

from jrt_kernels.jit.team import team

ours = team()
needs_team = pytest.mark.skipif(ours is None, reason="torch was built without GNU's OpenMP")


@needs_team
def test_every_part_runs_once_and_at_the_same_time() -> None:
    assert ours is not None
    for threads in (2, 3, 2):
        meeting, seen = threading.Barrier(threads), []

        def work(number: int, count: int, meeting=meeting, seen=seen) -> None:  # type: ignore[no-untyped-def]
            meeting.wait(timeout=30)
            seen.append((number, count))

        ours.run(threads, work)
        assert sorted(seen) == [(number, threads) for number in range(threads)]


@needs_team
def test_an_error_in_any_thread_is_raised_here() -> None:
    assert ours is not None

    def work(number: int, count: int) -> None:
        if number == count - 1:
            raise ValueError(f"part {number}")

    with pytest.raises(ValueError, match="part 1"):
        ours.run(2, work)


@needs_team
def test_torch_works_on_beside_it() -> None:
    assert ours is not None
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        x = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
        want = (x.double() @ x.double()).float()
        for _ in range(20):
            ours.run(2, lambda number, count: None)
            assert torch.allclose(x @ x, want, atol=1e-2)
    finally:
        torch.set_num_threads(before)


@needs_team
def test_several_threads_each_have_a_team() -> None:
    assert ours is not None
    seen: list[int] = []

    def caller() -> None:
        for _ in range(10):
            ours.run(2, lambda number, count: seen.append(number))

    callers = [threading.Thread(target=caller) for _ in range(3)]
    for one in callers:
        one.start()
    for one in callers:
        one.join(timeout=60)
    assert sorted(seen) == [0] * 30 + [1] * 30
