"""A line of JSON, read strictly: what most readers let pass in silence is an error here."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


class Wrong(Exception):
    """Why a line is no row. kind: one word; the message never shows what the line holds."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def parse(data: bytes) -> dict[str, Any]:
    """The object that a line is. Raises Wrong, also for NaN, numbers that JSON cannot hold, a field that
    stands twice, and NUL."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Wrong(
            "not_utf8", f"byte {error.start} of the line (0x{data[error.start]:02x}) is no UTF-8"
        ) from None
    if "\0" in text:
        raise Wrong("bad_json", f"a NUL at character {text.index(chr(0)) + 1} of the line")
    try:
        row = json.loads(text, parse_constant=_no_number, parse_float=_float, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        # Of the message only what says what was expected: the rest may quote the line.
        raise Wrong(
            "bad_json", f"{error.msg.split(':')[0]} at character {error.pos + 1} of the line"
        ) from None
    except RecursionError:
        raise Wrong("bad_json", "lists or objects are nested too deeply") from None
    except ValueError:  # a whole number of more digits than Python reads
        raise Wrong("bad_json", "a number is too long") from None
    if not isinstance(row, dict):
        raise Wrong("not_an_object", f"the row is {kind_of(row)}, not an object")
    return row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Wrong("bad_json", "a field stands twice in one object")
    return made


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise Wrong("bad_json", "a number is too large")
    return value


def _no_number(name: str) -> NoReturn:
    raise Wrong("bad_json", f"{name} is no JSON")


def kind_of(value: Any) -> str:
    """What a value is, in words."""
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
