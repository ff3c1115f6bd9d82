"""Passages: they cover the document, and the surest of them answers."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import jrtcli
from jrt_prompts import load_template
from jrtcli.passages import passages
from jrtcli.reader import Reader


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = _load("tiny_checkpoint")
DOCUMENT = "\n".join(f"Field {n}: value {n * n} of {n}" for n in range(120))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tiny.save(tmp_path_factory.mktemp("checkpoint") / "jrt", "jrt_rnn")
    return path


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Any:
    return jrtcli.load(folder)


def quiet(loaded: Any, **options: Any) -> Reader:
    """A reader whose template never stops, so that random models say something."""
    return Reader(loaded, template=replace(load_template("qcq"), stop=()), **options)


@pytest.mark.parametrize("window", [40, 100, 333])
def test_passages_cover_the_document(loaded: Any, window: int) -> None:
    parts = passages(DOCUMENT, loaded.tokenizer, window)
    sizes = [len(loaded.tokenizer.encode(part, first=True)) for part in parts]
    assert max(sizes) <= window + 40 and min(sizes) >= window - 40, "about as long as the window"
    at = 0
    for earlier, part in zip(["", *parts], parts, strict=False):
        start = DOCUMENT.index(part, at)
        end = DOCUMENT.index(earlier, at) + len(earlier) if earlier else 0
        assert start <= end, "no gap between passages"
        assert start == 0 or DOCUMENT[start - 1 : start + 1].split() != [DOCUMENT[start - 1 : start + 1]], (
            "a passage begins between words"
        )
        at = start
    assert DOCUMENT.endswith(parts[-1])


def test_a_short_document_is_one_passage(loaded: Any) -> None:
    tokens = len(loaded.tokenizer.encode(DOCUMENT, first=True))
    assert passages(DOCUMENT, loaded.tokenizer, tokens) == [DOCUMENT]
    assert len(passages(DOCUMENT, loaded.tokenizer, tokens - 1)) == 2
    with pytest.raises(ValueError, match="window"):
        passages(DOCUMENT, loaded.tokenizer, 0)


def test_the_surest_passage_answers(loaded: Any) -> None:
    parts = passages(DOCUMENT, loaded.tokenizer, 150)
    assert len(parts) > 3
    alone = []
    for part in parts:
        asking = quiet(loaded).ask(part, "Field 7", max_new_tokens=5)
        list(asking)
        alone.append(asking.answer)
    spoken = [answer for answer in alone if loaded.tokenizer.decode(answer.token_ids[:1]).strip()]
    best = max(spoken or alone, key=lambda answer: answer.probabilities[0])

    read: list[tuple[int, int]] = []
    asking = quiet(loaded, window=150).ask(
        DOCUMENT, "Field 7", max_new_tokens=5, on_progress=lambda done, total: read.append((done, total))
    )
    list(asking)
    answer = asking.answer
    assert answer.token_ids == best.token_ids
    assert answer.probabilities == pytest.approx(best.probabilities, rel=1e-4)
    assert answer.passages == len(parts)
    assert answer.read_tokens == sum(one.read_tokens for one in alone)
    assert answer.prompt_tokens == max(one.prompt_tokens for one in alone)
    assert read[-1] == (answer.read_tokens, answer.read_tokens) and len(read) == len(parts)
    assert answer.state_bytes == best.state_bytes
    assert answer.finish_reason == "length" and answer.prefill_s > 0


def test_a_passage_that_says_nothing_gives_way() -> None:
    from jrtcli.passages import Surest

    class Fake:
        prefill_seconds = 1.0
        prompt_tokens = 10
        state: Any = None
        finish_reason = None

        def __init__(self, token: int | None, probability: float) -> None:
            self.first = token, probability

        def begin(self) -> tuple[int | None, float]:
            return self.first

    offers = [Fake(None, 0.99), Fake(5, 0.9), Fake(7, 0.4), Fake(8, 0.6)]
    surest = Surest(offers, says=lambda token: token != 5)  # type: ignore[arg-type]
    surest._read()
    assert surest.chosen == 3
    assert surest.prefill_seconds == 4.0
    silent = Surest(offers[:1])  # type: ignore[arg-type]
    silent._read()
    assert silent.chosen == 0


def test_the_checkpoint_says_how_long_a_passage_is(folder: Path) -> None:
    (folder / "jrt.json").write_text(json.dumps({"template": "qcq", "window_tokens": 150}))
    try:
        loaded = jrtcli.load(folder)
        assert Reader(loaded).window == 150
        assert Reader(loaded, window=0).window == 0
        for window, count in ((None, None), (0, 1)):
            asking = quiet(loaded, window=window).ask(DOCUMENT, "Field 7", max_new_tokens=2)
            list(asking)
            assert asking.answer.passages == (count or len(passages(DOCUMENT, loaded.tokenizer, 150)))
    finally:
        (folder / "jrt.json").unlink()
