"""`jrt doctor`: what this machine has, which backends serve it, and whether a model keeps its laws."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jrtcli.commands import options
from jrtcli.commands.compiling import say_when_compiling
from jrtcli.console import Console
from jrtcli.errors import EXIT_DONE, EXIT_FAILED

if TYPE_CHECKING:
    from jrtcli.laws import Check
    from jrtcli.machine import Machine

Model = Annotated[
    str | None, typer.Option("--model", "-m", help="Check this model: a short name, hub id or folder.")
]


def doctor(
    model: Model = None,
    seed: options.Seed = 0,
    json: options.Json = False,
    quiet: options.Quiet = False,
    tokenizer: options.Tokenizer = None,
    revision: options.Revision = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    weights: options.Weights = "auto",
    backend: options.Backend = "auto",
) -> int:
    """Say what this machine has and which backends jrt uses on it.

    With --model, also read the same tokens with it at once, in pieces, alone and in batches, and print how
    much the results differ: they must not. The exit code is 1 if they do.
    """
    console = Console(quiet=quiet)
    with console.status("looking at this machine"):
        from jrtcli.machine import inspect

        machine = inspect()
    checks: list[Check] = []
    about: dict[str, Any] | None = None
    if model is not None:
        choices: dict[str, Any] = {"revision": revision, "device": device, "dtype": dtype, "backend": backend}
        choices |= {"weights": weights, "tokenizer": tokenizer}
        about, checks = _check(console, model, seed, choices)
    if json:
        console.json(
            {
                "machine": asdict(machine),
                "model": about,
                "checks": [{**asdict(check), "passed": check.passed} for check in checks],
            }
        )
    else:
        _show(console, machine)
        if about is not None:
            _show_checks(console, about, checks)
    return EXIT_DONE if all(check.passed for check in checks) else EXIT_FAILED


def _check(
    console: Console, name: str, seed: int, choices: dict[str, Any]
) -> tuple[dict[str, Any], list[Check]]:
    from jrtcli.checkpoint import load
    from jrtcli.laws import check

    with console.status(f"loading {name}"):
        loaded = load(name, **choices)
    say_when_compiling(console)
    with console.status("reading the same tokens in many ways"):
        checks = list(check(loaded.model, dtype=loaded.dtype, tokens=loaded.real_tokens, seed=seed))
    place = {
        "device": loaded.device,
        "dtype": loaded.dtype,
        "dtype_reason": loaded.dtype_reason,
        "weights": loaded.weights,
        "numbers": loaded.numbers,
        "backend": loaded.backend,
    }
    return {**asdict(loaded.identity), **place}, checks


def _show(console: Console, machine: Machine) -> None:
    features = ", ".join(machine.features) or "no vector instructions known to matter"
    gpus = ", ".join(f"{name} ({memory / 2**30:.0f} GiB)" for name, memory in machine.gpus)
    rows = [
        ("python", f"{machine.python} on {machine.platform}"),
        ("torch", f"{machine.torch}, {machine.threads} threads on {machine.cores} cores"),
        ("processor", f"{machine.processor} ({features})"),
        ("bfloat16", machine.bfloat16),
        ("float32", machine.float32),
        ("gpu", gpus or "none that this torch can use"),
        ("default", f"--device {machine.device} --dtype {machine.dtype}"),
    ]
    console.table(["machine", ""], rows)
    console.out()
    packages = [(p.name, p.version or "missing", f"jrt[{p.extra}]", p.purpose) for p in machine.packages]
    console.table(["optional package", "version", "extra", "for"], packages)
    console.out()
    console.table(
        ["architecture", "backend", "why"], [(b.architecture, b.backend, b.reason) for b in machine.backends]
    )
    console.out()
    if machine.install is None:
        console.out("Nothing of use here is missing.")
    else:
        console.out(f"To add what is missing and of use here:\n  {machine.install}")


def _show_checks(console: Console, about: dict[str, Any], checks: list[Check]) -> None:
    console.out()
    where = f"{about['device']}, {about['numbers']}, {about['backend']}"
    console.out(
        f"{about['name']} ({about['architecture']}) on {where}, against reading the same tokens at once:"
    )
    rows = [
        (
            check.law,
            check.way,
            f"{check.logits:.1e}",
            f"{check.state:.1e}",
            f"{check.tolerance:.0e}",
            "ok" if check.passed else "FAILED",
        )
        for check in checks
    ]
    console.out(f"{about['dtype']}: {about['dtype_reason']}")
    console.table(["law", "read", "logits differ", "state differs", "allowed", ""], rows)
    failed = sum(not check.passed for check in checks)
    if failed:
        console.error(
            f"{failed} of {len(checks)} checks failed: do not trust this model's answers on this machine"
        )
