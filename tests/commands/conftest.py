"""What the tests of `jrt ask` share: a cache of its own, and a model that says what it is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Imported here, before `says` replaces what one takes from the other.
from jrtcli import batching, generate


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "jrt" / "states"


@pytest.fixture
def says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the model say these texts, one per question, with the confidence of 0.9 per token."""
    import jrtcli

    tokenizer = jrtcli.load(folder).tokenizer
    queue: list[str] = []
    plans: dict[int, list[int]] = {}
    rows: list[Any] = []  # kept, so that no two of them are one and the same

    def choose(logits: Any, randoms: Any, **_: Any) -> list[generate.Chosen]:
        chosen = []
        for random in randoms:
            if id(random) not in plans:
                rows.append(random)
                plans[id(random)] = tokenizer.encode(f" {queue.pop(0)}\n", first=False)
            chosen.append(generate.Chosen(plans[id(random)].pop(0), 0.9))
        return chosen

    monkeypatch.setattr(generate, "choose", choose)
    monkeypatch.setattr(batching, "choose", choose)
    return lambda *texts: queue.extend(texts)
