"""`jrt ask`: documents and questions in, answers on stdout, their recall reports on stderr."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jrtcli import known
from jrtcli.commands import options
from jrtcli.commands.ask_session import Session
from jrtcli.commands.compiling import say_when_compiling
from jrtcli.console import Console
from jrtcli.document import About, describe
from jrtcli.errors import DocumentError, UsageError
from jrtcli.fill import WAYS
from jrtcli.questions import Question, read_questions
from jrtcli.source import Document, join, read_document
from jrtcli.state_cache import StateCache
from jrtcli.state_file import read_file

if TYPE_CHECKING:
    from jrtcli.checkpoint import Loaded
    from jrtcli.reader import Reader
    from jrtcli.rereading import Again

Golds = Annotated[
    list[str] | None,
    typer.Option("--answer", "-a", metavar="GOLD", help="The right answer, to score recall."),
]
Compare = Annotated[
    bool,
    typer.Option(
        "--compare",
        help="Once, question first, twice: side by side; with --template or --reads once and N times.",
    ),
]
ORDERS = ("cq", "qcq", "cqcq")
"""The orders of reading that --compare shows."""
State = Annotated[
    str | None,
    typer.Option(
        "--state",
        metavar="FILE",
        help="Go on from what `jrt read` saved of a document, with its model and template unless named here.",
    ),
]
QuestionsFile = Annotated[
    str | None,
    typer.Option(
        "--questions", metavar="FILE", help="Questions, one a line, or JSON lines with gold answers; - stdin."
    ),
]
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Neither look for what was read before, nor keep it.")
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="A short name (see `jrt models`), a hub id, or a folder. Default: tiny."
    ),
]


def ask(
    doc: options.Documents = None,
    question: options.Questions = None,
    answer: Golds = None,
    state: State = None,
    questions: QuestionsFile = None,
    model: Model = None,
    template: options.Template = None,
    reads: options.ReadsOrAuto = None,
    fill: options.Fill = "twice",
    window: options.Window = None,
    compare: Compare = False,
    max_new_tokens: options.MaxNewTokens = 48,
    temperature: options.Temperature = 0.0,
    seed: options.Seed = 0,
    no_cache: NoCache = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    tokenizer: options.Tokenizer = None,
    revision: options.Revision = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    weights: options.Weights = "auto",
    backend: options.Backend = "auto",
) -> int:
    """Answer questions about documents with a recurrent model, and report how well it recalled.

    The answer is all that stdout holds; the report goes to stderr. Several questions are answered in one
    batch, from one reading, in the order asked.

    --reads auto answers after one reading, and where the answer is unsure (a token hardly ahead of the next
    best, or an answer that is not in the document) reads on from there and answers again. `jrt eval
    --calibrate` finds what counts as unsure for a model.

    What templates such as cq, ccq and cqcq read before the question is kept for the next run in
    $XDG_CACHE_HOME/jrt/states, else ~/.cache/jrt/states: files of your own that hold the document's text and
    that nobody else may read. Documents of fewer than 512 tokens are not worth a file. JRT_STATE_QUOTA (2GB)
    is what they may take; what was not used for longest goes first, and 0 turns this off.
    """
    count, most = options.reads_or_auto(reads)
    if not doc and state is None:
        raise UsageError("no document: give one with --doc FILE, --doc - for stdin, or --state FILE")
    asked = _questions(question or [], answer or [], questions, "-" in (doc or []))
    if fill not in WAYS:
        raise UsageError(f"no --fill {fill!r}: choose {', '.join(WAYS)}")
    if compare and most is not None:
        raise UsageError("--compare shows each reading, --reads auto only the last one: leave one out")
    if compare and state is not None:
        raise UsageError("--compare reads in several orders, a --state was read in one: leave one out")
    about = None if state is None else describe(read_file(state, whole=False))
    document = read_documents(doc) if doc else None
    chosen = template_of(template)
    cache = None if no_cache or compare or about is not None else open_cache()
    console = Console(quiet=quiet)
    if about is not None:
        model, revision = of_state(about) if model is None else (model, revision)
        dtype = about.identity.dtype if dtype == "auto" else dtype
        weights = about.identity.weights if weights == "auto" else weights
        window = about.identity.window if window is None else window
        if chosen is None:
            chosen = about.order
            count = about.identity.reads if count is None and most is None else count
    loaded = load(
        console,
        options.DEFAULT_MODEL if model is None else model,
        device=device,
        dtype=dtype,
        backend=backend,
        weights=weights,
        revision=revision,
        tokenizer=tokenizer,
    )

    from jrtcli.course import first_reader
    from jrtcli.document import load_state
    from jrtcli.reader import Reader
    from jrtcli.reading import Reading

    settings: dict[str, Any] = {"fill": fill, "window": window, "temperature": temperature, "seed": seed}
    reader = Reader(loaded, template=chosen, reads=count, **settings)
    again = None if most is None else reread(reader, most)
    reader = reader if most is None else first_reader(reader)
    readers = _compared(reader, chosen, count, settings) if compare else [reader]
    saved = None if state is None else load_state(state, loaded, document=document)
    document = saved.document if document is None and saved is not None else document
    assert document is not None
    for one in asked:
        reader.prompt(document.text, one.text)
    reading = Reading(reader, document, state=saved, cache=cache, again=again)
    return Session(console, reading, readers, max_new_tokens, json=json).run(asked)


def reread(reader: Reader, most: int) -> Again:
    """When to read again, by the threshold of the reader's model. Raises UsageError, NotResumable."""
    from jrtcli.calibration import threshold_of
    from jrtcli.course import check
    from jrtcli.rereading import Again

    check(reader, most)
    threshold, calibrated = threshold_of(reader, most)
    return Again(most, threshold, calibrated)


