"""The rules of the house that a program can check: floors, names, tables, nothing done at import."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"jrtcli": ROOT, "jrt_kernels": ROOT / "kernels", "jrt_prompts": ROOT / "prompts"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# A module stands where its longest listed prefix stands; one of jrtcli that is not listed stands on floor 2.
FLOORS = {
    "jrt_kernels": 0,
    "jrt_prompts": 0,
    "jrtcli.errors": 0,
    "jrtcli.decoding": 1,
    "jrtcli.models": 1,
    "jrtcli.state": 1,
    "jrtcli.batch": 3,
    "jrtcli.bench": 3,
    "jrtcli.evaluate": 3,
    "jrtcli.completion": 3,
    "jrtcli.lm_eval_model": 4,  # the front of another program, which sets variables when it is imported
    "jrtcli.perplexity": 3,
    "jrtcli.perplexity_figure": 3,
    "jrtcli.probe": 3,
    "jrtcli.tasks": 3,
    "jrtcli.ray_engine": 3,
    "jrtcli.train": 3,
    "jrtcli.worker": 3,
    "jrtcli.workers": 3,
    "jrtcli.__main__": 4,
    "jrtcli.cli": 4,
    "jrtcli.commands": 4,
    "jrtcli.console": 4,
}
FRONT = "jrtcli"  # the package's __init__: it reaches down to the checkpoints, on use
# third-party module -> where it may be imported (a regular expression over dotted names)
ONLY_IN = {
    "typer": r"jrtcli\.(cli|commands)(\..*)?",
    "click": r"jrtcli\.(cli|commands)(\..*)?",
    "rich": r"jrtcli\.console",
    "accelerate": r"jrtcli\.train\.loop",
    "lm_eval": r"jrtcli\.lm_eval_model",
    "ray": r"jrtcli\.ray_(engine|actor)",
    "triton": r"jrt_kernels\..*\.triton(_\w+)?",
    "numba": r"jrt_kernels\.(jit\..*|.*\.numba)",
    "llvmlite": r"jrt_kernels\.jit\.(lanes|together|packing|tiles)",
    "fla": r"jrt_kernels\..*\.fla|jrtcli\.bench\.attention",
    "mamba_ssm": r"jrt_kernels\..*\.mamba_ssm",
}
# floor of a module -> third-party modules that its code may import besides those of ONLY_IN
ALLOWED = {
    "jrt_prompts": set(),
    "jrt_kernels": {"torch", "numpy"},
    "jrtcli.errors": set(),
    "jrtcli.decoding": {"torch"},
    "jrtcli.models": {"torch"},
    "jrtcli.state": {"torch"},
}


def _modules() -> dict[str, Path]:
    """dotted name -> file, for everything that is shipped."""
    found = {}
    for package, root in PACKAGES.items():
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}
every_module = pytest.mark.parametrize("name", MODULES)


def _floor(name: str) -> int:
    parts = name.split(".")
    prefixes = [".".join(parts[:size]) for size in range(len(parts), 0, -1)]
    return next((FLOORS[prefix] for prefix in prefixes if prefix in FLOORS), 4 if name == FRONT else 2)


def _imports(name: str) -> Iterator[str]:
    """Dotted names that a module imports anywhere: at its top, in a function, for type checking."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: relative import"
            assert node.module
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


@lru_cache
def _tree() -> tuple[Path, ...]:
    """Every file that is ours: nothing below hidden folders, build output and training runs."""
    found = []
    for folder, below, files in os.walk(ROOT):
        skip = ("build", "dist", "runs", "__pycache__")
        below[:] = [
            b for b in below if b not in skip and not b.startswith(".") and not b.endswith(".egg-info")
        ]
        found += [Path(folder) / name for name in files if name != ".git"]
    return tuple(sorted(found))


def _sources() -> list[Path]:
    return [path for path in _tree() if path.suffix == ".py"]


@every_module
def test_imports_go_down_only(name: str) -> None:
    for target in _imports(name):
        package = target.split(".")[0]
        if package not in PACKAGES:
            continue
        if name.startswith(("jrt_kernels", "jrt_prompts")):
            assert package == name.split(".")[0], f"{name} imports {target}"
        # The version is in the front: anyone may ask for it.
        assert target == FRONT or _floor(target) <= _floor(name), f"{name} imports {target}, from above"


@every_module
def test_third_party_imports_stand_where_they_may(name: str) -> None:
    prefix = next((p for p in ALLOWED if name == p or name.startswith(p + ".")), None)
    for target in _imports(name):
        top = target.split(".")[0]
        if top in sys.stdlib_module_names or top in PACKAGES:
            continue
        if top in ONLY_IN:
            assert re.fullmatch(ONLY_IN[top], name), f"{name} imports {top}"
        elif prefix is not None:
            assert top in ALLOWED[prefix], f"{name} imports {top}"
        elif top == "transformers":
            # Tokenizers, configurations and the hub are floor 2's; to be timed as a peer is another matter.
            assert _floor(name) == 2 or name == "jrtcli.bench.programs", f"{name} imports transformers"


