"""Recall against tokens read: once, always again, and again only where the answer is unsure.

    python examples/reread_curve.py --model tiny-causal                      # new documents of the generator
    python examples/reread_curve.py --rows qa.jsonl.gz --limit 200 -o curve.json

The threshold is found on every second row and told for the other rows, which it has not seen. Recall is
`contains`; a difference comes with its 95 % interval, bootstrapped over questions.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import jrtcli
from jrtcli.calibration import calibrate, curve, point, samples_of
from jrtcli.metrics import paired_difference
from jrtcli.reader import Reader
from jrtcli.reread_curve import svg, thinned
from jrtcli.train.data import DataConfig, examples

SEED = 20_261_121

Row = tuple[str, str, Sequence[str]]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="tiny-causal")
    parser.add_argument("--template", default="cq", help="one that can be read on: cq, cqcq, qcq")
    parser.add_argument("--reads", type=int, default=2, help="at most so many readings")
    parser.add_argument("--rows", type=Path, help="a QA jsonl file, gzip or plain; else the generator")
    parser.add_argument("--length", type=int, default=512, help="tokens of the generator's documents")
    parser.add_argument("--limit", type=int, default=400, help="rows")
    parser.add_argument("-o", "--output", type=Path, help="the curve as JSON, and as SVG beside it")
    options = parser.parse_args()
    every = rows(options)
    reader = Reader(jrtcli.load(options.model), template=options.template, window=0)
    found, _ = calibrate(reader, every[::2], most=options.reads, on_row=told("calibrating", len(every[::2])))
    told_of = told("measuring", len(every[1::2]))
    held = samples_of(reader, every[1::2], most=options.reads, on_row=told_of)
    points = {
        "once": point(held, -1),
        f"always {options.reads} times": point(held, 1.01),
        "auto": point(held, found.threshold),
        "auto, threshold 0.5": point(held, 0.5),
    }
    print(
        f"{options.model}, {options.template}, {len(held)} held-out rows, threshold {found.threshold:.3f}\n"
    )
    print("| readings | recall | tokens per question | read again |\n|---|---|---|---|")
    for name, one in points.items():
        print(f"| {name} | {one.recall:.1%} | {one.tokens:,.0f} | {one.again:.0%} |")
    last = [one.recall[one.last(found.threshold)] for one in held]
    for name, other in (("once", 0), ("always again", -1)):
        gap = paired_difference([one.recall[other] for one in held], last)
        print(
            f"\nauto against {name}: {100 * gap.value:+.1f} points"
            f" ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
        )
    if options.output:
        made = {"calibration": asdict(found), "points": {k: asdict(p) for k, p in points.items()}}
        points_held = curve(held)
        made["curve"] = [asdict(p) for p in thinned(points_held, 40)]
        options.output.write_text(json.dumps(made, indent=1) + "\n")
        title = f"{options.model}, {options.template}: recall over tokens read, {len(held)} held-out rows"
        figure = svg(points_held, points["auto"], rows=len(held), reads=options.reads, title=title)
        options.output.with_suffix(".svg").write_text(figure)
    return 0


def rows(options: argparse.Namespace) -> list[Row]:
    """The rows that are measured: of a file, or new ones of the generator."""
    if options.rows is None:
        made = examples(DataConfig(seed=SEED), "train", options.limit, options.length)
        return [(row.context, row.question, row.answers) for row in made]
    opener = gzip.open if options.rows.suffix == ".gz" else open
    with opener(options.rows, "rt", encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    # Spread over the file: neighbours are about one document.
    found = found[:: max(1, len(found) // options.limit)][: options.limit]
    return [(row["context"], row["question"], row["answers"]) for row in found]


def told(what: str, of: int):  # type: ignore[no-untyped-def]
    """Says now and then how far it is."""
    return lambda done: print(f"{what} {done}/{of}", file=sys.stderr) if done % 50 == 0 else None


if __name__ == "__main__":
    sys.exit(main())
