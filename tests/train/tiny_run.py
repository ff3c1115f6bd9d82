"""A run small enough for tests: a fake model with the interface of RecurrentLM, and a copying task.

Run as a program it trains into the folder given, so that a test can kill it.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jrtcli.train.config import Recipe, from_dict
from jrtcli.train.events import Event, Result
from jrtcli.train.loop import train
from jrtcli.train.parts import Parts
from jrtcli.train.recall import DevQuestion

VOCAB, WIDTH = 12, 16


class FakeBlock(nn.Module):
    """x plus a matrix of a running mean of x: recurrent enough."""

    def __init__(self) -> None:
        super().__init__()
        self.out_proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, state: Any, span: Any) -> tuple[Tensor, Any]:
        steps = torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None]
        return x + torch.tanh(self.out_proj(x.cumsum(1) / steps)), state


class FakeModel(nn.Module):
    """The part of RecurrentLM that training uses; its state is the tokens themselves."""

    architecture = "fake"

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(VOCAB, WIDTH)
        self.layers = nn.ModuleList([FakeBlock(), FakeBlock()])
        self.lm_head = nn.Linear(WIDTH, VOCAB, bias=False)

    def hidden(self, tokens: Tensor, *, encoder_length: Tensor | None = None) -> Tensor:
        x = self.embeddings(tokens)
        for layer in self.layers:
            x, _ = layer(x, None, None)
        return x

    def head(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden).float()

    def prefill(self, tokens: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        return self.head(self.hidden(tokens)[:, -1]), tokens

    def step(self, token: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.prefill(torch.cat([state, token[:, None]], 1))

    def to_checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {"architectures": ["fake"]}, self.state_dict()


@dataclass
class FakeBatch:
    tokens: Tensor
    weights: Tensor
    encoder_lengths: Tensor
    tags: Tensor


def batch(length: int, tokenizer: Any, step: int) -> FakeBatch:
    """Two rows of one repeated token each: the answer is the token again."""
    draw = torch.Generator().manual_seed(1000 + step)
    values = torch.randint(1, VOCAB, (2, 1), generator=draw)
    tokens = values.expand(2, length).clone()
    weights = torch.zeros(2, length)
    weights[:, -3:] = torch.tensor([3.0, 1.0, 1.0])
    tags = torch.full((2, length), -1, dtype=torch.int8)
    tags[:, 0], tags[:, 1] = 1, 0
    return FakeBatch(tokens, weights, torch.tensor([length, length]), tags)


class FakeTokenizer:
    """A token is its number."""

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


def recipe(output: str, **changes: Any) -> Recipe:
    """Forty steps in two stages, evaluated and saved every ten."""
    values: dict[str, Any] = {
        "steps": 40,
        "output": output,
        "precision": "fp32",
        "log_every": 5,
        "save_every": 10,
        "ema": 0.9,
        "eval": {"every": 10, "max_new_tokens": 2},
        "model": {"tag_layer": 0},
        "optimizer": {"warmup_steps": 4},
        "curriculum": [{"share": 0.5}, {"share": 0.5, "lr": 0.5}],
    }
    return from_dict({**values, **changes})


def parts(delay_s: float = 0.0) -> Parts:
    """The model and data of the run; `delay_s` slows it down, so that it can be killed half way."""

    def slow(config: Any, tokenizer: Any, step: int) -> FakeBatch:
        time.sleep(delay_s)
        return batch(config, tokenizer, step)

    questions = [DevQuestion((v, v, v), 3, (str(v),), group="copy") for v in range(1, 5)]
    return Parts(FakeModel(), FakeTokenizer(), slow, [6, 9], False, WIDTH, questions)


def run(output: str, delay_s: float = 0.0, **options: Any) -> tuple[Result, list[Event]]:
    """Train and collect the events."""
    events: list[Event] = []
    torch.manual_seed(0)
    result = train(recipe(output), on_event=events.append, parts=parts(delay_s), **options)
    return result, events


if __name__ == "__main__":
    run(sys.argv[1], float(sys.argv[2]))
