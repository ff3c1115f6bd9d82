"""What a saved state is worth: many questions about one document, with it and without.

    python examples/ask_many.py                          # tiny-causal, and a Mamba-2 of random weights
    python examples/ask_many.py --model mamba2-130m --questions 20 --tokens 4000

Templates: `cqcq` shares the first of its two readings between questions, `ccq` both. Without a state each
question reads its whole prompt; with it the shared part is read once, saved, loaded and gone on from. The
answers are the same. Times are those of one run on this machine, of the clock and of the processor; the
ratio is that of the processor's, which other programs change less. Compare them with each other only.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

import jrtcli
from jrtcli.batching import Batch
from jrtcli.document import load_state, save_state
from jrtcli.known import BUNDLED
from jrtcli.machine import processor
from jrtcli.models import architecture
from jrtcli.reader import Reader

MAMBA2 = {
    "model_type": "mamba2", "hidden_size": 256, "num_hidden_layers": 6, "num_heads": 8, "head_dim": 64,
    "state_size": 64, "n_groups": 1, "conv_kernel": 4, "expand": 2, "chunk_size": 256, "vocab_size": 2048,
    "tie_word_embeddings": True, "time_step_limit": [0.0, float("inf")], "layer_norm_epsilon": 1e-5,
    "use_bias": False, "use_conv_bias": True, "hidden_act": "silu",
}  # fmt: skip


@dataclass
class Run:
    """One way of asking all questions.

    seconds: of the clock and of the processor; read_tokens: of all prompts; answers: token ids of
    each.
    """

    name: str
    seconds: tuple[float, float]
    read_tokens: int
    answers: list[tuple[int, ...]]


def random_checkpoint(folder: Path) -> Path:
    """A Mamba-2 with fresh weights and the tokenizer of tiny-causal."""
    torch.manual_seed(0)
    config, weights = architecture("mamba2").from_config(MAMBA2).to_checkpoint()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: x.contiguous() for name, x in weights.items()}, folder / "model.safetensors")
    shutil.copy(BUNDLED / "tiny-causal" / "tokenizer.json", folder)
    return folder


def document(loaded: jrtcli.checkpoint.Loaded, tokens: int) -> str:
    """Numbered facts, as many as make about so many tokens."""
    draw = random.Random(0)
    lines: list[str] = []
    while len(loaded.tokenizer.encode("\n".join(lines), first=True)) < tokens:
        lines += [f"Station {len(lines) + i}: level {draw.randrange(1000)} mm." for i in range(10)]
    return "\n".join(lines)


def now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def since(started: tuple[float, float]) -> tuple[float, float]:
    clock, processor = now()
    return clock - started[0], processor - started[1]


def one_by_one(reader: Reader, text: str, questions: list[str], state: Path | None, new: int) -> Run:
    started = now()
    source, read = text, 0
    if state is not None:
        shared = reader.read(text)
        save_state(state, shared)
        source, read = load_state(state, reader.loaded), shared.tokens
    answers = []
    for question in questions:
        asking = reader.ask(source, question, max_new_tokens=new)
        for _ in asking:
            pass
        read += asking.answer.read_tokens
        answers.append(asking.answer.token_ids)
    name = "without a state" if state is None else "from a state, one by one"
    return Run(name, since(started), read, answers)


def in_one_batch(reader: Reader, text: str, questions: list[str], new: int) -> Run:
    started = now()
    shared = reader.read(text)
    batch = Batch(reader, max_new_tokens=new)
    found = dict(batch.run((i, reader.prepare(shared, q)) for i, q in enumerate(questions)))
    for answer in found.values():
        if isinstance(answer, Exception):
            raise answer
    answers = [found[i] for i in range(len(questions))]
    read = shared.tokens + sum(answer.read_tokens for answer in answers)
    return Run("from a state, in one batch", since(started), read, [answer.token_ids for answer in answers])


def measure(model: str, template: str, count: int, tokens: int, new: int, folder: Path) -> None:
    loaded = jrtcli.load(model)
    text = document(loaded, tokens)
    questions = [f"What is the level at station {7 * i % 200}?" for i in range(count)]
    reader = Reader(loaded, template=template, window=0)
    list(reader.ask(text[:500], "Warm?", max_new_tokens=2))
    runs = [
        one_by_one(reader, text, questions, None, new),
        one_by_one(reader, text, questions, folder / f"{template}.state", new),
        in_one_batch(reader, text, questions, new),
    ]
    first = runs[0]
    for run in runs:
        same = sum(a == b for a, b in zip(run.answers, first.answers, strict=True))
        print(
            f"{loaded.identity.name:<12} {template:<5} {run.name:<27} {run.read_tokens:>9,} tokens read"
            f" {first.read_tokens / run.read_tokens:>7.1f}x {run.seconds[0]:>8.2f} s"
            f" {run.seconds[1]:>8.2f} s of CPU {first.seconds[1] / run.seconds[1]:>6.1f}x"
            f"   answers equal {same} of {count}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", action="append", help="Default: tiny-causal, and one of random weights.")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=4000, help="Of the document.")
    parser.add_argument("--max-new-tokens", type=int, default=8)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        models = asked.model or ["tiny-causal", str(random_checkpoint(folder / "mamba2-4m"))]
        name, threads = processor()[0], torch.get_num_threads()
        size = f"{asked.questions} questions, a document of about {asked.tokens:,} tokens"
        print(f"{size}; {name}, threads {threads}", flush=True)
        for model in models:
            for template in ("cqcq", "ccq"):
                measure(model, template, asked.questions, asked.tokens, asked.max_new_tokens, folder)


if __name__ == "__main__":
    main()
