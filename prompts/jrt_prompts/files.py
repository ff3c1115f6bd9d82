"""Template files: the TOML format described in `prompts/README.md`, checked key by key."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from jrt_prompts.template import Kind, Part, PromptError, Template, TemplateError

_KINDS: tuple[Kind, ...] = ("context", "question", "cue", "text")
_TOP_KEYS = (
    "name", "description", "parts", "reads", "stop", "context_end", "question_capital", "question_trim",
)  # fmt: skip


def list_templates() -> list[str]:
    """The names of the built-in templates, sorted: the *.toml files beside this module."""
    files = resources.files("jrt_prompts").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def load_template(name_or_path: str | Path) -> Template:
    """The built-in template of that name, or the one in that TOML file.

    Raises TemplateError when there is none, or the file is not a correct template.
    """
    wanted = str(name_or_path)
    names = list_templates()
    if wanted in names:
        text = (resources.files("jrt_prompts") / f"{wanted}.toml").read_text(encoding="utf-8")
        return parse_template(text, f"{wanted}.toml")
    path = Path(wanted)
    if path.suffix != ".toml" and not path.is_file():
        near = difflib.get_close_matches(wanted, names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise TemplateError(
            f"no template {wanted!r}: {hint}built in are {', '.join(names)}; or give a .toml file"
        )
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise TemplateError(f"{wanted}: {error.strerror or error}") from None
    try:
        return parse_template(raw.decode("utf-8-sig"), wanted)
    except UnicodeDecodeError as error:
        raise TemplateError(f"{wanted}: not UTF-8 at byte {error.start}") from None


def parse_template(text: str, source: str) -> Template:
    """The template that a TOML document describes; `source` names it in errors and gives the default name."""
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise TemplateError(f"{source}: not TOML: {error}") from None
    _known_keys(data, _TOP_KEYS, source, "")
    parts = _parts(data, source)
    template = Template(
        name=_take(data, "name", str, Path(source).stem, source),
        description=_take(data, "description", str, "", source),
        parts=parts,
        stop=_stop(data, source),
        context_end=_take(data, "context_end", str, "", source),
        question_capital=_take(data, "question_capital", bool, False, source),
        question_trim=_take(data, "question_trim", str, "", source),
    )
    reads = _take(data, "reads", int, template.least_reads, source)
    try:
        template.check_reads(reads)
    except PromptError as error:
        raise TemplateError(f"{source}: key `reads`: {error}") from None
    return replace(template, default_reads=reads)


def _parts(data: Mapping[str, Any], source: str) -> tuple[Part, ...]:
    rows = _take(data, "parts", list, [], source)
    if not rows:
        raise TemplateError(f"{source}: key `parts` is missing or empty: it lists what the prompt shows")
    parts = tuple(_part(row, source, f"parts[{i}]") for i, row in enumerate(rows))
    once = {part.kind for part in parts if not part.again}
    for kinds, what in (({"context"}, "context"), ({"question", "cue"}, "question")):
        if not once & kinds:
            raise TemplateError(
                f"{source}: key `parts` has no `{what} = true` outside the `again` parts: a prompt needs one"
            )
    marked = [i for i, part in enumerate(parts) if part.again]
    if marked and marked != list(range(marked[0], marked[-1] + 1)):
        raise TemplateError(f"{source}: key `again`: the marked parts must stand side by side")
    if marked and sum(parts[i].kind == "context" for i in marked) != 1:
        raise TemplateError(f"{source}: key `again`: the marked parts must hold one `context = true`")
    return parts


def _part(row: object, source: str, where: str) -> Part:
    if not isinstance(row, dict):
        raise TemplateError(f"{source}: {where} must be a table such as {{ context = true }}")
    _known_keys(row, (*_KINDS, "again"), source, f"{where}.")
    kinds = [kind for kind in _KINDS if kind in row]
    if len(kinds) != 1:
        found = " and ".join(kinds) or "none"
        raise TemplateError(f"{source}: {where} needs exactly one of {', '.join(_KINDS)}; it has {found}")
    kind, again = kinds[0], _take(row, "again", bool, False, source, f"{where}.")
    if kind == "text":
        text = _take(row, "text", str, "", source, f"{where}.")
        if not text:
            raise TemplateError(f"{source}: key `{where}.text` is empty")
        return Part("text", text, again)
    if row[kind] is not True:
        raise TemplateError(f"{source}: key `{where}.{kind}` must be true, not {row[kind]!r}")
    return Part(kind, "", again)


def _stop(data: Mapping[str, Any], source: str) -> tuple[str, ...]:
    stop = _take(data, "stop", list, [], source)
    if not all(isinstance(item, str) and item for item in stop):
        raise TemplateError(f"{source}: key `stop` must be a list of strings that are not empty")
    return tuple(stop)


def _known_keys(row: Mapping[str, Any], known: tuple[str, ...], source: str, where: str) -> None:
    for key in row:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(known)}"
            raise TemplateError(f"{source}: unknown key `{where}{key}`; {hint}")


def _take(row: Mapping[str, Any], key: str, kind: type, default: Any, source: str, where: str = "") -> Any:
    """row[key], which must be of that TOML type (a bool is no int)."""
    value = row.get(key, default)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        names = {str: "a string", bool: "true or false", int: "a whole number", list: "a list"}
        raise TemplateError(f"{source}: key `{where}{key}` must be {names[kind]}, not {value!r}")
    return value
