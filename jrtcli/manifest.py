"""The manifest beside an output file: what its answers depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jrtcli import __version__
from jrtcli.whole_file import write_json

FORM = 1


def manifest_path(out: Path | str) -> Path:
    """OUT.jsonl -> OUT.jsonl.run.json, beside it."""
    out = Path(out)
    return out.with_name(f"{out.name}.run.json")


def run_hash(run: Mapping[str, Any]) -> str:
    """16 hex digits of a run's configuration: what each of its rows carries."""
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:16]


def read_manifest(out: Path | str) -> dict[str, Any] | None:
    """The manifest of an output: {"jrt_batch", "jrt", "run", ...}; None where there is no readable one."""
    try:
        manifest = json.loads(manifest_path(out).read_bytes())
        return manifest if isinstance(manifest["run"], dict) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def write_manifest(out: Path, run: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write the manifest of an output, whole or not at all. Raises JrtError."""
    path = manifest_path(out)
    manifest = {"jrt_batch": FORM, "jrt": __version__, "run_hash": run_hash(run), "run": run, **about}
    write_json(path, manifest)


def differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What two configurations do not share, as `name: value there, value now`."""
    names = [name for name in {**there, **now} if there.get(name) != now.get(name)]
    return [f"{name} {_shown(there.get(name))} there, {_shown(now.get(name))} now" for name in names]


def _shown(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