def _compared(reader: Reader, chosen: Any, reads: int | None, settings: dict[str, Any]) -> list[Reader]:
    """The readers whose answers --compare shows, `reader` among them. Raises UsageError."""
    from jrtcli.reader import Reader

    template = reader.template
    if template.least_reads > 1:
        raise UsageError(
            f"--compare reads once first, but template {template.name} always reads"
            f" {template.least_reads} times: take --template cqcq"
        )
    if reads == 1:
        raise UsageError("--compare reads once and N times: give --reads 2 or more, or leave it out")
    if chosen is None and reads is None:
        names = dict.fromkeys([*ORDERS, template.name])
        others = {name: Reader(reader.loaded, template=name, **settings) for name in names}
        return [reader if name == template.name else others[name] for name in names]
    reader.reads = max(2, reads or template.default_reads)
    return [Reader(reader.loaded, template=template, reads=1, **settings), reader]


def of_state(about: About) -> tuple[str, str | None]:
    """The checkpoint that a state was read by, as --model and --revision would name it."""
    if about.source == "bundled":
        return about.identity.checkpoint, None
    return about.source, None if Path(about.source).is_dir() else about.identity.revision


def open_cache() -> StateCache | None:
    """The cache of states; None where its quota is 0."""
    cache = StateCache()
    return cache if cache.quota_bytes else None


def load(console: Console, model: str, **choices: Any) -> Loaded:
    """Load a checkpoint and its tokenizer, with a spinner unless the hub shows a progress bar of its own."""
    entry = known.find(model)
    local = Path(model).expanduser().is_dir() or (entry is not None and entry.bundled)
    with console.status(f"loading {model}") if local else nullcontext(), made_to_stay():
        # torch is imported here, so that what is wrong before costs no seconds.
        from jrtcli.checkpoint import load as load_checkpoint

        loaded = load_checkpoint(model, **choices)
        _ = loaded.tokenizer
    say_when_compiling(console)
    return loaded


@contextmanager
def made_to_stay() -> Iterator[None]:
    """Inside, no garbage is looked for, and what is made there is never looked through again.

    Importing torch and reading a tokenizer make a million objects that stay until the end: to go through them
    again and again takes a sixth of the time to the first token.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()


def _questions(
    questions: Sequence[str], answers: Sequence[str], file: str | None, stdin_is_taken: bool
) -> list[Question]:
    """The questions in the order asked, each with its gold answers."""
    if file == "-" and stdin_is_taken:
        raise UsageError("--doc - and --questions -: stdin can be read only once")
    if file is not None and (questions or answers):
        raise UsageError("--questions FILE has all questions: leave out --question and --answer")
    if file is not None:
        return read_questions(file)
    if not questions:
        raise UsageError("no question: give one with --question, or many with --questions FILE")
    for question in questions:
        if not question.strip():
            raise UsageError("a question is empty: say what to look for with --question")
    if len(questions) > 1 and answers and len(answers) != len(questions):
        raise UsageError(
            f"{len(answers)} --answer for {len(questions)} questions: give one each, in order, or none"
        )
    golds: list[tuple[str, ...]] = [(gold,) for gold in answers]
    if len(questions) == 1:
        golds = [tuple(answers)]
    elif not answers:
        golds = [() for _ in questions]
    return [
        Question(str(number), text, gold)
        for number, (text, gold) in enumerate(zip(questions, golds, strict=True), start=1)
    ]


def read_documents(sources: Sequence[str]) -> Document:
    """Files as one document; "-" is standard input. Raises DocumentError."""
    if list(sources).count("-") > 1:
        raise DocumentError("--doc -: stdin can be read only once")
    return join([read_document(source) for source in sources])


def template_of(name: str | None) -> Any:
    """The template asked for, so that a wrong name is said before a model is loaded."""
    if name is None:
        return None
    import jrt_prompts
    from jrtcli.errors import TemplateError

    try:
        return jrt_prompts.load_template(name)
    except jrt_prompts.TemplateError as error:
        raise TemplateError(str(error)) from None
