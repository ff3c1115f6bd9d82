"""`jrt batch` against one `jrt ask` for each row, and against a plain transformers loop, on the same rows.

    OMP_NUM_THREADS=1 python examples/batch_throughput.py

A mamba with random weights in transformers' format, read by both programs from the same folder, with the same
prompts (template cqcq). `jrt ask` is started anew for each row, as a shell loop would, for the first rows
only; "loaded" is one process that has its model. Times are wall seconds, and CPU seconds beside them, as a
busy machine disturbs the first. Ends with an error unless all ways give the same answers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import jrtcli
from jrtcli.batch import Answerer, BatchSettings
from jrtcli.reader import Reader
from jrtcli.tokens import encode_prompt

WORDS = ["harbour", "lamp", "tower", "keeper", "dusk", "oil", "cloth", "boats", "rocks", "rain", "fog"]


def make_model(folder: Path, hidden: int, layers: int) -> Any:
    """A mamba of transformers with its own random weights, and a byte-level tokenizer beside it."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    config = transformers.MambaConfig(
        vocab_size=512,
        hidden_size=hidden,
        num_hidden_layers=layers,
        eos_token_id=0,
        bos_token_id=0,
        pad_token_id=0,
    )
    model = transformers.MambaForCausalLM(config).eval()
    with torch.no_grad():
        # The weights of a fresh model say the same for every prompt.
        model.get_input_embeddings().weight.normal_(std=0.5)
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS), "Question: Answer: what is the number of the"], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return model


def make_rows(documents: int, questions: int, words: int) -> list[dict[str, Any]]:
    """Documents of `words` words, each with so many questions."""
    draw = random.Random(0)
    rows = []
    for document in range(documents):
        text = " ".join(draw.choice(WORDS) for _ in range(draw.randrange(words // 2, words * 3 // 2)))
        for question in range(questions):
            asked = f"what is the number of the {draw.choice(WORDS)}"
            rows.append({"id": f"{document}.{question}", "context": text, "question": asked})
    return rows


def timed(run: Callable[[], Any], *, children: bool = False) -> tuple[Any, float, float]:
    """What `run` returns, its wall seconds and its CPU seconds."""
    who = resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF
    before, started = resource.getrusage(who), time.perf_counter()
    result = run()
    wall, after = time.perf_counter() - started, resource.getrusage(who)
    return result, wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=12)
    parser.add_argument("--questions", type=int, default=4, help="for each document")
    parser.add_argument("--words", type=int, default=300, help="of a document")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--ask-rows", type=int, default=4, help="rows that `jrt ask` is started for")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name), options)


def measure(work: Path, options: argparse.Namespace) -> None:
    """One line of JSON for each way."""
    folder, device, most = work / "model", options.device, options.new_tokens
    theirs = make_model(folder, options.hidden, options.layers).to(device)
    rows = make_rows(options.documents, options.questions, options.words)
    source, out = work / "rows.jsonl", work / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = jrtcli.load(folder, device=device, dtype="float32")
    reader = Reader(loaded, template="cqcq")
    shared = ["--model", str(folder), "--template", "cqcq", "--max-new-tokens", str(most), "--device", device]
    shared += ["--dtype", "float32"]
    program = [sys.executable, "-m", "jrtcli"]
    answers: dict[str, dict[str, str]] = {}
    print(json.dumps({"rows": len(rows), **vars(options), "parameters": loaded.identity.parameters}))
    print(
        json.dumps(
            {"torch": torch.__version__, "machine": platform.machine(), "python": platform.python_version()}
        )
    )

    def show(way: str, said: dict[str, str], wall: float, cpu: float) -> None:
        answers[way] = said
        count = len(said)
        each = {"rows": count, "s_per_row": round(wall / count, 4), "cpu_s_per_row": round(cpu / count, 4)}
        print(json.dumps({"way": way, **each, "rows_per_s": round(count / wall, 3)}), flush=True)

    def batch() -> None:
        subprocess.run([*program, "batch", str(source), "-o", str(out), "-q", *shared], check=True)

    _, wall, cpu = timed(batch, children=True)
    made = [json.loads(line) for line in out.read_text().splitlines()]
    show("jrt batch (from the shell)", {row["id"]: row["answer"] for row in made}, wall, cpu)

    def ask() -> dict[str, str]:
        said = {}
        for row in rows[: options.ask_rows]:
            document = work / "doc.txt"
            document.write_text(row["context"])
            asked = ["ask", "--doc", str(document), "--question", row["question"], "--json"]
            environment = {**os.environ, "XDG_CACHE_HOME": str(work / "cache")}
            done = subprocess.run(
                [*program, *asked, *shared], check=True, capture_output=True, env=environment
            )
            said[row["id"]] = json.loads(done.stdout)["answer"]
        return said

    show("one jrt ask a row (from the shell)", *timed(ask, children=True))

    answerer = Answerer(BatchSettings(template="cqcq", max_new_tokens=most), loaded=loaded)
    from jrtcli.records import RecordReader

    def in_process() -> dict[str, str]:
        return {row["id"]: row["answer"] for row in answerer.answer(RecordReader(source))}

    def one_by_one() -> dict[str, str]:
        said = {}
        for row in rows:
            asking = reader.ask(row["context"], row["question"], max_new_tokens=most)
            for _ in asking:
                pass
            said[row["id"]] = asking.answer.text
        return said

    def transformers_loop() -> dict[str, str]:
        said = {}
        for row in rows:
            prompt = encode_prompt(reader.prompt(row["context"], row["question"]), loaded.tokenizer)
            ids = torch.tensor([prompt.ids], device=device)
            with torch.no_grad():
                made = theirs.generate(
                    ids, max_new_tokens=most, do_sample=False, attention_mask=torch.ones_like(ids)
                )
            text = loaded.tokenizer.decode(made[0, len(prompt.ids) :].tolist())
            said[row["id"]] = text.lstrip().partition("\n")[0].strip()
        return said

    reader.read(rows[0]["context"])  # weights are reordered on first use
    show("jrt batch (loaded)", *timed(in_process))
    show("jrt ask (loaded), one row after the other", *timed(one_by_one))
    show("transformers (loaded), one row after the other", *timed(transformers_loop))
    first = answers["jrt batch (loaded)"]
    for way, said in answers.items():
        differing = [id for id, answer in said.items() if answer != first[id]]
        assert not differing, f"{way}: other answers to {differing}"
    print(json.dumps({"answers": "the same", "rows_at_once": answerer.batch.rows}))


if __name__ == "__main__":
    main()
