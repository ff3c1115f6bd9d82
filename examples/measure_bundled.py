"""Measures the bundled models as `jrt ask` runs them: one question per prompt, greedy, scored by `contains`.

    python examples/measure_bundled.py                                 # new documents of the generator
    python examples/measure_bundled.py --rows qa.jsonl.gz              # rows of your own beside them
    python examples/measure_bundled.py --model tiny --templates cq,qcq,cqcq    # orders of reading, paired

Every context is read whole (`--window 1280`: in passages, as `jrt ask` reads long documents). A causal model
is asked in the orders cq, qcq and cqcq, paired, a JRT-RNN in its own.

Documents of the generator are new: their seeds are not those of training. Prints a Markdown table; with -o
also one JSON line per question.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import torch

import jrtcli
from jrtcli.checkpoint import Loaded
from jrtcli.metrics import Score, aggregate, paired_difference, score
from jrtcli.reader import Reader
from jrtcli.train.data import DataConfig, Example, examples

SEED = 20_261_120
MAX_NEW_TOKENS = 48
MODELS = ("tiny", "tiny-causal")
ORDERS = ("cq", "qcq", "cqcq")
GENERATED = [("train", 256), ("train", 512), ("train", 1024), ("heldout", 256)]
NAMES = {"train": "generator, new documents", "heldout": "generator, held-out kinds, fields and wordings"}


@dataclass(frozen=True)
class Slice:
    """Questions that are reported together."""

    name: str
    rows: Sequence[Example]


def slices(questions: int, files: Sequence[Path]) -> Iterator[Slice]:
    """The generator's slices, then one for each file of QA rows."""
    for split, length in GENERATED:
        yield Slice(f"{NAMES[split]}, {length} tokens", examples_of(split, questions, length))
    for path in files:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        yield Slice(
            path.name, [Example(str(r["id"]), r["context"], r["question"], tuple(r["answers"])) for r in rows]
        )


def examples_of(split: str, questions: int, length: int) -> list[Example]:
    """Questions on new documents of the generator, one for each document."""
    return list(examples(DataConfig(seed=SEED), split, questions, length))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", action="append", default=[], help="a name or folder; both bundled ones")
    parser.add_argument("--questions", type=int, default=500, help="per slice of the generator")
    parser.add_argument(
        "--rows", type=Path, action="append", default=[], help="a QA jsonl file, gzip or plain"
    )
    parser.add_argument("--templates", default="", help="comma-separated, compared with the first")
    parser.add_argument("--window", type=int, default=0, help="tokens of a passage; 0 reads whole")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="every answer as a JSON line")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    out = options.output.open("w", encoding="utf-8") if options.output else None
    for name in options.model or MODELS:
        loaded = jrtcli.load(name)
        asked = [t for t in options.templates.split(",") if t]
        templates = asked or ([loaded.template] if loaded.model.has_encoder else list(ORDERS))
        print(f"model {loaded.identity.name}, {loaded.identity.parameters:,} parameters; greedy\n")
        print("| questions | template | n | mean tokens | contains (95 %) | exact | F1 | tokens/s |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        for part in slices(options.questions, options.rows):
            measure(loaded, part, templates, options.window, out)
        print(flush=True)
    if out:
        out.close()
    return 0


def measure(loaded: Loaded, part: Slice, templates: Sequence[str], window: int, out: TextIO | None) -> None:
    """Ask a slice in each order; print a line for each, and their paired differences from the first."""
    contained: dict[str, list[float]] = {}
    for template in templates:
        reader = Reader(loaded, template=template, window=window)
        scores: dict[str, list[float]] = {"contains": [], "exact_match": [], "f1": []}
        read, began = 0, time.perf_counter()
        for row in part.rows:
            asking = reader.ask(row.context, row.question, max_new_tokens=MAX_NEW_TOKENS)
            for _ in asking:
                pass
            answer = asking.answer
            read += answer.read_tokens
            values = score(answer.text, row.answers)
            for name, kept in scores.items():
                kept.append(values[name])
            if out:
                line = {"model": loaded.identity.name, "slice": part.name, "template": template, "id": row.id}
                line |= {"question": row.question, "answer": answer.text, "gold": row.answers}
                line |= {"confidence": answer.confidence, **values}
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
        seconds = time.perf_counter() - began
        shares = {name: aggregate(name, kept) for name, kept in scores.items()}
        contained[template] = scores["contains"]
        print(
            f"| {part.name} | {template} | {len(part.rows)} | {read / len(part.rows):,.0f} "
            f"| {interval(shares['contains'])} | {shares['exact_match'].value:.1%} "
            f"| {shares['f1'].value:.1%} | {read / seconds:,.0f} |",
            flush=True,
        )
    for template in templates[1:]:
        d = paired_difference(contained[templates[0]], contained[template])
        print(
            f"| {part.name} | {template} - {templates[0]} | {len(part.rows)} | | {d.value:+.1%} "
            f"({d.low:+.1%} to {d.high:+.1%}) | {d.better} better | {d.worse} worse | |",
            flush=True,
        )


def interval(share: Score) -> str:
    """A share and its 95 % interval."""
    return f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"


if __name__ == "__main__":
    sys.exit(main())
