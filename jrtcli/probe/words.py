"""The probes put to a pretrained checkpoint in words, without training: which word is in both lists, what
belongs to a key. The same questions in every order and with every template, so that answers pair up.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jrtcli.metrics import contains, paired_difference, wilson
from jrtcli.probe.plan import both
from jrtcli.reader import Reader

if TYPE_CHECKING:
    from jrtcli.checkpoint import Loaded

TEMPLATES = ("cq", "qcq", "cqcq")
"""Read once, once with the question first, twice."""
LISTS = both((4, 12), (4, 24), (8, 24))
PAIRS = (4, 8, 16, 24)
MAX_NEW_TOKENS = 12
"""An answer is one word: enough for any tokenizer, too little to say a whole list."""

_NOUNS = """
anchor apple arrow basket beach bell bench bird boat book bottle branch bread brick bridge brush bucket
butter button cabin candle carpet castle chair cheese cherry circle cloud coat coffee copper corner cotton
crown curtain desert diamond doctor dollar donkey dragon drawer eagle engine feather fence finger flower
forest garden ginger glass glove guitar hammer harbor helmet honey horse hotel island jacket jewel kettle
kitchen ladder lamp leather lemon letter lizard magnet maple market mirror monkey mountain needle orange
oven palace paper parrot pencil pepper piano pillow planet pocket potato rabbit ribbon river rocket saddle
school shadow shovel silver spider spoon stable station stone sugar summer table temple ticket tiger tower
tractor tunnel turtle valley velvet village violin wagon walnut whistle window winter
"""
NOUNS = tuple(_NOUNS.split())


@dataclass(frozen=True)
class Question:
    """One question: `size` and `order` say which, `number` pairs it with the others of its content."""

    task: str
    size: str
    order: str
    number: int
    document: str
    text: str
    gold: str


def questions(count: int, seed: int = 0) -> Iterator[Question]:
    """`count` questions of each kind and size; both orders of two lists hold the same words."""
    for one, other in LISTS:
        if one > other:
            continue
        for number in range(count):
            # A generator of its own: more questions leave the first ones as they are.
            draw = random.Random(f"{seed} lists {one} {other} {number}")
            words = draw.sample(NOUNS, one + other - 1)
            short, gold = words[:one], draw.choice(words[:one])
            long = [*words[one:], gold]
            draw.shuffle(long)
            for order, lists in (("short first", (short, long)), ("short last", (long, short))):
                text = f"First list: {', '.join(lists[0])}.\nSecond list: {', '.join(lists[1])}."
                asked = "Which word is in both lists?"
                yield Question("disjointness", f"{one}+{other}", order, number, text, asked, gold)
    for pairs in PAIRS:
        for number in range(count):
            draw = random.Random(f"{seed} pairs {pairs} {number}")
            words = draw.sample(NOUNS, 2 * pairs)
            keys, values = words[:pairs], words[pairs:]
            at = draw.randrange(pairs)
            text = "\n".join(f"{key.capitalize()}: {value}" for key, value in zip(keys, values, strict=True))
            yield Question(
                "recall", f"{pairs} pairs", "", number, text, f"What is the {keys[at]}?", values[at]
            )


def ask_all(
    loaded: Loaded, asked: Sequence[Question], templates: Sequence[str] = TEMPLATES
) -> Iterator[dict[str, Any]]:
    """Greedy answers to all questions with each template: one row each, with `right` 0 or 1 (contains)."""
    readers = [Reader(loaded, template=name, window=0) for name in templates]
    for question in asked:
        for reader in readers:
            asking = reader.ask(question.document, question.text, max_new_tokens=MAX_NEW_TOKENS)
            for _ in asking:
                pass
            said = asking.answer
            yield {
                "task": question.task,
                "size": question.size,
                "order": question.order,
                "number": question.number,
                "template": reader.template.name,
                "reads": said.reads,
                "prompt_tokens": said.prompt_tokens,
                "gold": question.gold,
                "answer": said.text,
                "right": int(contains(said.text, [question.gold])),
            }


def shares(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Accuracy with its Wilson interval for each kind, size, order and template."""
    found: dict[tuple[str, ...], list[int]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("task", "size", "order", "template"))
        found.setdefault(key, []).append(row["right"])
    made = []
    for (task, size, order, template), right in found.items():
        share = sum(right) / len(right)
        low, high = wilson(share, len(right))
        made.append(
            {"task": task, "size": size, "order": order, "template": template, "accuracy": share,
             "low": low, "high": high, "count": len(right)}
        )  # fmt: skip
    return made


def differences(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Paired over the same questions: the orders for each template, the templates against reading once."""
    made = []
    for template in dict.fromkeys(row["template"] for row in rows):
        mine = [row for row in rows if row["template"] == template]
        lists = [row for row in mine if row["task"] == "disjointness"]
        first = {(r["size"], r["number"]): r["right"] for r in lists if r["order"] == "short first"}
        last = {(r["size"], r["number"]): r["right"] for r in lists if r["order"] == "short last"}
        made.append(_difference("disjointness", f"short first - short last, {template}", last, first))
    for task in dict.fromkeys(row["task"] for row in rows):
        sides = {
            name: {(r["size"], r["order"], r["number"]): r["right"] for r in rows
                   if r["task"] == task and r["template"] == name}
            for name in dict.fromkeys(row["template"] for row in rows)
        }  # fmt: skip
        once = next(iter(sides))
        made += [
            _difference(task, f"{name} - {once}", sides[once], sides[name]) for name in sides if name != once
        ]
    return [one for one in made if one is not None]


def _difference(task: str, name: str, low: dict[Any, int], high: dict[Any, int]) -> dict[str, Any] | None:
    keys = [key for key in low if key in high]
    if not keys:
        return None
    found = paired_difference([low[key] for key in keys], [high[key] for key in keys])
    return {"task": task, "difference": name, "value": found.value, "low": found.low, "high": found.high,
            "p_value": found.p_value, "pairs": len(keys)}  # fmt: skip
