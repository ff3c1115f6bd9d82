"""`jrt prompt`: the prompt that a document and a question become, its segments and its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jrt_prompts
from jrtcli.clean import clean_line
from jrtcli.commands import options
from jrtcli.console import Console
from jrtcli.errors import DocumentError, TemplateError, UsageError
from jrtcli.source import Document, join, read_document

if TYPE_CHECKING:
    from jrtcli.checkpoint import Located
    from jrtcli.tokens import PromptIds

EXCERPT_CHARACTERS = 32


def prompt(
    doc: options.Documents = None,
    question: options.Questions = None,
    template: options.Template = None,
    reads: options.Reads = None,
    model: options.Model = options.DEFAULT_MODEL,
    tokenizer: options.Tokenizer = None,
    revision: options.Revision = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Show the prompt that a document and a question become, without running the model.

    The prompt goes to stdout, its segments and token counts to stderr. No weights are read or downloaded.
    """
    if len(question or []) != 1:
        raise UsageError("jrt prompt shows one prompt: give one --question")
    try:
        # What is wrong with the request is said before the checkpoint is looked for.
        chosen = jrt_prompts.load_template(template) if template is not None else None
        document = _document(doc or [])

        # The tokenizer's library takes a moment to import.
        from jrtcli.checkpoint import locate
        from jrtcli.tokens import encode_prompt

        located = locate(model, revision=revision, tokenizer=tokenizer, weights=False)
        if chosen is None:
            chosen = jrt_prompts.load_template(located.template)
        rendered = chosen.render(document.text, (question or [""])[0], reads=reads)
    except jrt_prompts.TemplateError as error:
        raise TemplateError(str(error)) from None
    except jrt_prompts.PromptError as error:
        raise UsageError(str(error)) from None
    encoded = encode_prompt(rendered, located.tokenizer)
    console = Console(quiet=quiet)
    if json:
        console.json(_fields(chosen, rendered, encoded, located, document))
    else:
        shown = console.answer()
        shown.push(rendered.text)
        shown.end()
        _report(console, chosen, rendered, encoded, located)
    limit = located.context_tokens
    if limit is not None and len(encoded.ids) > limit:
        console.warn(
            f"{len(encoded.ids):,} tokens are {len(encoded.ids) - limit:,} more than the {limit:,} that"
            f" {located.name} was trained on, so it recalls less: read fewer times or give a shorter document"
        )
    return 0


def _document(sources: Sequence[str]) -> Document:
    if not sources:
        raise UsageError("no document: give one with --doc FILE, or --doc - for stdin")
    if list(sources).count("-") > 1:
        raise DocumentError("--doc -: stdin can be read only once")
    return join([read_document(source) for source in sources])


def _report(
    console: Console,
    template: jrt_prompts.Template,
    rendered: jrt_prompts.Prompt,
    encoded: PromptIds,
    located: Located,
) -> None:
    rows = []
    for segment, span in zip(rendered.segments, encoded.spans, strict=True):
        rows.append((segment.role, span.end - span.start, len(segment.text), _excerpt(segment.text)))
    console.table(("segment", "tokens", "characters", "text"), rows, error=True)
    limit = located.context_tokens
    console.report(
        [
            (
                "template",
                f"{template.name}: {template.description}" if template.description else template.name,
            ),
            ("reads", f"{rendered.reads}"),
            ("tokens", f"{len(encoded.ids):,}" + (f" of {limit:,} trained on" if limit is not None else "")),
            ("readings end", ", ".join(f"{point:,}" for point in encoded.cache_points)),
            ("stops at", ", ".join(repr(stop) for stop in rendered.stop) or "the end of text only"),
            ("model", f"{located.name}, tokenizer {located.tokenizer.source}"),
        ]
    )


def _excerpt(text: str) -> str:
    """The ends of a segment on one line; a text segment as it is written, line breaks and all."""
    if len(text) <= EXCERPT_CHARACTERS:
        return repr(text)
    half = EXCERPT_CHARACTERS // 2
    return f"{clean_line(text[: half * 4])[:half]} … {clean_line(text[-half * 4 :])[-half:]}"


def _fields(
    template: jrt_prompts.Template,
    rendered: jrt_prompts.Prompt,
    encoded: PromptIds,
    located: Located,
    document: Document,
) -> dict[str, Any]:
    limit = located.context_tokens
    return {
        "prompt": rendered.text,
        "template": template.name,
        "reads": rendered.reads,
        "stop": list(rendered.stop),
        "documents": [piece.name for piece in document.pieces],
        "segments": [
            {
                "role": segment.role,
                "text": segment.text,
                "first_token": span.start,
                "tokens": span.end - span.start,
            }
            for segment, span in zip(rendered.segments, encoded.spans, strict=True)
        ],
        "prompt_tokens": len(encoded.ids),
        "reading_ends": list(encoded.cache_points),
        "trained_context_tokens": limit,
        "exceeds_context": limit is not None and len(encoded.ids) > limit,
        "model": located.name,
        "tokenizer": located.tokenizer.source,
        "ids": list(encoded.ids),
    }
