"""Output rows of a batch: what an input row carries, and its answer or its error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jrtcli.records import BadRow, Record
from jrtcli.report import judge

if TYPE_CHECKING:
    from jrtcli.answer import Answer
    from jrtcli.checkpoint import Loaded
    from jrtcli.source import Document

OWN = frozenset(
    (
        "answer",
        "continuation",
        "scores",
        "confidence",
        "finish_reason",
        "evidence",
        "tokens",
        "timings",
        "state_bytes",
        "passages",
        "readings",
    )
    + ("warnings", "error", "jrt", "input")
)
"""Fields that an output row adds. What an input row has under these names is found in `input`."""


def answer_row(
    record: Record, answer: Answer, document: Document, loaded: Loaded, *, run: str
) -> dict[str, Any]:
    """The row of an answer. run: hash of the configuration (jrtcli.manifest.run_hash).

    `spans` of the evidence are characters of the document's text, times are seconds; `page` and `line` only
    where the document is a file.
    """
    report = judge(answer, document, loaded, record.answers)
    row = _carried(record)
    row["answer"] = answer.text
    if record.prompt is not None:
        row["continuation"] = answer.continuation
    if report.scores is not None:
        row["scores"] = report.scores
    row["confidence"] = answer.confidence
    row["finish_reason"] = answer.finish_reason
    found = report.grounding
    spans = [_span(document, start, end, file=record.doc is not None) for start, end in found.spans]
    row["evidence"] = {"kind": found.kind, "share": found.share, "count": found.count, "spans": spans}
    row["tokens"] = {
        "prompt": answer.prompt_tokens,
        "context": answer.context_tokens,
        "read": answer.read_tokens,
        "reused": answer.reused_tokens,
        "answer": len(answer.token_ids),
    }
    row["timings"] = {
        "first_token_s": round(answer.first_token_s, 6),
        "prefill_s": round(answer.prefill_s, 6),
        "decode_s": round(answer.decode_s, 6),
    }
    row["state_bytes"] = answer.state_bytes
    if answer.passages > 1:
        row["passages"] = answer.passages
    if report.warnings:
        row["warnings"] = list(report.warnings)
    row["jrt"] = {"row": record.key, "run": run}
    return row


def failed_row(record: Record, kind: str, message: str, *, run: str) -> dict[str, Any]:
    """The row of a record that could not be answered."""
    error = {"kind": kind, "message": message, "file": record.file, "line": record.line}
    return _carried(record) | {"error": error, "jrt": {"row": record.key, "run": run}}


def bad_row(bad: BadRow, *, run: str) -> dict[str, Any]:
    """The row of a line that was none."""
    error = {"kind": bad.kind, "message": bad.message, "file": bad.file, "line": bad.line}
    return {"id": bad.id, "error": error, "jrt": {"row": bad.key, "run": run}}


def _carried(record: Record) -> dict[str, Any]:
    row: dict[str, Any] = {"id": record.id}
    row |= {name: value for name, value in record.carried.items() if name not in OWN}
    row["id"] = record.id
    if covered := {name: value for name, value in record.carried.items() if name in OWN}:
        row["input"] = covered
    return row


def _span(document: Document, start: int, end: int, *, file: bool) -> Mapping[str, Any]:
    span: dict[str, Any] = {"start": start, "end": end, "text": document.text[start:end]}
    if file:
        place = document.locate(start, end)
        span |= {"line": place.line} if place.page is None else {"page": place.page}
    return span
