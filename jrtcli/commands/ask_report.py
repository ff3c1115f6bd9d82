"""What `jrt ask` shows of a report: labelled lines on stderr, and two answers side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jrtcli.clean import clean_line
from jrtcli.console import Console

if TYPE_CHECKING:
    from jrtcli.answer import Answer
    from jrtcli.reading import Reading
    from jrtcli.report import Report

Spans = list[tuple[str, str]]
AROUND_CHARACTERS = 40
"""Of a line of evidence, shown on either side of the match."""


def report_rows(report: Report, reading: Reading) -> list[tuple[str, str | Spans]]:
    """Label and value of each line of the report."""
    answer = report.answer
    rows = short_rows(report)
    rows.append(("read", _read(report)))
    rows += _readings(reading)
    state = _state(reading, answer)
    if state:
        rows.append(("state", state))
    speeds = [f"first token {answer.first_token_s:.2f} s"]
    if answer.prefill_tokens_per_s:
        speeds.append(f"prefill {answer.prefill_tokens_per_s:,.0f} tokens/s")
    if answer.decode_tokens_per_s:
        speeds.append(f"decode {answer.decode_tokens_per_s:,.0f} tokens/s")
    rows.append(("speed", " · ".join(speeds)))
    return [*rows, ("memory", _memory(report)), ("model", _model(report))]


def _readings(reading: Reading) -> list[tuple[str, str | Spans]]:
    """What came of each reading of --reads auto, and why the document was read again or not."""
    again, rereading = reading.again, reading.rereading
    if again is None or rereading is None:
        return []
    rows: list[tuple[str, str | Spans]] = []
    for one in rereading.passes:
        why = one.unsure(again.threshold)
        said = clean_line(one.answer.text) or "(nothing)"
        verdict = f"unsure: {', '.join(why)}" if why else f"sure: margin {one.margin:.2f}"
        rows.append(("" if rows else "readings", f"{one.reads}: {said} · {verdict} · {one.tokens:,} tokens"))
    known = "calibrated" if again.calibrated else "not calibrated for this model: `jrt eval --calibrate`"
    rows.append(("", f"at most {again.most}; unsure below a margin of {again.threshold:.2f}, {known}"))
    return rows


def short_rows(report: Report) -> list[tuple[str, str | Spans]]:
    """Those lines of the report that are about one of many answers."""
    answer = report.answer
    rows: list[tuple[str, str | Spans]] = []
    if report.scores is not None:
        rows.append(("recall", _scores(report.scores)))
    rows.append(("" if report.scores else "recall", _grounding(report)))
    rows += [("evidence" if i == 0 else "", line) for i, line in enumerate(_evidence(report))]
    if answer.confidence is not None:
        low = report.low_confidence
        value = f"{answer.confidence:.2f}{', low: the model was not sure' if low else ''}"
        rows.append(("confidence", [(value, "yellow" if low else ""), (" (mean token probability)", "dim")]))
    return rows


def summary_rows(
    reports: Sequence[Report], reading: Reading, seconds: float
) -> list[tuple[str, str | Spans]]:
    """What many answers have in common, and their mean scores. seconds: of answering them all."""
    last = reports[-1]
    rows: list[tuple[str, str | Spans]] = []
    scored = [report.scores for report in reports if report.scores is not None]
    if scored:
        means = [
            f"{_METRIC_NAMES.get(name, name)} {sum(s[name] for s in scored) / len(scored):.2f}"
            for name in scored[0]
        ]
        rows.append(("mean recall", f"{' · '.join(means)} ({len(scored)} scored)"))
    read = sum(report.answer.read_tokens for report in reports)
    answered = sum(len(report.answer.token_ids) for report in reports)
    rows.append(
        (
            "read",
            f"{times(last.answer.reads)} (template {last.answer.template}):"
            f" {read:,} tokens for {len(reports)} questions; answers {answered:,}",
        )
    )
    state = _state(reading, last.answer, many=True)
    if state:
        rows.append(("state", state))
    rows.append(("speed", f"{len(reports)} questions in {seconds:.2f} s"))
    return [*rows, ("memory", _memory(last)), ("model", _model(last))]


def _state(reading: Reading, answer: Answer, *, many: bool = False) -> str:
    """What was reused of an earlier reading and from where, or what was kept for later questions."""
    reused = reading.reuse(answer)
    kept = f"kept in the cache for further questions ({bytes_size(reading.kept_bytes)})"
    if reused is None:
        return kept if reading.kept_bytes else ""
    place = reused["file"]
    if place is None:
        said = f"{reused['reused_tokens']:,} tokens read once for all questions"
        return f"{said}, {kept}" if reading.kept_bytes else said
    name = f"cache, {Path(place).name[:8]}" if reading.cached else place
    if many:
        return f"{reused['reused_tokens']:,} tokens reused for each question ({name})"
    return f"{reused['reused_tokens']:,} of {reused['tokens']:,} tokens reused ({name})"


def _model(report: Report) -> str:
    loaded = report.loaded
    about = f"{loaded.identity.architecture}, {size(loaded.identity.parameters)} parameters"
    return f"{loaded.identity.name} ({about}) · {loaded.device} · {loaded.numbers} · {loaded.backend}"


def comparison(console: Console, reports: Sequence[Report]) -> None:
    """The answers of several readings and what came of each, side by side on stderr."""

    def column(report: Report) -> list[str]:
        answer = report.answer
        values = [clean_line(answer.text) or "(nothing)"]
        if report.scores is not None:
            values += [f"{value:.2f}" for value in report.scores.values()]
        values += [
            _found(report),
            "" if answer.confidence is None else f"{answer.confidence:.2f}",
            f"{answer.read_tokens:,}",
            f"{answer.first_token_s:.2f} s",
        ]
        return values

    names = ["answer", *(_METRIC_NAMES.get(name, name) for name in reports[0].scores or {})]
    names += ["evidence", "confidence", "tokens read", "first token"]
    rows = list(zip(names, *(column(report) for report in reports), strict=True))
    heads = [f"read {times(report.answer.reads)}" for report in reports]
    if len({report.answer.template for report in reports}) > 1:
        heads = [f"{head} ({report.answer.template})" for head, report in zip(heads, reports, strict=True)]
    console.table(["", *heads], rows, error=True)
    console.note()


_METRIC_NAMES = {"exact_match": "exact match", "f1": "F1"}


def _scores(scores: dict[str, float]) -> Spans:
    spans: Spans = []
    for name, value in scores.items():
        if spans:
            spans.append((" · ", ""))
        shown = f"{value:.2f}" if name == "f1" else ("yes" if value else "no")
        style = "green" if value == 1.0 else "yellow" if value else "red"
        spans += [(f"{_METRIC_NAMES.get(name, name)} ", ""), (shown, style)]
    return spans


def _found(report: Report) -> str:
    found = report.grounding
    if not found.spans:
        return "not in the document"
    place = report.document.locate(*found.spans[0])
    return str(place) if found.found else f"{_part(found.share)} at {place}"


def _grounding(report: Report) -> Spans:
    """How much of the answer stands in the document, said plainly."""
    found = report.grounding
    if not report.answer.text:
        return [("no answer, so nothing to look for", "yellow")]
    if found.found:
        # Not green where the model was not sure or is known to be wrong: a wrong answer can stand there too.
        doubt = report.low_confidence or (report.scores is not None and not any(report.scores.values()))
        said = [("the answer stands in the document", "" if doubt else "green")]
        return said if found.kind == "exact" else [*said, (" but for case, space or punctuation", "")]
    if found.kind == "partial" and found.share == 1.0:
        return [("the words of the answer stand in the document, but not as the answer has them", "yellow")]
    if found.kind == "partial":
        return [(f"only {_part(found.share)} of the answer stands in the document", "yellow")]
    return [("the answer is not in the document: it may be invented", "yellow")]


def _part(share: float) -> str:
    """A share of an answer in percent, never rounded to all of it."""
    return f"{min(share, 0.99) if share < 1.0 else 1.0:.0%}"


def _evidence(report: Report) -> list[Spans]:
    found = report.grounding
    lines = [_excerpt(report, start, end) for start, end in list(dict.fromkeys(found.spans))[:3]]
    if found.found and found.count > 1:
        lines[-1].append((f" (and {found.count - 1} more)", "dim"))
    return lines or [[("none", "yellow")]]


def _excerpt(report: Report, start: int, end: int) -> Spans:
    """`file:line  the text before [the match] the text after`, from the lines that the match stands in."""
    text = report.document.text
    first = max(text.rfind("\n", 0, start) + 1, start - AROUND_CHARACTERS)
    last = text.find("\n", end)
    last = min(len(text) if last < 0 else last, end + AROUND_CHARACTERS)
    before, match, after = text[first:start], text[start:end], text[end:last]
    cut_before = "…" if first > 0 and text[first - 1] != "\n" else ""
    cut_after = "…" if last < len(text) and text[last] != "\n" else ""
    return [
        (f"{report.document.locate(start, end)}  ", "cyan"),
        (f"{cut_before}{_flat(before.lstrip())}", "dim"),
        (f"[{_flat(match)}]", "bold green"),
        (f"{_flat(after.rstrip())}{cut_after}", "dim"),
    ]


def _flat(text: str) -> str:
    return " ".join(text.split("\n")).replace("\t", " ")


def _read(report: Report) -> str:
    answer = report.answer
    extra = f"{answer.context_tokens:,} per reading"
    if answer.passages > 1:
        extra += f", in {answer.passages} passages, of which the surest answered"
    if answer.repeated_tokens or answer.padding_tokens:
        extra += f", in front {answer.repeated_tokens:,} of the document again"
        extra += f" and {answer.padding_tokens:,} of padding"
    return (
        f"{times(answer.reads)} (template {answer.template}): {answer.read_tokens:,} tokens, {extra};"
        f" answer {len(answer.token_ids):,}"
    )


def _memory(report: Report) -> str:
    answer = report.answer
    if report.loaded.identity.architecture == "transformer":
        return f"KV cache {bytes_size(answer.state_bytes)}, growing with every token"
    return (
        f"state {bytes_size(answer.state_bytes)}; the KV cache of an attention model of this shape:"
        f" {bytes_size(answer.kv_cache_bytes)}"
    )


def times(count: int) -> str:
    """once, twice, 3 times."""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def size(count: int) -> str:
    """A number of parameters: 980k, 2.1M, 1.37B."""
    for unit, step in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= step:
            return f"{count / step:.3g}{unit}"
    return str(count)


def bytes_size(count: int) -> str:
    """A number of bytes: 512 B, 42.5 kB, 18.7 MB (powers of 1000)."""
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= step:
            return f"{count / step:.3g} {unit}"
    return f"{count} B"