def test_what_is_imported_is_declared() -> None:
    project = PROJECT["project"]
    extras = project["optional-dependencies"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[^A-Za-z0-9_-]", r)[0].lower().replace("_", "-") for r in requirements}

    shipped = names(project["dependencies"]).union(*(names(v) for k, v in extras.items() if k != "dev"))
    distributions = importlib.metadata.packages_distributions()
    missing = set()
    for path in _sources():
        is_shipped = path.relative_to(ROOT).parts[0] != "tests"
        declared = shipped if is_shipped else shipped | names(extras["dev"])
        for node in ast.walk(ast.parse(path.read_text())):
            targets = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                targets = [node.module]
            for top in {t.split(".")[0] for t in targets} - set(sys.stdlib_module_names) - set(PACKAGES):
                owners = {d.lower().replace("_", "-") for d in distributions.get(top, [top])}
                if not owners & declared and top not in ("mamba_ssm", "fla", "click"):
                    missing.add(f"{path.relative_to(ROOT)} imports {top}")
    assert not missing, "add to pyproject.toml: " + "; ".join(sorted(missing))


@every_module
def test_nothing_below_the_commands_prints_exits_or_reads_the_command_line(name: str) -> None:
    if _floor(name) == 4:
        return
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "input", "exit", "quit", "breakpoint"), (
                f"{name}:{node.lineno}"
            )
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sys":
            where = f"{name}:{node.lineno} uses sys.{node.attr}"
            assert node.attr not in ("argv", "exit", "stdout", "stderr"), where


@every_module
def test_no_global_state_and_no_optional_import(name: str) -> None:
    for node in ast.walk(TREES[name]):
        assert not isinstance(node, ast.Global), f"{name}:{node.lineno}: a global that changes"
    for node in TREES[name].body:
        if isinstance(node, ast.Try):
            tried = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
            assert not tried, f"{name}:{node.lineno}: an import that may fail silently"


@every_module
def test_a_docstring_says_what_the_file_owns(name: str) -> None:
    assert ast.get_docstring(TREES[name]), f"{MODULES[name]} has no docstring"


def test_file_lengths() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in _sources()}
    assert not {name: size for name, size in lengths.items() if size >= 500}


def test_file_names() -> None:
    for path in _sources():
        assert not set(path.stem.split("_")) & {"utils", "util", "helpers", "helper", "common", "manager"}, (
            path
        )
    for folder in ("kernels", "prompts"):
        assert not (ROOT / folder / "__init__.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))
    tests = [p.name for p in (ROOT / "tests").rglob("test_*.py")]
    assert len(tests) == len(set(tests)), "test files need names of their own: there are no packages here"


def test_tables_resolve() -> None:
    from jrt_kernels.registry import OPS
    from jrtcli.models import ARCHITECTURES

    entries = {e for backends in OPS.values() for e in backends.values()} | set(ARCHITECTURES.values())
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                entries |= set(re.findall(r"^(?:jrtcli|jrt_kernels|jrt_prompts)\.[\w.]+:\w+$", node.value))
    for entry in sorted(entries):
        module, attribute = entry.split(":")
        assert hasattr(importlib.import_module(module), attribute), entry


def test_every_metric_is_a_function() -> None:
    from jrtcli.metrics import METRICS

    for name, metric in METRICS.items():
        if isinstance(metric, str):
            module, attribute = metric.split(":")
            metric = getattr(importlib.import_module(module), attribute)
        assert callable(metric), name


def _python(code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    # Only what the interpreter needs: an inherited PYTHONPATH would decide the question that is asked.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    command = [sys.executable, *flags, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_nothing_happens_at_import() -> None:
    low = [name for name in MODULES if _floor(name) <= 3]
    code = f"""
import importlib, os
before = dict(os.environ)
for name in {low!r}:
    importlib.import_module(name)
    changed = {{k for k in before.keys() | os.environ.keys() if before.get(k) != os.environ.get(k)}}
    assert not changed, (name, changed)
import torch
assert not torch.cuda.is_initialized()
"""
    done = _python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and done.stderr == ""


def test_the_front_door_is_light() -> None:
    heavy = ["torch", "transformers", "accelerate", "numpy", "safetensors", "tokenizers", "huggingface_hub"]
    done = _python(f"import sys, jrtcli.cli; print([m for m in {heavy!r} if m in sys.modules])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("flags", [(), ("-P",)], ids=["plain", "safe_path"])
def test_the_kernels_folder_does_not_shadow_the_package_of_that_name(flags: tuple[str, ...]) -> None:
    code = """
import importlib.util
from transformers import AutoTokenizer
from transformers.integrations import hub_kernels  # what imports the package, where it is installed
spec = importlib.util.find_spec("kernels")
# Without -P the folder is visible as a namespace (no file of its own): it is never a package.
assert spec is None or spec.origin is None or "site-packages" in spec.origin
import jrt_kernels, jrt_prompts
assert jrt_kernels.__file__.endswith("kernels/jrt_kernels/__init__.py")
"""
    done = _python(code, *flags)
    assert done.returncode == 0, done.stderr


def test_source_roots_are_set_everywhere() -> None:
    roots = [".", "kernels", "prompts"]
    find = PROJECT["tool"]["setuptools"]["packages"]["find"]
    assert find["where"] == roots
    assert find["include"] == [f"{package}*" for package in PACKAGES]
    assert find["namespaces"] is False
    pytest_options = PROJECT["tool"]["pytest"]["ini_options"]
    assert pytest_options["pythonpath"] == roots
    assert "--import-mode=importlib" in pytest_options["addopts"]
    assert PROJECT["tool"]["mypy"]["mypy_path"] == roots
    assert "transformers>=5.10.1" in PROJECT["project"]["dependencies"]


def test_no_path_of_a_developers_machine() -> None:
    private = re.compile(r"(?<![\w.~-])/(?:" + "|".join(("work", "root")) + r")/")
    suffixes = {".py", ".md", ".toml", ".txt", ".sh", ".json", ".cfg", ".in", ""}
    for path in _tree():
        if path.suffix in suffixes and path.stat().st_size < 2_000_000:
            found = private.search(path.read_text(errors="replace"))
            assert found is None, f"{path.relative_to(ROOT)} names {found}"
