"""DocumentState: what a model remembers of a document, from which many questions go on; saved and loaded.

    state = Reader(jrtcli.load("tiny-causal"), template="ccq").read("...")
    save_state("doc.state", state)
    state = load_state("doc.state", jrtcli.load("tiny-causal"))  # checked, or a StateError

A state file holds the document's text too, to look for answers in it; only its owner may read it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jrtcli.errors import StateError
from jrtcli.source import Document, Piece
from jrtcli.state_file import ForeignFile, StateFile, read_file, sealed, write_file
from jrtcli.state_identity import (
    StateIdentity,
    ids_sha256,
    model_facts,
    template_from_dict,
    text_sha256,
)

if TYPE_CHECKING:
    from torch import Tensor

    from jrt_prompts import Template
    from jrtcli.checkpoint import Loaded
    from jrtcli.state import State

STATE_DTYPES = ("float32", "bfloat16", "float16")
"""What the floating tensors of a state file may be. Only float32 gives exactly the answers of a fresh run."""


@dataclass(frozen=True)
class DocumentState:
    """A document that was read up to its first question.

    context: its text. ids: the tokens read, which every later prompt must begin with; of a document read in
    passages those of all passages, one after the other. template, reads: the order they were rendered in.
    state: the model's memory, one row for each passage. seconds: what the reading took. identity: all that
    the state depends on; None: not known, and not checked. order: the template itself. pieces: the files the
    text came from, none: it came as it is. source: of the checkpoint (jrtcli.checkpoint.Identity). origin:
    the file it was loaded from.
    """

    context: str
    ids: tuple[int, ...]
    template: str
    reads: int
    state: State
    seconds: float
    identity: StateIdentity | None = None
    order: Template | None = None
    pieces: tuple[Piece, ...] = ()
    source: str = ""
    origin: str | None = None

    @property
    def tokens(self) -> int:
        """Tokens read, of all passages together."""
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Bytes of the state."""
        return self.state.nbytes

    @property
    def document(self) -> Document:
        """The text with its files, lines and pages."""
        return Document(self.context, self.pieces or (Piece("text"),))

    @property
    def passages(self) -> list[tuple[tuple[int, ...], State]]:
        """The tokens and the state (one row) of each passage; of a document read whole, one."""
        if len(self.state) == 1:
            return [(self.ids, self.state)]
        found, start = [], 0
        for row, length in enumerate(self.state.length.tolist()):
            found.append((self.ids[start : start + length], self.state.select([row])))
            start += length
        return found


def save_state(path: str | Path, state: DocumentState, *, dtype: str = "float32") -> int:
    """Write a document's state to a file of mode 0600, whole or not at all. Returns its bytes.

    dtype: of STATE_DTYPES, for the floating tensors; less than float32 is smaller and no longer exact. A
    file that is there is replaced only if it is a state too. Raises StateError.
    """
    path = Path(path)
    check_place(path)
    try:
        return write_file(path, state_bytes(state, dtype))
    except OSError as error:
        raise StateError(f"{path}: cannot be written: {error.strerror or error}") from None


def check_place(path: Path) -> None:
    """Raises StateError where no state may be written: over a file of another kind, or in no folder."""
    if not path.parent.is_dir():
        raise StateError(f"{path}: cannot be written: there is no folder {path.parent}")
    if not path.exists():
        return
    try:
        read_file(path, whole=False)
    except ForeignFile:
        raise StateError(
            f"{path}: is there and is not a document's state: name another file, or remove it"
        ) from None
    except StateError:
        pass  # a state that was cut off or damaged


