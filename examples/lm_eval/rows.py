"""The rows of the paper's recall tasks for lm-evaluation-harness, with the prompts and scores of jrt.

    lm_eval --model jrt --model_args pretrained=tiny-causal --batch_size auto --limit 50 \
        --include_path examples/lm_eval --tasks based_squad,based_squad_twice \
        --metadata '{"data": "rows.jsonl"}'

Without "data" the published rows are fetched from the Hugging Face hub. Documents are cut as in the paper, to
"length" tokens of the model's own tokenizer around the answer: "window": false takes their beginning, and
"length": 0 leaves them whole. With another --model than jrt, name a tokenizer: "tokenizer": "gpt2".
"""

from __future__ import annotations

from typing import Any

import datasets

from jrtcli.checkpoint import locate
from jrtcli.metrics import score as scores
from jrtcli.tasks import load_task
from jrtcli.tasks.cut import cut
from jrtcli.tasks.rows import find_rows, task_rows
from jrtcli.tokens import Tokenizer, load_tokenizer


def rows(
    task: str,
    order: str,
    data: str | list[str] | None = None,
    length: int | None = None,
    window: bool = True,
    tokenizer: str | None = None,
    pretrained: str = "tiny",
    **_: Any,
) -> dict[str, datasets.Dataset]:
    """The validation split of a task: rows of prompt, answer (the first gold) and golds (all)."""
    recall = load_task(task)
    path = find_rows(task, [data] if isinstance(data, str) else data) if data else None
    if path is not None:
        found = [row for row, _ in task_rows(recall, path)]
    else:
        published = datasets.load_dataset(recall.dataset(length), split="validation")
        found = [recall.row(row, f"row {i}") for i, row in enumerate(published)]
    kept = recall.cut_length_tokens or (recall.length_tokens if length is None else length)
    made = []
    words: Tokenizer | None = None
    for row in found:
        if kept:
            words = words or _tokenizer(tokenizer, pretrained)
            shorter = cut(recall, row, words, kept, oracle=window)
            if shorter is None:
                continue
            row = dict(shorter)
        prompt = recall.written(row, order)
        golds = list(recall.golds(row))
        made.append({"prompt": prompt.text, "answer": golds[0], "golds": golds})
    return {"validation": datasets.Dataset.from_list(made)}


def score(row: dict[str, Any], results: list[str]) -> dict[str, float]:
    """contains, exact match and F1 of one continuation, the best over all golds."""
    return scores(results[0], row["golds"])


def _tokenizer(name: str | None, pretrained: str) -> Tokenizer:
    return locate(pretrained, weights=False).tokenizer if name is None else load_tokenizer(name)
