"""jrt as a library: what `jrt ask` does, step by step.

    python examples/python_api.py [MODEL] [DOCUMENT] [QUESTION]

MODEL is a short name, a hub id or a folder (default: the bundled model).
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import jrtcli
from jrt_prompts import load_template
from jrtcli.generate import generate
from jrtcli.metrics import score
from jrtcli.reader import Reader
from jrtcli.report import judge
from jrtcli.source import read_document
from jrtcli.tokens import encode_prompt

DOCUMENT = Path(__file__).parent / "device_summary.txt"
QUESTION = "What is the product code?"


def main(model: str = "tiny", document_path: str = str(DOCUMENT), question: str = QUESTION) -> None:
    # A checkpoint: the model, its tokenizer, and what it is.
    loaded = jrtcli.load(model, device="cpu")
    print(
        f"{loaded.identity.name}: {loaded.identity.architecture}, {loaded.identity.parameters:,} parameters"
    )

    # Logits of whole sequences, for training and scoring; or a state that goes on from where it stopped.
    tokens = torch.tensor([loaded.tokenizer.encode("The device is intended for", first=True)])
    whole = loaded.model(tokens)[:, -1]
    half = tokens.shape[1] // 2
    encoder = {"encoder_length": half} if loaded.model.has_encoder else {}
    _, state = loaded.model.prefill(tokens[:, :half], **encoder)
    logits, state = loaded.model.prefill(tokens[:, half:], state)
    if not encoder:
        print(f"read at once or in halves: logits differ by {float((whole - logits).abs().max()):.1e}")
    logits, state = loaded.model.step(logits[:, : loaded.real_tokens].argmax(-1), state)
    print(f"a state of {state.nbytes:,} bytes after {int(state.length)} tokens")

    # A prompt: a document and a question in the order of a template, as text and as ids.
    document = read_document(document_path)
    prompt = load_template("cqcq").render(document.text, question, reads=2)
    encoded = encode_prompt(prompt, loaded.tokenizer)
    print(
        f"{len(prompt.segments)} segments, {len(encoded.ids)} tokens, the document read {prompt.reads} times"
    )

    # Generation knows only ids.
    eos = loaded.tokenizer.eos_id
    steps = generate(
        loaded.model,
        encoded.ids,
        max_new_tokens=8,
        stop_ids=frozenset() if eos is None else frozenset([eos]),
        real_tokens=loaded.real_tokens,
    )
    print("ids:", [step.id for step in steps])

    # A reader puts it all together: tokens of the answer as they come, then what it took.
    reader = Reader(loaded)
    asking = reader.ask(document.text, question)
    for token in asking:
        print(token.text, end="", flush=True)
    print()
    answer = asking.answer
    print(f"confidence {answer.confidence}, first token after {answer.first_token_s:.2f} s")

    # Is it right, and where does it stand?
    print("scores:", score(answer.text, ["QZF"]))
    report = judge(answer, document, loaded)
    print(
        "evidence:", report.grounding.kind, [str(document.locate(*span)) for span in report.grounding.spans]
    )

    # Read a document once and ask many questions: with a template that shows the document first.
    reader = Reader(loaded, template="ccq")
    read = reader.read(document.text)
    print(f"{read.tokens} tokens read once in {read.seconds:.2f} s")
    for other in (question, "Who is the contact person?"):
        asking = reader.ask(read, other)
        print(
            other, "->", "".join(token.text for token in asking), f"({asking.answer.read_tokens} tokens more)"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