def state_bytes(state: DocumentState, dtype: str = "float32") -> list[bytes | memoryview]:
    """The bytes of a state's file. Raises StateError for a state that does not fit into `dtype`."""
    import torch

    if dtype not in STATE_DTYPES:
        raise StateError(f"no dtype {dtype!r} for a state: choose {', '.join(STATE_DTYPES)}")
    if state.identity is None or state.order is None:
        raise StateError("this state does not say what it was read with: take one of Reader.read")
    if state.identity.state_dtype not in ("float32", dtype):
        raise StateError(
            f"this state was saved in {state.identity.state_dtype} and is no better: save it so again"
        )
    moved = state.state.to("cpu", getattr(torch, dtype))
    tensors = {f"layers.{i}.{name}": x for i, layer in enumerate(moved.layers) for name, x in layer.items()}
    for layer, original in zip(moved.layers, state.state.layers, strict=True):
        if any(bool((x.isinf() & ~original[name].cpu().isinf()).any()) for name, x in layer.items()):
            raise StateError(f"the state's numbers do not fit into {dtype}: take float32 or bfloat16")
    tensors["length"] = moved.length
    tensors["ids"] = torch.tensor(state.ids, dtype=torch.int64)
    text = state.context.encode("utf-8", "surrogatepass")
    tensors["text"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    identity = replace(state.identity, state_dtype=dtype)
    facts = {
        "identity": asdict(identity),
        "template": asdict(state.order),
        "pieces": [asdict(piece) for piece in state.document.pieces],
        "source": state.source,
        "seconds": state.seconds,
        "time": time.time(),
    }
    return sealed(tensors, facts)


def load_state(path: str | Path, loaded: Loaded, *, document: Document | None = None) -> DocumentState:
    """A saved state, checked: the file whole and unchanged, read by this model, tokenizer and version of jrt.

    document: the text it must be of, if given. The order of reading is checked where the state is asked
    (Reader.prepare). Raises StateError that names the first thing which differs, and both values.
    """
    return state_of(read_file(path), loaded, document=document)


def state_of(file: StateFile, loaded: Loaded, *, document: Document | None = None) -> DocumentState:
    """The state in a file that was read. Raises as `load_state`."""
    about = describe(file)
    about.identity.check(model_facts(loaded), file.name)
    tensors = file.load()
    wrong = StateError(f"{file.name}: is damaged: its tensors are not those of {loaded.identity.name}")
    stored = {f"torch.{about.identity.state_dtype}"}
    if {str(x.dtype) for x in tensors.values() if x.is_floating_point()} - stored:
        raise wrong
    try:
        ids = tuple(tensors.pop("ids").tolist())
        context = tensors.pop("text").numpy().tobytes().decode("utf-8", "surrogatepass")
        state = _state(tensors, loaded)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError):
        raise wrong from None
    inside = {"document_sha256": text_sha256(context), "ids_sha256": ids_sha256(ids), "tokens": len(ids)}
    about.identity.check(inside | {"passages": len(state)}, file.name)
    if int(state.length.sum()) != len(ids) or int(state.length.min()) < 1:
        raise wrong
    if document is not None and document.text != context:
        was, now = about.identity.document_sha256[:12], text_sha256(document.text)[:12]
        raise StateError(
            f"{file.name}: document {about.name} ({was}) in the state, {document.name} ({now}) here:"
            " give that one with --doc, or read the document again with `jrt read`"
        )
    return DocumentState(
        context,
        ids,
        about.identity.template,
        about.identity.reads,
        state,
        about.seconds,
        about.identity,
        about.order,
        about.pieces if document is None else document.pieces,
        about.source,
        file.name,
    )


@dataclass(frozen=True)
class About:
    """What the header of a state file says. time: when it was written, seconds since 1970."""

    identity: StateIdentity
    order: Template
    pieces: tuple[Piece, ...]
    source: str
    seconds: float
    time: float

    @property
    def name(self) -> str:
        """The names of the document's files."""
        return ", ".join(piece.name for piece in self.pieces)


def describe(file: StateFile) -> About:
    """The facts of a state file, no tensor read. Raises StateError where they are not all there."""
    facts: Mapping[str, Any] = file.facts
    try:
        return About(
            StateIdentity.from_dict(facts["identity"]),
            template_from_dict(facts["template"]),
            tuple(_piece(piece) for piece in facts["pieces"]),
            str(facts["source"]),
            float(facts["seconds"]),
            float(facts["time"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise StateError(f"{file.name}: is damaged: its header does not say what it was read with") from None


def _piece(values: Mapping[str, Any]) -> Piece:
    pages = tuple(int(page) for page in values["pages"])
    return Piece(str(values["name"]), int(values["start"]), pages, bool(values["converted"]))


def _state(tensors: dict[str, Tensor], loaded: Loaded) -> State:
    """The tensors of a file as the model's state, on its device. Raises KeyError, ValueError."""
    from jrtcli.state import State

    length = tensors.pop("length")
    rows = length.shape[0]
    layers = []
    for i, like in enumerate(loaded.model.init_state(1).layers):
        layer = {}
        for name, x in like.items():
            found = tensors.pop(f"layers.{i}.{name}")
            # A cache that grows with what was read is empty at first.
            grows = x.dim() > 1 and x.shape[1] == 0
            wanted = (rows, found.shape[1], *x.shape[2:]) if grows else (rows, *x.shape[1:])
            if tuple(found.shape) != tuple(wanted) or found.is_floating_point() != x.is_floating_point():
                raise ValueError(name)
            layer[name] = found.to(device=x.device, dtype=x.dtype)
        layers.append(layer)
    if tensors:
        raise ValueError("tensors that the model does not have")
    return State(layers, length.to(device=loaded.model.device, dtype=loaded.model.init_state(1).length.dtype))
