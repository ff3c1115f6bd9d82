"""The tasks: what is asked has one answer, and the sequence is laid out as it says."""

from __future__ import annotations

import pytest
import torch

from jrtcli.errors import UsageError
from jrtcli.probe.sequences import ANSWER, BEGIN, MARKS, THEN, disjointness, recall


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("first", "second"), [(1, 8), (8, 1), (4, 16), (16, 4), (5, 5), (1, 1)])
def test_exactly_one_token_is_in_both_sets(first: int, second: int) -> None:
    batch = disjointness(generator(), 200, first, second, vocabulary=32)
    assert batch.tokens.shape == (200, first + second + 3)
    for row, target in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        assert row[0] == BEGIN and row[first + 1] == THEN and row[-1] == ANSWER
        one, other = row[1 : first + 1], row[first + 2 : -1]
        assert len(set(one)) == first and len(set(other)) == second
        assert set(one) & set(other) == set(target) and min(one + other) >= MARKS


def test_the_shared_token_stands_anywhere_and_is_any_token() -> None:
    batch = disjointness(generator(), 4000, 3, 4, vocabulary=MARKS + 10)
    places = {(row[1:4].index(t), row[5:9].index(t)) for row, (t,) in
              zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True)}  # fmt: skip
    assert places == {(i, j) for i in range(3) for j in range(4)}
    assert set(batch.targets.flatten().tolist()) == set(range(MARKS, MARKS + 10))


def test_no_token_tells_by_itself_which_set_it_is_from() -> None:
    batch = disjointness(generator(), 4000, 5, 5, vocabulary=MARKS + 20)
    first = torch.bincount(batch.tokens[:, 1:6].flatten(), minlength=23)[MARKS:]
    assert first.min() > 0.8 * first.max()


def test_read_twice_holds_the_same_two_times() -> None:
    once = disjointness(generator(7), 20, 4, 9, vocabulary=64)
    twice = disjointness(generator(7), 20, 4, 9, vocabulary=64, reads=2)
    reading = once.tokens[:, :-1]
    assert torch.equal(twice.tokens, torch.cat([reading, reading, once.tokens[:, -1:]], dim=1))
    assert torch.equal(twice.targets, once.targets)


@pytest.mark.parametrize("reads", [1, 2])
def test_the_value_of_each_queried_key_is_the_answer(reads: int) -> None:
    batch = recall(generator(), 200, 6, 3, vocabulary=40, reads=reads)
    assert batch.tokens.shape == (200, reads * (2 * 6 + 3 + 2)) and batch.targets.shape == (200, 3)
    for row, values in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        size = len(row) // reads
        assert all(row[i * size : (i + 1) * size] == row[:size] for i in range(reads))
        assert row[0] == BEGIN and row[13] == THEN
        pairs = dict(zip(row[1:13:2], row[2:13:2], strict=True))
        asked = row[-3:]
        assert len(pairs) == 6 and len(set(asked)) == 3
        assert [pairs[key] for key in asked] == values
        assert max(pairs) < min(pairs.values())  # keys and values share no token


def test_sizes_that_do_not_fit_are_said() -> None:
    with pytest.raises(UsageError, match="vocabulary of 18 ids"):
        disjointness(generator(), 2, 8, 8, vocabulary=17)
    with pytest.raises(UsageError, match="asked at most once"):
        recall(generator(), 2, 3, 4, vocabulary=64)
    with pytest.raises(UsageError, match="vocabulary"):
        recall(generator(), 2, 33, 4, vocabulary=64)
