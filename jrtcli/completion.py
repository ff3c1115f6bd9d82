"""Completion: prompts as another program hands them over, continued or scored by one model, many at once.

Symbols: N prompts, V rows of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jrt_prompts import Prompt, Segment
from jrtcli.batching import Batch
from jrtcli.errors import UsageError
from jrtcli.reader import Reader, load_template
from jrtcli.scoring import chosen, log_probabilities
from jrtcli.shared_beginnings import share
from jrtcli.state import State

if TYPE_CHECKING:
    from jrtcli.checkpoint import Loaded
    from jrtcli.prepared import Prepared, Request

FRAME = "cq"
"""The template whose frame tells the document and the question of a prompt apart."""

AS_IS, AGAIN = "cq", "cqcq"
"""Orders that a prompt can have which says nothing of its parts: as it is, or all of it again."""


@dataclass(frozen=True)
class Wanted:
    """A prompt to be continued. stop: strings that end it."""

    prompt: str
    stop: tuple[str, ...] = ()
    max_new_tokens: int = 256
    temperature: float = 0.0


class Completion:
    """Continues and scores prompts with one model.

    template: None: prompts are read as they are. Else a prompt that ends in the frame of template `cq` (empty
    line, "Question: ...", "Answer:") is taken apart and shown in that order, `reads` times; one that does not
    is read as it is by `cq`, and all of it again by `cqcq`. rows: at once; None: found.
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        template: str | None = None,
        reads: int | None = None,
        fill: str = "twice",
        window: int | None = None,
        rows: int | None = None,
        seed: int = 0,
    ) -> None:
        self.loaded, self.model = loaded, loaded.model
        self._options: dict[str, Any] = {"reads": reads, "fill": fill, "window": window, "seed": seed}
        self._template = None if template is None else load_template(template)
        self._reads = reads
        self._rows = rows
        if self._template is not None:
            self._template.check_reads(self._template.default_reads if reads is None else reads)
        elif reads is not None and reads != 1:
            raise UsageError("reads says how often a template reads: give template=cqcq as well")

    def continuations(self, wanted: Sequence[Wanted]) -> Iterator[tuple[int, str]]:
        """What follows each prompt, up to its first stop string, as (its index, text); in any order.

        Raises JrtError for a prompt that cannot be answered: nothing to read, no memory, an overflow.
        """
        kinds: dict[tuple[int, float], list[int]] = {}
        for i, one in enumerate(wanted):
            kinds.setdefault((one.max_new_tokens, one.temperature), []).append(i)
        for (tokens, temperature), indices in kinds.items():
            reader = self._reader(temperature=temperature)
            batch = Batch(reader, rows=self._rows, max_new_tokens=tokens)
            prepared = ((i, self._prepared(reader, wanted[i].prompt, wanted[i].stop)) for i in indices)
            for i, answer in batch.run(share(self.model, prepared)):
                if isinstance(answer, Exception):
                    raise answer
                yield i, answer.continuation

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """For (context, continuation): the log-probability of the continuation's tokens, and whether each of
        them is the most probable one.

        Spaces that end a context belong to the continuation. The same context is read once, and so is what
        contexts have in common at their beginning. Raises JrtError.
        """
        reader = self._reader(window=0)
        asked: dict[str, list[int]] = {}
        contexts = []
        endings: list[list[int]] = []
        for i, (context, continuation) in enumerate(pairs):
            bare = context.rstrip() if context.strip() else ""
            contexts.append(bare)
            endings.append(self._ending(bare, context[len(bare) :] + continuation))
            asked.setdefault(bare, []).append(i)
        found: list[tuple[float, bool]] = [(0.0, True)] * len(pairs)
        prepared = ((text, self._prepared(reader, text)) for text in asked)
        for group in _chunks(share(self.model, prepared), self._rows or 8):
            self._score(group, asked, endings, found)
        return found

    def rolling(self, text: str) -> float:
        """The log-probability of all tokens of a text, each after all before it, the first after the
        tokenizer's BOS or end of text. A JRT-RNN reads without its encoder, which sees ahead. Raises
        UsageError for a tokenizer that has neither token."""
        ids = self._begun(self.loaded.tokenizer.encode(text, first=True))
        encoder = 0 if self.model.has_encoder else None
        pieces = log_probabilities(self.model, torch.tensor([ids]), encoder_length=encoder)
        return sum(float(piece.double().sum()) for _, piece in pieces)

    def _reader(self, **options: Any) -> Reader:
        template = self._template or load_template(FRAME)
        given = self._options if self._template is not None else self._options | {"reads": None}
        return Reader(self.loaded, template=template, **(given | options))

    def _prepared(self, reader: Reader, text: str, stop: tuple[str, ...] = ()) -> Prepared:
        """A prompt as it is to be read."""
        if not text.strip():
            return self._as_is(reader, "", stop)
        parts = self._parts(text) if self._template is not None else None
        if parts is not None:
            made = reader.prepare(*parts)
            return replace(made, fields=made.fields | {"prompt": replace(made.fields["prompt"], stop=stop)})
        if self._template is None or (self._template.name == AS_IS and self._reads in (None, 1)):
            return self._as_is(reader, text, stop)
        if self._template.name != AGAIN:
            raise UsageError(
                f"template {self._template.name} needs to know where the question of a prompt is: end it"
                " in an empty line, `Question: ...`, `Answer:`; or take template cqcq, which repeats it all"
            )
        between = next(part.text for part in self._template.parts[::-1] if part.again and part.kind == "text")
        return self._as_is(reader, between.join([text] * (self._reads or self._template.default_reads)), stop)

    def _as_is(self, reader: Reader, text: str, stop: tuple[str, ...]) -> Prepared:
        prompt = Prompt((Segment("context", text), Segment("question", "")), stop)
        if text:
            return reader.prepare(text, "", prompt=prompt)
        # Nothing to read but what every text begins with.
        from jrtcli.fill import Filled
        from jrtcli.prepared import Prepared, Request

        begin = self._begun([])
        return Prepared("", (Request(Filled(begin)),), _no_fields(prompt, len(begin)))

    def _parts(self, text: str) -> tuple[str, str] | None:
        """Document and question of a prompt in the frame of template `cq`; None for any other."""
        before, after = self._frame
        context, found, rest = text.rstrip().rpartition(before)
        question = rest.removesuffix(after.rstrip())
        if not found or question == rest or not context.strip() or not question.strip() or "\n" in question:
            return None
        return context, question

    @cached_property
    def _frame(self) -> tuple[str, str]:
        texts = [part.text for part in load_template(FRAME).parts if part.kind == "text" and not part.again]
        return texts[-2], texts[-1]

    def _ending(self, context: str, continuation: str) -> list[int]:
        """The ids that a continuation adds to its context."""
        encode = self.loaded.tokenizer.encode
        whole = encode(context + continuation, first=True)
        before = encode(context, first=True) if context else []
        ids = whole[len(before) :]
        if not before and ids and ids[0] == self.loaded.tokenizer.bos_id:
            return ids[1:]
        return ids

    def _begun(self, ids: list[int]) -> list[int]:
        """The ids with something in front of the first one, for it to be predicted from."""
        tokenizer = self.loaded.tokenizer
        if ids and ids[0] == tokenizer.bos_id:
            return ids
        first = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
        if first is None:
            raise UsageError(
                f"the tokenizer {tokenizer.source} has neither a BOS nor an end-of-text token: the first"
                " token of a text has nothing to follow"
            )
        return [first, *ids]

    def _score(
        self,
        group: Sequence[tuple[str, Prepared]],
        asked: dict[str, list[int]],
        endings: Sequence[list[int]],
        found: list[tuple[float, bool]],
    ) -> None:
        """Read some contexts, then everything that follows them, packed."""
        requests = [prepared.requests[0] for _, prepared in group]
        first, state = self._read(requests)
        wanted = [(row, i) for row, (text, _) in enumerate(group) for i in asked[text] if endings[i]]
        if not wanted:
            return
        device = self.model.device
        rows = torch.tensor([row for row, _ in wanted], device=device)
        tokens = torch.tensor([endings[i][0] for _, i in wanted], device=device)
        sums = chosen(first[rows][:, None], tokens[:, None])[:, 0].double()
        greedy = (first[rows].argmax(-1) == tokens).cpu()
        longer = [k for k, (_, i) in enumerate(wanted) if len(endings[i]) > 1]
        if longer:
            ids = [endings[wanted[k][1]] for k in longer]
            bounds = torch.tensor([0, *(len(one) - 1 for one in ids)], device=device).cumsum(0)
            packed = torch.tensor([t for one in ids for t in one[:-1]], device=device)[None]
            after = torch.tensor([t for one in ids for t in one[1:]], device=device)[None]
            state = state.select([wanted[k][0] for k in longer])
            logits, _ = self.model.forward_from(packed, state, cu_seqlens=bounds)
            values = chosen(logits, after)[0].double()
            best = (logits.argmax(-1) == after)[0].cpu()
            for k, start, end in zip(longer, bounds.tolist(), bounds.tolist()[1:], strict=False):
                sums[k] += values[start:end].sum()
                greedy[k] &= bool(best[start:end].all())
        for (_, i), value, best_of_all in zip(wanted, sums.tolist(), greedy.tolist(), strict=True):
            found[i] = (value, best_of_all)

    def _read(self, requests: Sequence[Request]) -> tuple[Tensor, State]:
        """The logits after each prompt (N, V) and the states; those with a mask or an encoder one by one."""
        model = self.model
        if len(requests) == 1 or model.has_encoder:
            each = [self._read_one(request) for request in requests]
            return torch.cat([logits for logits, _ in each]), State.concat([state for _, state in each])
        ids = [request.filled.ids for request in requests]
        bounds = torch.tensor([0, *map(len, ids)], device=model.device).cumsum(0)
        tokens = torch.tensor([token for one in ids for token in one], device=model.device)[None]
        fresh = model.init_state(1)
        state = State.concat([request.state or fresh for request in requests])
        return model.prefill(tokens, state, cu_seqlens=bounds)

    def _read_one(self, request: Request) -> tuple[Tensor, State]:
        device = self.model.device
        options: dict[str, Any] = {}
        if request.encoder_length is not None:
            options["encoder_length"] = request.encoder_length
        if request.filled.mask is not None:
            options["mask"] = torch.tensor([request.filled.mask], device=device)
        return self.model.prefill(torch.tensor([request.filled.ids], device=device), request.state, **options)


def _no_fields(prompt: Prompt, tokens: int) -> dict[str, Any]:
    return {
        "question": "", "prompt": prompt, "template": FRAME, "reads": 0, "prompt_tokens": tokens,
        "context_tokens": 0, "passages": 1, "read_tokens": tokens, "reused_tokens": 0, "padding_tokens": 0,
        "repeated_tokens": 0,
    }  # fmt: skip


def _chunks(items: Iterable[tuple[str, Prepared]], size: int) -> Iterator[list[tuple[str, Prepared]]]:
    held: list[tuple[str, Prepared]] = []
    for item in items:
        held.append(item)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held
