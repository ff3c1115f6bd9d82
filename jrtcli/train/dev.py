"""The dev questions of a run: documents that no step trains on, asked as the command line asks."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer

from jrt_prompts import load_template
from jrtcli.errors import UsageError
from jrtcli.train.config import Recipe
from jrtcli.train.recall import DevQuestion


def dev_questions(recipe: Recipe, data: Any, tokenizer: Tokenizer) -> list[DevQuestion]:
    """`eval.questions` questions of each of `eval.sets`, "split:tokens" as `data.examples` has them.

    Raises UsageError for a set that does not exist.
    """
    from jrtcli.train.data import examples

    template = load_template(recipe.template)
    made: list[DevQuestion] = []
    for name in recipe.eval.sets:
        split, _, tokens = name.partition(":")
        try:
            found = examples(data, split, recipe.eval.questions, int(tokens or 0))
        except (KeyError, ValueError):
            raise UsageError(
                f"recipe: eval.sets has {name!r}; write train:256, heldout:256, fda-dev:0"
            ) from None
        for example in found:
            prompt = template.render(example.context, example.question)
            cut = prompt.last_context + 1
            head = "".join(segment.text for segment in prompt.segments[:cut])
            rest = "".join(segment.text for segment in prompt.segments[cut:])
            read = tokenizer.encode(head).ids
            ids = (*read, *tokenizer.encode(rest).ids)
            made.append(DevQuestion(ids, len(read), example.answers, name))
    return made


def stop_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """The ids that end an answer: a line break, and the end of text where there is one."""
    (newline,) = tokenizer.encode("\n").ids
    end = tokenizer.token_to_id("<eos>")
    return frozenset({newline} if end is None else {newline, end})
