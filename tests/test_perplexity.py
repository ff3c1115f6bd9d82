"""Perplexity by slice: against a sum by hand, in pieces and side by side, for every architecture."""

from __future__ import annotations

import importlib.util
import math
import random
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from jrtcli.bigrams import BigramCounts, count, distances
from jrtcli.checkpoint import Loaded, load
from jrtcli.errors import UsageError
from jrtcli.models import ARCHITECTURES
from jrtcli.perplexity import Measured, Settings, decade, octave, perplexity
from jrtcli.perplexity_figure import svg
from jrtcli.scoring import log_probabilities

WORDS = ["lamp", "red", "tower", "oil", "boats", "rocks", "fog", "keeper", "dusk", "cloth"]


def _load(name: str) -> Any:
    path = Path(__file__).parent / f"{name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


save = _load("train/tiny_models").save
save_fixed = _load("tiny_checkpoint").save
every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


def _text(seed: int, words: int) -> str:
    draw = random.Random(seed)
    return " ".join(
        draw.choice(["lamp", "red", "tower", "oil", "boats", "rocks", "fog", "keeper", "dusk", "cloth"])
        for _ in range(words)
    )


def _by_hand(loaded: Loaded, ids: list[int], start: int) -> list[float]:
    """The loss of each token from `start` on, of one forward pass over the whole sequence."""
    options = {"encoder_length": start} if loaded.model.has_encoder else {}
    logits = loaded.model(torch.tensor([ids]), **options)[0].double()
    return [-float(torch.log_softmax(logits[i - 1], -1)[ids[i]]) for i in range(start, len(ids))]


def _row(found: Measured, name: str, low: int | None = None) -> dict[str, Any]:
    [row] = [row for row in found.rows if row["slice"] == name and row["low"] == low]
    return row


@every_architecture
def test_perplexity_is_the_sum_by_hand(name: str, tmp_path: Path) -> None:
    loaded = load(save(tmp_path / name, name))
    loaded.model.prefill_tokens = 7  # many pieces, none of a round length
    text, reference = _text(0, 60), _text(1, 40)
    ids = loaded.tokenizer.encode(text, first=True)
    reference_ids = loaded.tokenizer.encode(reference, first=True)
    counts = count([reference_ids])
    start = len(ids) // 2 if loaded.model.has_encoder else 1
    found = perplexity(loaded, [("a", text)], Settings(rare=3, far=20), counts=counts)

    losses = _by_hand(loaded, ids, start)
    hits: list[float] = []
    other: list[float] = []
    far: dict[tuple[int, int], list[float]] = {}
    for i, loss in enumerate(losses, start):
        pair = (ids[i - 1], ids[i])
        seen = [j for j in range(1, i) if (ids[j - 1], ids[j]) == pair]
        stands = sum(p == pair for p in pairwise(reference_ids))
        (hits if seen and stands < 3 else other).append(loss)
        if seen and i - seen[-1] >= 20:
            far.setdefault(decade(stands), []).append(loss)
    assert hits and other and far
    for row, values in (
        (_row(found, "all"), losses),
        (_row(found, "ar hits"), hits),
        (_row(found, "other"), other),
    ):
        assert row["tokens"] == len(values)
        assert row["nll"] == pytest.approx(sum(values) / len(values), rel=1e-4)
        assert row["perplexity"] == pytest.approx(math.exp(sum(values) / len(values)), rel=1e-3)
    for (low, _), values in far.items():
        row = _row(found, "frequency", low)
        assert (row["tokens"], row["nll"]) == (
            len(values),
            pytest.approx(sum(values) / len(values), rel=1e-4),
        )
    by_distance = [row for row in found.rows if row["slice"] == "distance"]
    assert sum(row["tokens"] for row in by_distance) == len(hits)
    assert sum(row["tokens"] * row["nll"] for row in by_distance) == pytest.approx(sum(hits), rel=1e-4)
    assert found.facts["scored_tokens"] == len(losses) and found.facts["tokens"] == len(ids)


@every_architecture
def test_sequences_side_by_side_are_as_one_by_one(name: str, tmp_path: Path) -> None:
    loaded = load(save(tmp_path / name, name))
    texts = [(str(i), _text(i, 40)) for i in range(3)]
    alone = perplexity(loaded, texts, Settings(length=48, skip=16))
    together = perplexity(loaded, texts, Settings(length=48, skip=16, rows=4))
    assert [(r["slice"], r["low"], r["tokens"]) for r in alone.rows] == [
        (r["slice"], r["low"], r["tokens"]) for r in together.rows
    ]
    for one, other in zip(alone.rows, together.rows, strict=True):
        assert one["nll"] == pytest.approx(other["nll"], rel=1e-4)
    every = [loaded.tokenizer.encode(text, first=True) for _, text in texts]
    expected = [
        loss
        for ids in every
        for at in range(0, len(ids), 48)
        if len(ids[at : at + 48]) > 16
        for loss in _by_hand(loaded, ids[at : at + 48], 16)
    ]
    row = _row(alone, "all")
    assert (row["tokens"], row["nll"]) == (
        len(expected),
        pytest.approx(sum(expected) / len(expected), rel=1e-4),
    )
    assert alone.facts["tokens"] + alone.facts["left_tokens"] == sum(map(len, every))


