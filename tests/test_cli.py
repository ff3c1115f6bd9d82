"""The program: help without torch, commands imported when they run, mistakes said in one line."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from jrtcli import __version__
from jrtcli.cli import COMMANDS, main


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, timeout=60)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    for name in COMMANDS:
        assert name in said


def test_no_arguments_are_a_call_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"jrt {name}" in capsys.readouterr().out


def test_help_needs_neither_torch_nor_a_command(root: Path) -> None:
    code = (
        "import sys; from jrtcli.cli import main; code = main(['--help'])\n"
        "names = ('torch', 'transformers', 'tokenizers', 'numpy')\n"
        "heavy = [n for n in sys.modules if n.split('.')[0] in names or n.startswith('jrtcli.commands')]\n"
        "print(heavy, file=sys.stderr); sys.exit(code)"
    )
    done = python("-c", code, cwd=root)
    assert done.returncode == 0 and done.stderr == "[]\n"


def test_help_is_quick(root: Path) -> None:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        assert python("-m", "jrtcli", "--help", cwd=root).returncode == 0
        times.append(time.perf_counter() - start)
        if times[-1] < 0.6:
            return
    # CPU seconds do not depend on what else this machine does, wall seconds do.
    import os

    before = os.times().children_user
    python("-m", "jrtcli", "--help", cwd=root)
    assert os.times().children_user - before < 0.6, times


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"jrt {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope"], "No such command"),
        (["akt"], "Did you mean 'ask'"),
        (["--nope"], "No such option"),
        (["ask", "--nope"], "No such option"),
        (["ask", "--reads", "zero"], "--reads"),
        (["ask", "--reads", "0"], "--reads 0: give a whole number from 1"),
        (["ask", "--seed", "99999999999999999999"], "--seed"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err and captured.err.count("\n") == 1 and captured.err.startswith("jrt: ")


def test_a_commands_errors_need_no_torch(root: Path) -> None:
    code = "import sys; from jrtcli.cli import main; main(['ask']); sys.exit('torch' in sys.modules)"
    assert python("-c", code, cwd=root).returncode == 0


def test_interrupted_while_the_program_is_imported(root: Path) -> None:
    code = (
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'rich.live': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from jrtcli.__main__ import main; sys.exit(main())"
    )
    done = python("-c", code, cwd=root)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
