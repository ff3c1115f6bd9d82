"""JRT-RNN against the causal model, and once against twice, at matched training.

    python examples/matched.py --output runs/matched

For every seed the recipe is run twice from the same weights, on the same batches, with the same number of
tokens and steps: as a causal model (Based) and as JRT-RNN, whose encoder projections begin as copies of the
causal ones. Then both answer the same questions about documents that no run has seen, in three orders of
reading. Prints Markdown: accuracies by seed, and differences paired over questions (each question's share of
right answers over the seeds), with 95 % bootstrap intervals. Run it again to go on after a stop.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jrtcli
from jrtcli.metrics import paired_difference, score
from jrtcli.reader import Reader
from jrtcli.train.config import load_recipe
from jrtcli.train.data import DataConfig, Example, examples
from jrtcli.train.loop import train

MODELS = {"causal": "based", "JRT-RNN": "jrt_rnn"}
ORDERS = ("cq", "qcq", "cqcq")
QUESTION_SEED = 20_261_121
MAX_NEW_TOKENS = 40

Hits = dict[tuple[str, str], list[list[float]]]
"""(model, order) -> for every seed, 1.0 or 0.0 for every question."""


def answers(folder: Path, order: str, rows: Sequence[Example]) -> list[float]:
    """Whether each greedy answer contains its value."""
    reader = Reader(jrtcli.load(folder), template=order, window=0)
    hits = []
    for row in rows:
        asking = reader.ask(row.context, row.question, max_new_tokens=MAX_NEW_TOKENS)
        for _ in asking:
            pass
        hits.append(score(asking.answer.text, row.answers)["contains"])
    return hits


def mean(hits: Sequence[Sequence[float]]) -> list[float]:
    """Each question's share of right answers over the seeds."""
    return [sum(column) / len(column) for column in zip(*hits, strict=True)]


def difference(name: str, first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> None:
    """Print second minus first, paired."""
    d = paired_difference(mean(first), mean(second))
    print(f"| {name} | {d.value:+.1%} | {d.low:+.1%} to {d.high:+.1%} | {d.better} | {d.worse} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--recipe", type=Path, default=Path(__file__).with_name("matched.toml"))
    parser.add_argument("--output", type=Path, default=Path("runs/matched"))
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=256, help="of a document that is asked about")
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    options = parser.parse_args()
    seeds = options.seeds.split(",")
    rows = examples(DataConfig(seed=QUESTION_SEED), "train", options.questions, options.tokens)
    hits: Hits = {}
    for seed in seeds:
        for name, architecture in MODELS.items():
            changes = [*options.changes, f"seed={seed}", f"model.architecture={architecture}"]
            recipe = load_recipe(options.recipe, changes)
            result = train(replace(recipe, output=str(options.output / f"{architecture}-{seed}")))
            print(f"{name}, seed {seed}: {result.tokens:,} tokens", file=sys.stderr, flush=True)
            for order in ORDERS:
                hits.setdefault((name, order), []).append(answers(result.best, order, rows))
    print(f"{len(rows)} questions, documents of {options.tokens} tokens, seeds {options.seeds}\n")
    print("| model | order | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean |")
    print("|---|---|" + "---|" * (len(seeds) + 1))
    for (name, order), found in hits.items():
        shares = [sum(one) / len(one) for one in found]
        cells = " | ".join(f"{share:.1%}" for share in shares)
        print(f"| {name} | {order} | {cells} | {sum(shares) / len(shares):.1%} |")
    print("\n| difference | points | 95 % | better | worse |\n|---|---|---|---|---|")
    for order in ORDERS:
        difference(f"JRT-RNN - causal, {order}", hits["causal", order], hits["JRT-RNN", order])
    for name in MODELS:
        for order in ORDERS[1:]:
            difference(f"{name}: {order} - cq", hits[name, "cq"], hits[name, order])
    return 0


if __name__ == "__main__":
    sys.exit(main())