def test_a_text_is_scored_in_memory_that_does_not_grow(tmp_path: Path) -> None:
    loaded = load(save(tmp_path / "m", "mamba"))
    loaded.model.prefill_tokens = 16
    widths = []
    ahead = loaded.model.forward_from

    def watched(tokens: torch.Tensor, state: Any, **options: Any) -> Any:
        widths.append(tokens.numel())
        return ahead(tokens, state, **options)

    loaded.model.forward_from = watched  # type: ignore[method-assign]
    pieces = list(log_probabilities(loaded.model, torch.randint(0, 200, (1, 300))))
    assert max(widths) == 16
    assert [at for at, _ in pieces] == [1, *range(2, 300, 16)]
    assert sum(piece.shape[1] for _, piece in pieces) == 299


def test_a_trained_encoder_length_is_never_scored(tmp_path: Path) -> None:
    loaded = load(save_fixed(tmp_path / "j", "jrt_rnn", enc_length=32))
    ids = loaded.tokenizer.encode(_text(0, 40), first=True)
    found = perplexity(loaded, [("a", _text(0, 40))])
    assert _row(found, "all")["tokens"] == len(ids) - 32
    losses = _by_hand(loaded, ids, 32)
    assert _row(found, "all")["nll"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    with pytest.raises(UsageError, match="reads the first 32 tokens"):
        perplexity(loaded, [("a", "lamp")])


def test_distances_and_counts() -> None:
    assert distances([1, 2, 3, 1, 2, 1, 2]) == [0, 0, 0, 0, 3, 0, 2]
    assert distances([]) == []
    counts = count([[1, 2, 1, 2], [2, 1]])
    assert counts.of([1, 2, 1, 3]) == [0, 2, 2, 0]
    assert counts.tokens == 6 and counts.rare == 1
    many = BigramCounts()
    many.tokens = 10_000_000 * 2048
    assert many.rare == 1000
    many.tokens //= 10
    assert many.rare == 100


def test_ranges() -> None:
    assert [octave(d) for d in (1, 2, 3, 4, 1023, 1024)] == [
        (1, 1), (2, 3), (2, 3), (4, 7), (512, 1023), (1024, 2047),
    ]  # fmt: skip
    assert [decade(c) for c in (0, 1, 9, 10, 999)] == [(0, 0), (1, 9), (1, 9), (10, 99), (100, 999)]


def test_without_a_reference_every_repeat_is_a_hit(tmp_path: Path) -> None:
    loaded = load(save(tmp_path / "g", "gla"))
    text = _text(3, 50)
    ids = loaded.tokenizer.encode(text, first=True)
    found = perplexity(loaded, [("a", text)])
    assert _row(found, "ar hits")["tokens"] == sum(d > 0 for d in distances(ids))
    assert not [row for row in found.rows if row["slice"] == "frequency"]


def test_nothing_to_score_is_said(tmp_path: Path) -> None:
    loaded = load(save(tmp_path / "g", "gla"))
    with pytest.raises(UsageError, match="more than 50 tokens"):
        perplexity(loaded, [("a", "lamp")], Settings(skip=50))
    with pytest.raises(UsageError, match="nothing is left"):
        perplexity(loaded, [("a", "lamp")], Settings(length=8, skip=8))
    with pytest.raises(UsageError):
        perplexity(loaded, [("a", "")])


def test_the_figure_is_well_formed_and_names_the_models(tmp_path: Path) -> None:
    rows = [
        {
            "model": m,
            "slice": s,
            "low": low,
            "high": 2 * low,
            "tokens": 20,
            "nll": 2.0 + low / 10,
            "stderr": 0.1,
        }
        for m in ("one", "<two>")
        for s in ("distance", "frequency")
        for low in (1, 2, 4)
    ]
    root = ElementTree.fromstring(svg(rows, "note & all"))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "<two>" in texts and "note & all" in texts
    assert len(list(root.iter("{http://www.w3.org/2000/svg}polyline"))) == 4
    assert ElementTree.fromstring(svg([], "nothing")) is not None
