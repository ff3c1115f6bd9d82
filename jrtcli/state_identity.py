"""What a document's state depends on: the model, the order of reading, the document and its tokens."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from jrt_prompts import Part, Template
from jrtcli import __version__
from jrtcli.errors import StateError

if TYPE_CHECKING:
    from jrtcli.checkpoint import Loaded


@dataclass(frozen=True)
class StateIdentity:
    """Everything that must be the same for a state to be what a fresh reading gives.

    weights: int8, or auto for those of `dtype`, as in files written before there was a choice.

    checkpoint: its name; revision: the commit of a hub snapshot. dtype: what the model computes in.
    template_sha256: of its parts, not of its name. window: tokens of a passage, 0 for none. part: which of
    the prompt's readings were read. tokens: of all passages together. state_dtype: of the floating tensors in
    the file. jrt: the version that read it.
    """

    checkpoint: str
    revision: str | None
    architecture: str
    weights_sha256: str
    config_sha256: str
    tokenizer_sha256: str
    dtype: str
    template: str
    template_sha256: str
    reads: int
    window: int
    part: str
    passages: int
    document_sha256: str
    tokens: int
    ids_sha256: str
    state_dtype: str
    jrt: str
    weights: str = "auto"

    @property
    def key(self) -> str:
        """SHA-256 of all of it: the name of its place in a cache."""
        return _sha256(json.dumps(asdict(self), sort_keys=True).encode())

    @classmethod
    def from_dict(cls, values: Any) -> StateIdentity:
        """Of what `dataclasses.asdict` gave. Raises TypeError, KeyError for anything else."""
        checked: dict[str, Any] = {}
        for field in fields(cls):
            if field.name == "weights" and field.name not in values:
                continue
            value = values[field.name]
            wanted = int if field.type == "int" else str
            if not (isinstance(value, wanted) or (value is None and field.name == "revision")):
                raise TypeError(f"{field.name} is {value!r}")
            checked[field.name] = value
        return cls(**checked)

    def check(self, now: Mapping[str, Any], where: str) -> None:
        """Raises StateError, naming both values, for the first of these facts that is another one.

        now: facts by their names here, as many as are known. where: what the message begins with.
        """
        for name, value in now.items():
            was = getattr(self, name)
            if was == value:
                continue
            label, remedy = _SAID.get(name, (name.replace("_", " "), ""))
            remedy = f"{remedy}, or {_AGAIN}" if remedy else _AGAIN
            raise StateError(
                f"{where}: {label} {_short(name, was)} in the state, {_short(name, value)} here: {remedy}"
            )


_AGAIN = "read the document again with `jrt read`"
_SAID = {
    "checkpoint": ("checkpoint", "name that one with --model"),
    "revision": ("revision", "name that one with --revision"),
    "weights_sha256": ("weights", ""),
    "config_sha256": ("config.json", ""),
    "tokenizer_sha256": ("tokenizer", "name that one with --tokenizer"),
    "dtype": ("dtype", "take that one with --dtype"),
    "weights": ("kind of weights", "take that one with --weights"),
    "template": ("template", "take that one with --template"),
    "template_sha256": ("content of the template", ""),
    "reads": ("readings", "take so many with --reads"),
    "window": ("window", "take that one with --window"),
    "part": ("part of the prompt", ""),
    "document_sha256": ("document", "give that one with --doc"),
    "ids_sha256": ("token ids", ""),
    "state_dtype": ("dtype of the state", ""),
}
"""Field -> what it is called in a message, and what to do but to read again."""


def _short(name: str, value: Any) -> str:
    if value is None:
        return "unknown"
    return str(value)[:12] if name.endswith("sha256") else str(value)


def model_facts(loaded: Loaded) -> dict[str, Any]:
    """The facts of a loaded checkpoint, and of this program."""
    identity = loaded.identity
    config = json.dumps(loaded.config, sort_keys=True, default=str)
    return {
        "jrt": __version__,
        "checkpoint": identity.name,
        "revision": identity.revision,
        "architecture": identity.architecture,
        "weights_sha256": identity.weights_sha256,
        "config_sha256": _sha256(config.encode()),
        "tokenizer_sha256": loaded.tokenizer.hash,
        "dtype": loaded.dtype,
        "weights": loaded.weights,
    }


def order_facts(template: Template, reads: int, window: int) -> dict[str, Any]:
    """The facts of an order of reading."""
    return {
        "template": template.name,
        "template_sha256": template_sha256(template),
        "reads": reads,
        "window": window,
    }


def text_sha256(text: str) -> str:
    """SHA-256 of a document's text in UTF-8."""
    return _sha256(text.encode("utf-8", "surrogatepass"))


def ids_sha256(ids: Sequence[int]) -> str:
    """SHA-256 of token ids as 64-bit numbers."""
    return _sha256(array("q", ids).tobytes())


_NOT_SHOWN = ("name", "description", "stop", "default_reads")


def template_sha256(template: Template) -> str:
    """SHA-256 of what decides a prompt's segments: not its name, the readings it takes
    where none are asked for, or the strings that end an answer."""
    shown = {k: v for k, v in asdict(template).items() if k not in _NOT_SHOWN}
    return _sha256(json.dumps(shown, sort_keys=True).encode())


def template_from_dict(values: Any) -> Template:
    """A template of what `dataclasses.asdict` gave. Raises TypeError, KeyError, ValueError."""
    parts = tuple(
        Part(_one_of(part["kind"]), _typed(part["text"], str), _typed(part["again"], bool))
        for part in values["parts"]
    )
    return Template(
        name=_typed(values["name"], str),
        description=_typed(values["description"], str),
        parts=parts,
        stop=tuple(_typed(stop, str) for stop in values["stop"]),
        default_reads=_typed(values["default_reads"], int),
        context_end=_typed(values["context_end"], str),
        question_capital=_typed(values["question_capital"], bool),
        question_trim=_typed(values["question_trim"], str),
    )


def _one_of(kind: Any) -> Any:
    if kind not in ("text", "context", "question", "cue"):
        raise ValueError(f"a part of kind {kind!r}")
    return kind


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
