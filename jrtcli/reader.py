"""Reader: template, tokenizer and model turn a document and a question into a stream of answer tokens."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jrt_prompts
from jrtcli.answer import Asking
from jrtcli.document import DocumentState
from jrtcli.errors import JrtError, NotResumable, TemplateError, UsageError
from jrtcli.evidence import CaseRestorer
from jrtcli.fill import WAYS, Filled, fill
from jrtcli.generate import Generation, Steps
from jrtcli.passages import Surest, passages
from jrtcli.prepared import Prepared, Request
from jrtcli.tokens import PromptIds, encode_prompt

if TYPE_CHECKING:
    from jrtcli.checkpoint import Loaded

MAX_NEW_TOKENS = 48
"""Of the paper's evaluation (appendix B.5)."""


class Reader:
    """Reads documents and answers questions with one model and one template.

    template: name or file; None: the one that suits the model. reads: how often the document is read; None:
    the template's own number. fill: a name of jrtcli.fill.WAYS, for JRT-RNN with an encoder of fixed length.
    window: documents of more tokens are read in passages of about so many (jrtcli.passages); 0: always whole;
    None: as the checkpoint wants it. Raises TemplateError, UsageError.
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        template: str | jrt_prompts.Template | None = None,
        reads: int | None = None,
        fill: str = "twice",
        window: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        if fill not in WAYS:
            raise UsageError(f"no fill {fill!r}: choose {', '.join(WAYS)}")
        self.loaded = loaded
        self.template = load_template(template if template is not None else loaded.template)
        self.reads = reads
        self.fill = fill
        self.window = window_of(loaded) if window is None else window
        self.temperature, self.seed = temperature, seed

    def prompt(self, context: str, question: str) -> jrt_prompts.Prompt:
        """The prompt that would be read. Raises UsageError for an empty document or question."""
        try:
            return self.template.render(context, question, reads=self.reads)
        except jrt_prompts.PromptError as error:
            raise UsageError(str(error)) from None

    def read(self, context: str) -> DocumentState:
        """Read a document as far as it is the same for every question, to ask many from there.

        Raises UsageError where the template shows the question first, NotResumable where JRT-RNN's encoder
        would have to stop inside its region.
        """
        started = time.perf_counter()
        prompt = self.prompt(context, "?")
        encoded = encode_prompt(prompt, self.loaded.tokenizer)
        first_question = min(span.start for span in encoded.spans if span.role == "question")
        points = [point for point in encoded.cache_points if point <= first_question]
        if not points:
            raise UsageError(
                f"template {self.template.name} shows the question before the document:"
                " nothing can be read ahead; take cq, ccq or cqcq"
            )
        ids = encoded.ids[: points[-1]]
        encoder = self._encoder_length(encoded)
        limit = encoder_limit(self.loaded.model)
        if self.loaded.model.has_encoder and len(ids) < (encoder if encoder is not None else limit or 0):
            region = "past the first reading" if limit is None else f"{limit} tokens"
            raise NotResumable(
                f"the encoder of this model reads {region} in one piece, so a state cannot stop inside it:"
                " take template cq or ccq, or ask without reading ahead"
            )
        generation = self.generation(Request(Filled(list(ids)), encoder), max_new_tokens=1)
        next(generation, None)
        assert generation.state is not None
        seconds = time.perf_counter() - started
        return DocumentState(context, tuple(ids), self.template.name, prompt.reads, generation.state, seconds)

    def prepare(self, source: str | DocumentState, question: str) -> Prepared:
        """The prompt of one question about a document's text, or about what was read of it; nothing is read.

        Raises UsageError for an empty document or question, JrtError for a DocumentState of another template.
        """
        context = source if isinstance(source, str) else source.context
        prompt = self.prompt(context, question)
        encoded = encode_prompt(prompt, self.loaded.tokenizer)
        body = next(span for span in reversed(encoded.spans) if span.role == "context")
        if isinstance(source, DocumentState):
            if tuple(encoded.ids[: source.tokens]) != source.ids:
                raise JrtError(
                    f"this state was read with template {source.template} ({source.reads} readings):"
                    f" it is not the beginning of a prompt of {self.template.name} ({prompt.reads} readings)"
                )
            requests = [Request(Filled(list(encoded.ids[source.tokens :])), None, source.state)]
        elif self.window and body.end - body.start > self.window:
            parts = passages(context, self.loaded.tokenizer, self.window)
            every = [encode_prompt(self.prompt(part, question), self.loaded.tokenizer) for part in parts]
            requests = [self._whole(ids) for ids in every]
            encoded = max(every, key=lambda ids: len(ids.ids))
        else:
            requests = [self._whole(encoded)]
        fields = {
            "question": question,
            "prompt": prompt,
            "template": self.template.name,
            "reads": prompt.reads,
            "prompt_tokens": len(encoded.ids),
            "context_tokens": body.end - body.start,
            "passages": len(requests),
            "read_tokens": sum(request.tokens for request in requests),
            "reused_tokens": source.tokens if isinstance(source, DocumentState) else 0,
            "padding_tokens": sum(request.filled.padding_tokens for request in requests),
            "repeated_tokens": sum(request.filled.repeated_tokens for request in requests),
        }
        return Prepared(context, tuple(requests), fields)

    def ask(
        self,
        source: str | DocumentState,
        question: str,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Asking:
        """Ask about a document's text, or go on from what was read of it; the answer comes token by token.

        on_progress: called with (tokens read, tokens to read) during the prefill. Raises as `prepare`.
        """
        started = time.perf_counter()
        return self.start(
            self.prepare(source, question),
            max_new_tokens=max_new_tokens,
            on_progress=on_progress,
            started=started,
        )

    def start(
        self,
        prepared: Prepared,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        on_progress: Callable[[int, int], None] | None = None,
        started: float | None = None,
    ) -> Asking:
        """Answer what was prepared. started: of time.perf_counter, from which the first token counts."""
        generation: Generation | Surest
        if len(prepared.requests) == 1:
            generation = self.generation(
                prepared.requests[0], max_new_tokens=max_new_tokens, on_progress=on_progress
            )
        else:
            each = [self.generation(r, max_new_tokens=max_new_tokens) for r in prepared.requests]
            generation = Surest(each, says=self.says, on_progress=on_progress)
        return self.asking(prepared, generation, started=started)

    def asking(self, prepared: Prepared, generation: Steps, *, started: float | None = None) -> Asking:
        """The answer that the steps of a generation become."""
        # A tokenizer that knows no capitals gets them back from the document.
        restorer = CaseRestorer(prepared.context) if self.loaded.tokenizer.lowercases else None
        return Asking(
            self.loaded.tokenizer,
            generation,
            started=time.perf_counter() if started is None else started,
            restorer=restorer,
            fields=prepared.fields,
        )

    def says(self, token: int) -> bool:
        """Whether a first token says something: what the passages of a document are chosen by."""
        return bool(self.loaded.tokenizer.decode([token]).strip())

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """The ids that end an answer."""
        eos = self.loaded.tokenizer.eos_id
        return frozenset() if eos is None else frozenset([eos])

    def generation(self, request: Request, **options: Any) -> Generation:
        """The steps that follow one request, alone."""
        return Generation(
            self.loaded.model,
            request.filled.ids,
            mask=request.filled.mask,
            encoder_length=request.encoder_length,
            reencode=request.filled.reencode,
            state=request.state,
            stop_ids=self.stop_ids,
            real_tokens=self.loaded.real_tokens,
            temperature=self.temperature,
            seed=self.seed,
            **options,
        )

    def _whole(self, encoded: PromptIds) -> Request:
        """A whole prompt, to be read from nothing."""
        body = next(span for span in reversed(encoded.spans) if span.role == "context")
        return Request(self._filled(encoded, body.start, body.end), self._encoder_length(encoded))

    def _encoder_length(self, encoded: PromptIds) -> int | None:
        """To the end of the last reading for an encoder of any length; None: the model's own rule."""
        model = self.loaded.model
        return encoded.head_tokens if model.has_encoder and encoder_limit(model) is None else None

    def _filled(self, encoded: PromptIds, start: int, end: int) -> Filled:
        limit = encoder_limit(self.loaded.model)
        if limit is None:
            return Filled(list(encoded.ids))
        space = self.loaded.tokenizer.encode(" ", first=False)
        return fill(
            encoded.ids, encoded.ids[start:end], length=limit, way=self.fill, pad_id=space[-1] if space else 0
        )


def load_template(template: str | jrt_prompts.Template) -> jrt_prompts.Template:
    """A template by name or file. Raises TemplateError."""
    if isinstance(template, jrt_prompts.Template):
        return template
    try:
        return jrt_prompts.load_template(template)
    except jrt_prompts.TemplateError as error:
        raise TemplateError(str(error)) from None


def window_of(loaded: Loaded) -> int:
    """Tokens of a passage in which a checkpoint wants long documents read (`window_tokens` of its jrt.json);
    0: none."""
    asked = loaded.settings.get("window_tokens")
    return asked if isinstance(asked, int) and asked > 0 else 0


def encoder_limit(model: Any) -> int | None:
    """The fixed encoder length a JRT-RNN was trained with; None: any length, or no encoder at all."""
    return getattr(model.config, "enc_length", None) if model.has_encoder else None
