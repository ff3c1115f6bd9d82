"""The report of an answer: scores, evidence, confidence, what it took; and the same as a row for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jrtcli import __version__
from jrtcli.evidence import Grounding, grounding
from jrtcli.metrics import score

if TYPE_CHECKING:
    from jrtcli.answer import Answer
    from jrtcli.checkpoint import Loaded
    from jrtcli.source import Document

LOW_CONFIDENCE = 0.5
"""Below this mean token probability the model itself had something else in mind about as often. A checkpoint
whose answers were counted says its own in `low_confidence` of its jrt.json."""


@dataclass(frozen=True)
class Report:
    """An answer, judged. scores: None without gold answers. warnings: plain sentences for the user."""

    answer: Answer
    document: Document
    loaded: Loaded
    golds: tuple[str, ...]
    grounding: Grounding
    scores: dict[str, float] | None
    warnings: list[str] = field(default_factory=list)

    @property
    def low_confidence(self) -> bool:
        """Whether the model was unsure of what it said."""
        confidence = self.answer.confidence
        threshold = self.loaded.settings.get("low_confidence")
        if not isinstance(threshold, (int, float)):
            threshold = LOW_CONFIDENCE
        return confidence is not None and confidence < threshold


def judge(answer: Answer, document: Document, loaded: Loaded, golds: Sequence[str] = ()) -> Report:
    """Score an answer against the gold answers, if any, and look for it in its document."""
    found = grounding(answer.text, document.text)
    scores = score(answer.text, golds) if golds else None
    return Report(answer, document, loaded, tuple(golds), found, scores, _warnings(answer, loaded))


def _warnings(answer: Answer, loaded: Loaded) -> list[str]:
    said = []
    tokens = answer.prompt_tokens + answer.decode_steps
    trained = loaded.context_tokens
    if trained is not None and tokens > trained:
        said.append(
            f"prompt and answer have {tokens:,} tokens, the model was trained on {trained:,}:"
            " expect worse recall; give a shorter part of the document or fewer --reads"
        )
    if answer.finish_reason == "length":
        steps = answer.decode_steps + 1
        said.append(f"the answer was cut after {steps} token{'s' * (steps > 1)} (--max-new-tokens)")
    if not answer.text and answer.finish_reason != "interrupted":
        said.append("the model gave no answer")
    return said


def row(report: Report, *, id: str) -> dict[str, Any]:
    """Everything about one answer in plain values, exact: the fields of `jrt ask --json`.

    Times are seconds, sizes bytes; `spans` are characters of the document's text.
    """
    answer, loaded = report.answer, report.loaded
    return {
        "id": id,
        "question": answer.question,
        "answer": answer.text,
        "answers": list(report.golds) or None,
        "finish_reason": answer.finish_reason,
        "scores": report.scores,
        "evidence": _evidence(report),
        "confidence": answer.confidence,
        "tokens": {
            "prompt": answer.prompt_tokens,
            "context": answer.context_tokens,
            "passages": answer.passages,
            "read": answer.read_tokens,
            "reused": answer.reused_tokens,
            "repeated": answer.repeated_tokens,
            "padding": answer.padding_tokens,
            "answer": len(answer.token_ids),
            "ids": list(answer.token_ids),
            "probabilities": list(answer.probabilities),
        },
        "timings": {
            "first_token_s": answer.first_token_s,
            "prefill_s": answer.prefill_s,
            "decode_s": answer.decode_s,
            "prefill_tokens_per_s": answer.prefill_tokens_per_s,
            "decode_tokens_per_s": answer.decode_tokens_per_s,
        },
        "memory": {"state_bytes": answer.state_bytes, "kv_cache_bytes": answer.kv_cache_bytes},
        "prompt": {"template": answer.template, "reads": answer.reads},
        "document": {"name": report.document.name, "characters": len(report.document.text)},
        "model": {
            "name": loaded.identity.name,
            "source": loaded.identity.source,
            "revision": loaded.identity.revision,
            "architecture": loaded.identity.architecture,
            "parameters": loaded.identity.parameters,
            "weights_sha256": loaded.identity.weights_sha256,
            "tokenizer_sha256": loaded.tokenizer.hash,
            "context_tokens": loaded.context_tokens,
        },
        "machine": {
            "device": loaded.device,
            "dtype": loaded.dtype,
            "dtype_reason": loaded.dtype_reason,
            "weights": loaded.weights,
            "backend": loaded.backend,
        },
        "warnings": list(report.warnings),
        "jrt": __version__,
    }


def _evidence(report: Report) -> dict[str, Any]:
    found, document = report.grounding, report.document
    spans = []
    for start, end in found.spans:
        place = document.locate(start, end)
        spans.append(
            {
                "start": start,
                "end": end,
                "text": document.text[start:end],
                "file": place.name,
                "line": place.line,
                "column": place.column,
                "page": place.page,
            }
        )
    return {"kind": found.kind, "share": found.share, "count": found.count, "spans": spans}
