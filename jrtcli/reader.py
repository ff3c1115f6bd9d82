"""Reader: template, tokenizer and model turn a document and a question into a stream of answer tokens."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jrt_prompts
from jrtcli.ahead import Ahead, check_shared, encoder_tokens, part_read, shared_tokens
from jrtcli.answer import Asking
from jrtcli.document import DocumentState
from jrtcli.errors import StateError, TemplateError, UsageError
from jrtcli.evidence import CaseRestorer
from jrtcli.fill import WAYS, Filled
from jrtcli.generate import Generation, Steps
from jrtcli.passages import Surest, passages
from jrtcli.prepared import Prepared, Request, body, whole
from jrtcli.source import Document, Piece
from jrtcli.state_identity import StateIdentity, ids_sha256, model_facts, order_facts, text_sha256
from jrtcli.tokens import PromptIds, Remembering, Tokenizer, encode_prompt

if TYPE_CHECKING:
    from jrtcli.checkpoint import Loaded
    from jrtcli.state import State

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

    def ahead(self, document: str | Document) -> Ahead:
        """What of a document can be read before a question is known; nothing is read yet.

        Raises UsageError where the template shows the question first, NotResumable where JRT-RNN's encoder
        would have to stop inside its region.
        """
        document = Document(document, (Piece("text"),)) if isinstance(document, str) else document
        prompt = self.prompt(document.text, "?")
        parts = []
        every, _ = self._prompts(document.text, prompt, "?")
        for encoded in every:
            whole = self._whole(encoded)
            shared, encoder = shared_tokens(encoded), encoder_tokens(self.loaded.model, whole.encoder_length)
            check_shared(self.template, shared, encoder, fixed=whole.encoder_length is None)
            parts.append(Request(Filled(list(encoded.ids[:shared])), whole.encoder_length))
        ids = [token for part in parts for token in part.filled.ids]
        identity = StateIdentity(
            **self.facts(prompt.reads),
            part=part_read(every[0]),
            passages=len(parts),
            document_sha256=text_sha256(document.text),
            tokens=len(ids),
            ids_sha256=ids_sha256(ids),
            state_dtype="float32",
        )
        return Ahead(document, tuple(parts), identity, self.template, self.loaded.identity.source)

    def read(
        self, document: str | Document | Ahead, *, on_progress: Callable[[int, int], None] | None = None
    ) -> DocumentState:
        """Read a document as far as it is the same for every question, to ask many from there.

        on_progress: called with (tokens read, tokens to read). Raises as `ahead`.
        """
        ahead = document if isinstance(document, Ahead) else self.ahead(document)
        return ahead.read(self.loaded.model, on_progress)

    def facts(self, reads: int) -> dict[str, Any]:
        """What every state of this reader depends on, whatever the document: jrtcli.state_identity."""
        return self._model_facts | order_facts(self.template, reads, self.window)

    @cached_property
    def _model_facts(self) -> dict[str, Any]:
        return model_facts(self.loaded)

    def prepare(
        self, source: str | DocumentState, question: str, *, prompt: jrt_prompts.Prompt | None = None
    ) -> Prepared:
        """The prompt of one question about a document's text, or about what was read of it; nothing is read.

        prompt: to be read as it is, in one passage, instead of what the template makes; an encoder of any
        length takes all of it. Raises UsageError for an empty document or question, StateError for a
        DocumentState of another model or template.
        """
        context = source if isinstance(source, str) else source.context
        given = prompt is not None
        prompt = prompt or self.prompt(context, question)
        parts: list[tuple[tuple[int, ...], State]] = []
        where = "this state"
        if isinstance(source, DocumentState):
            where = source.origin or where
            if source.identity is not None:
                source.identity.check(self.facts(prompt.reads), where)
            parts = source.passages
        every, context_tokens = self._prompts(context, prompt, question, 1 if given else len(parts))
        if isinstance(source, DocumentState) and source.identity is not None:
            source.identity.check({"part": part_read(every[0])}, where)
        requests = [self._whole(encoded, given=given) for encoded in every]
        if parts:
            if [encoded.ids[: len(ids)] for encoded, (ids, _) in zip(every, parts, strict=True)] != [
                ids for ids, _ in parts
            ]:
                raise StateError(
                    f"{where}: its tokens are not the beginning of this prompt:"
                    " read the document again with `jrt read`"
                )
            requests = [
                Request(Filled(list(encoded.ids[len(ids) :])), None, state)
                for encoded, (ids, state) in zip(every, parts, strict=True)
            ]
        encoded = max(every, key=lambda ids: len(ids.ids))
        fields = {
            "question": question,
            "prompt": prompt,
            "template": self.template.name,
            "reads": prompt.reads,
            "prompt_tokens": len(encoded.ids),
            "context_tokens": context_tokens,
            "passages": len(requests),
            "read_tokens": sum(request.tokens for request in requests),
            "reused_tokens": source.tokens if isinstance(source, DocumentState) else 0,
            "padding_tokens": sum(request.filled.padding_tokens for request in requests),
            "repeated_tokens": sum(request.filled.repeated_tokens for request in requests),
        }
        return Prepared(context, tuple(requests), fields)

    def _prompts(
        self, context: str, prompt: jrt_prompts.Prompt, question: str, count: int = 0
    ) -> tuple[list[PromptIds], int]:
        """The prompt as ids, or one for each passage of a long document; and the document's own tokens.

        count: in so many passages the document was read; 0: as the window has it.
        """
        encoded = self._encode(prompt)
        start, end = body(encoded)
        tokens = end - start
        if count == 1 or (count == 0 and not (self.window and tokens > self.window)):
            return [encoded], tokens
        parts = passages(context, self._tokenizer, self.window)
        if count and len(parts) != count:
            raise StateError(f"a state of {count} passages of a document that has {len(parts)} here")
        return [self._encode(self.prompt(part, question)) for part in parts], tokens

    def _encode(self, prompt: jrt_prompts.Prompt) -> PromptIds:
        return encode_prompt(prompt, self._tokenizer)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        # A document is tokenised once, however many questions are asked.
        return Remembering(self.loaded.tokenizer)

    def ask(
        self,
        source: str | DocumentState,
        question: str,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        on_progress: Callable[[int, int], None] | None = None,
        on_read: Callable[[State], None] | None = None,
    ) -> Asking:
        """Ask about a document's text, or go on from what was read of it; the answer comes token by token.

        on_progress: called with (tokens read, tokens to read) during the prefill. on_read: as `start`. Raises
        as `prepare`.
        """
        started = time.perf_counter()
        return self.start(
            self.prepare(source, question),
            max_new_tokens=max_new_tokens,
            on_progress=on_progress,
            on_read=on_read,
            started=started,
        )

    def start(
        self,
        prepared: Prepared,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        on_progress: Callable[[int, int], None] | None = None,
        on_read: Callable[[State], None] | None = None,
        started: float | None = None,
    ) -> Asking:
        """Answer what was prepared. started: of time.perf_counter, from which the first token counts.

        on_read: called once for each passage that is read from nothing, with the state at the end of what
        every question has in common (see `ahead`), if a state can stop there.
        """
        each = [
            self.generation(
                request,
                max_new_tokens=max_new_tokens,
                on_pause=on_read,
                on_progress=on_progress if len(prepared.requests) == 1 else None,
            )
            for request in prepared.requests
        ]
        generation = each[0] if len(each) == 1 else Surest(each, says=self.says, on_progress=on_progress)
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
            pause=request.shared,
            stop_ids=self.stop_ids,
            real_tokens=self.loaded.real_tokens,
            temperature=self.temperature,
            seed=self.seed,
            **options,
        )

    def _whole(self, encoded: PromptIds, *, given: bool = False) -> Request:
        return whole(self.loaded, encoded, self.fill, given=given)


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
