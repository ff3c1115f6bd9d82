"""The summary of a batch: how many rows, how well, how fast, and what went wrong."""

from __future__ import annotations

from collections.abc import Iterator

from jrtcli.tally import Tally

_NAMES = {"contains": "contains", "exact_match": "exact match", "f1": "F1"}


def summary_rows(tally: Tally, done: int, tokens: int, seconds: float) -> list[tuple[str, str]]:
    """Label and value. done: rows of this run; tokens: read and generated for them."""
    before = f", {tally.rows - done:,} of them before" * (tally.rows > done)
    shown = [("rows", f"{tally.rows:,}{before}: {tally.answered:,} answered, {tally.errors:,} failed")]
    if scores := tally.scores:
        said = []
        for score in scores:
            error = "" if score.stderr is None else f" ± {score.stderr:.1%}"
            said.append(f"{_NAMES.get(score.metric, score.metric)} {score.value:.1%}{error}")
        shown.append(("recall", f"{' · '.join(said)} (mean ± standard error of {scores[0].count:,} rows)"))
    if done and seconds > 0:
        shown.append(
            (
                "speed",
                f"{done / seconds:,.3g} rows/s · {tokens / seconds:,.0f} tokens/s"
                f" ({done:,} rows, {tokens:,} tokens, {seconds:,.1f} s)",
            )
        )
    return shown


def errors_report(tally: Tally) -> Iterator[str]:
    """A line for each kind of error, with the first place it was at."""
    for kind, count in tally.kinds.most_common():
        error = tally.first[kind]
        said = f"{error['file']}:{error['line']}: {error['message']}"
        yield f"{count:,} row{'s' * (count != 1)} failed ({kind}), {'the first at ' * (count > 1)}{said}"
