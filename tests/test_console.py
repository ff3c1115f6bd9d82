"""What reaches the screen: nothing that acts on the terminal, whatever a document or a model says."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jrtcli.clean import Cleaner, clean, clean_line
from jrtcli.console import EXIT_PIPE_CLOSED, Console, dumps, run
from jrtcli.errors import JrtError, UsageError

HARMFUL = [
    "\x1b[2J",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x1b]52;c;ZXZpbA==\x07",
    "\x1b]8;;http://example.com\x1b\\link\x1b]8;;\x1b\\",
    "\x9b2J",
    "\x9d0;title\x9c",
    "\x1bP+q544e\x1b\\",
    "\x1bc",
    "\x07\x08\r\x00\x7f",
    "safe\u202eevil\u202c\u2066x\u2069",
    "\ud800",
    "\x1b",
    "\x1b[",
    "\x1b]0;never ends",
]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def is_harmless(text: str) -> bool:
    codes = [ord(c) for c in text]
    return not any(
        (c < 32 and c not in (9, 10))
        or 127 <= c < 160
        or 0x202A <= c <= 0x202E
        or 0x2066 <= c <= 0x2069
        or 0xD800 <= c <= 0xDFFF
        for c in codes
    )


@pytest.mark.parametrize("text", HARMFUL)
def test_nothing_that_acts_on_a_terminal_is_left(text: str) -> None:
    assert is_harmless(clean(f"before {text} after"))
    assert clean(f"before {text}").startswith("before ")


def test_whole_sequences_go_and_the_text_between_stays() -> None:
    assert (
        clean("\x1b[1;31mred\x1b[0m \x1b]0;title\x07and \x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\")
        == "red and link"
    )


def test_a_sequence_that_never_ends_hides_nothing() -> None:
    assert clean("\x1b]0;the answer is 7\nand more") == "]0;the answer is 7\nand more"
    assert "the answer" in clean("\x1b[" + "1;" * 50 + "the answer")


def test_newlines_tabs_and_other_scripts_stay() -> None:
    text = "a\tb\nñ 你好 🙂 مرحبا é"
    assert clean(text) == text


@given(st.text(alphabet=st.sampled_from("ab;0[]\\P\x1b\x07\x9b\x9c\x9d\n\u202e m"), max_size=40), st.data())
def test_cuts_between_chunks_do_not_matter(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    bounds = [0, *cuts, len(text)]
    cleaner = Cleaner()
    shown = "".join(cleaner.push(text[a:b]) for a, b in pairwise(bounds)) + cleaner.flush()
    assert shown == clean(text)
    assert is_harmless(shown)


def test_clean_line_is_one_line() -> None:
    assert clean_line("a\n b\r\n\tc\x1b[2K") == "a b c"


def test_markup_in_a_document_is_text() -> None:
    out, err = Terminal(), Terminal()
    console = Console(stdout=out, stderr=err)
    console.out("[red]x[/red] [link=http://evil]y[/link] :smile:")
    console.table(["a"], [["[bold]z[/bold]"]])
    console.note("[red]note[/red]")
    console.report([("[b]label", "[i]value[/i]")])
    assert "[red]x[/red] [link=http://evil]y[/link] :smile:" in out.getvalue()
    assert "[bold]z[/bold]" in out.getvalue()
    assert "http://evil\x1b" not in out.getvalue() and "\x1b]8" not in out.getvalue()
    assert "[red]note[/red]" in err.getvalue() and "[i]value[/i]" in err.getvalue()


def test_colours_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    pipe, terminal = io.StringIO(), Terminal()
    Console(stderr=pipe).warn("careful")
    Console(stderr=terminal).warn("careful")
    assert pipe.getvalue() == "warning: careful\n"
    assert "\x1b[" in terminal.getvalue()


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colour_when_asked(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv(name, value)
    terminal = Terminal()
    console = Console(stderr=terminal, stdout=terminal)
    console.warn("careful")
    console.table(["a", "b"], [["x", 1]])
    console.report([("model", [("tiny", "bold")])])
    assert "\x1b" not in terminal.getvalue()


def test_live_display_leaves_a_pipe_alone() -> None:
    pipe = io.StringIO()
    console = Console(stderr=pipe)
    with console.status("loading"), console.progress("reading", 10, unit="tokens") as bar:
        bar.update(5)
    assert pipe.getvalue() == ""


def test_progress_in_a_pipe_is_plain_lines() -> None:
    pipe = io.StringIO()
    with Console(stderr=pipe).progress("training", 10, unit="steps", every_s=0.0) as bar:
        bar.update(4, loss=1.25)
        bar.update(10, loss=0.5)
    assert pipe.getvalue() == "training 4/10 steps · loss 1.25\ntraining 10/10 steps · loss 0.5\n"


def test_quiet_keeps_errors() -> None:
    err = io.StringIO()
    console = Console(quiet=True, stderr=err)
    console.note("note")
    console.warn("warning")
    console.report([("a", "b")])
    console.table(["a"], [["b"]], error=True)
    assert err.getvalue() == ""
    console.error("wrong\nin two lines")
    assert err.getvalue() == "jrt: wrong in two lines\n"


def test_a_table_in_a_pipe_has_one_whole_line_per_row() -> None:
    pipe = io.StringIO()
    Console(stdout=pipe).table(["name", "size"], [["a" * 200, 1], ["two\nlines", 12]])
    lines = pipe.getvalue().splitlines()
    assert len(lines) == 3 and "a" * 200 in lines[1] and lines[2].startswith("two lines")


def test_a_narrow_terminal_does_without_the_columns_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(width: int) -> tuple[str, str]:
        monkeypatch.setenv("COLUMNS", str(width))
        out, err = Terminal(), io.StringIO()
        console = Console(stdout=out, stderr=err)
        console.table(["name", "size", "hub id"], [["mamba-130m", 1, "org/mamba-130m"]], droppable=["hub id"])
        return clean(out.getvalue()), err.getvalue()

    assert shown(80)[0].splitlines()[1].split() == ["mamba-130m", "1", "org/mamba-130m"]
    out, err = shown(31)
    assert out.splitlines()[1].split() == ["mamba-130m", "1"]
    assert err == "narrow terminal, without: hub id\n"


def test_an_answer_streams_cleaned_and_ends_its_line() -> None:
    pipe = io.StringIO()
    answer = Console(stdout=pipe).answer()
    answer.push("Acme \x1b[3")
    assert pipe.getvalue() == "Acme "
    answer.push("1mCorp\x1b")
    answer.end()
    assert pipe.getvalue() == "Acme Corp\n"


@given(st.text(alphabet=st.characters(), max_size=20) | st.sampled_from(HARMFUL[:-3]))
def test_json_is_exact_and_harmless(text: str) -> None:
    shown = dumps({"answer": text})
    assert json.loads(shown) == {"answer": text}
    assert is_harmless(shown)


@pytest.mark.parametrize(("error", "code"), [(JrtError("no such file"), 1), (UsageError("no question"), 2)])
def test_a_users_mistake_is_one_line(error: JrtError, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise error

    assert run(fail) == code
    captured = capsys.readouterr()
    assert captured.err == f"jrt: {error}\n" and captured.out == ""


def test_interrupted_is_130() -> None:
    def stop() -> int:
        raise KeyboardInterrupt

    assert run(stop) == 130


def test_a_closed_pipe_ends_it_quietly(root: Path) -> None:
    program = (
        "import sys; from jrtcli.console import Console, run\n"
        "def main():\n"
        "    for i in range(100000): Console().out('line %d' % i)\n"
        "sys.exit(run(main))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=root,
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(4) == b"line"
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(20) == EXIT_PIPE_CLOSED


@pytest.mark.skipif(sys.platform == "win32", reason="streams are closed by the shell")
@pytest.mark.parametrize(
    ("closed", "code", "said"),
    [
        (">&-", 1, "jrt: the output cannot be written: Bad file descriptor\n"),
        (">/dev/full", 1, "jrt: the output cannot be written: No space left on device\n"),
        (">&- 2>&-", 1, ""),
        (">/dev/full 2>/dev/full", 1, ""),
        (">/dev/null 2>&-", 0, ""),
    ],
)
def test_output_that_cannot_be_written_is_one_line(closed: str, code: int, said: str, root: Path) -> None:
    if "full" in closed and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    program = (
        "import sys; from jrtcli.console import Console, run\n"
        "def main():\n"
        "    Console().out('line'); Console().answer().push('said'); Console().note('note')\n"
        "sys.exit(run(main))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *command], capture_output=True, text=True, cwd=root, timeout=60
    )
    assert (done.returncode, done.stderr) == (code, said)


def test_a_file_that_fails_is_no_trouble_of_the_output() -> None:
    def broken() -> int:
        raise FileNotFoundError(2, "No such file", "x.toml")

    with pytest.raises(FileNotFoundError):
        run(broken)
