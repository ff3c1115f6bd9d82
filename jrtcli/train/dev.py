"""The dev questions of a run: documents that no step trains on, asked as the command line asks."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer

from jrt_prompts import load_template
from jrtcli.errors import UsageError
from jrtcli.tokens import encode_prompt, load_tokenizer
from jrtcli.train.config import Recipe
from jrtcli.train.recall import DevQuestion
from jrtcli.train.token_cache import END_TOKENS


def dev_questions(recipe: Recipe, data: Any, tokenizer: Tokenizer) -> list[DevQuestion]:
    """`eval.questions` questions of each of `eval.sets`: "split:tokens" as `data.examples` has them, or
    "qa-dev:tokens", held-out question rows. Sets of documents are left out where a run trains on none.

    data: of the last stage, a DataConfig or a `sources.Stage`. Raises UsageError for a set that does not
    exist.
    """
    from jrtcli.train.data import examples

    template = load_template(recipe.template)
    documents = getattr(data, "documents", data)
    made: list[DevQuestion] = []
    for name in recipe.eval.sets:
        split, _, tokens = name.partition(":")
        if split == "qa-dev":
            made += _of_rows(recipe, data, name, tokens)
            continue
        if documents is None:
            continue
        try:
            found = examples(documents, split, recipe.eval.questions, int(tokens or 0))
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


def _of_rows(recipe: Recipe, data: Any, name: str, tokens: str) -> list[DevQuestion]:
    from jrtcli.train.qa_data import qa_examples

    qa = getattr(data, "qa", None)
    if qa is None or not (tokens or "0").isdigit():
        raise UsageError(f"recipe: eval.sets has {name!r}; it needs data.qa_paths, as qa-dev:512")
    template, tokenizer = load_template(recipe.template), load_tokenizer(qa.tokenizer)
    made = []
    for _, context, question, answers in qa_examples(
        qa, recipe.eval.questions, int(tokens or 0), recipe.seed
    ):
        prompt = encode_prompt(template.render(context, question), tokenizer)
        made.append(DevQuestion(prompt.ids, prompt.head_tokens, answers, name))
    return made


def stop_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """The ids that end an answer: a line break, and the end of text where there is one."""
    ends = [tokenizer.token_to_id(name) for name in END_TOKENS]
    newline = tokenizer.encode("\n", add_special_tokens=False).ids[-1:]
    return frozenset([*newline, *(end for end in ends if end is not None)])
