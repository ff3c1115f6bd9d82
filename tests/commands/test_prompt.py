"""`jrt prompt`: the prompt on stdout, the rest on stderr, and one line for what is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jrtcli.cli import main

DOCUMENT = "A. Applicant: Acme\tCo.\nB. Code: LCO {context}\n"


@pytest.fixture
def model(tmp_path: Path, root: Path) -> Path:
    """A checkpoint without weights: `jrt prompt` needs none."""
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(root / "jrtcli" / "bundled" / "tiny" / "tokenizer.json", folder)
    (folder / "config.json").write_text("{}")
    (folder / "jrt.json").write_text('{"template": "qcq", "context_tokens": 100}')
    return folder


@pytest.fixture
def doc(tmp_path: Path) -> Path:
    file = tmp_path / "doc.txt"
    file.write_text(DOCUMENT)
    return file


def test_the_prompt_is_all_that_stdout_holds(
    model: Path, doc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prompt", "--doc", str(doc), "--question", "the applicant", "--model", str(model)]) == 0
    out, err = capsys.readouterr()
    body = DOCUMENT.strip()
    assert out == f"Question: the applicant\n\n{body}\n\nQuestion: the applicant\nAnswer:\n"
    assert "template    qcq" in err
    assert "reads       1" in err
    assert " of 100 trained on" in err
    assert [line.split()[0] for line in err.splitlines()[1:8]] == [
        "text", "question", "text", "context", "text", "question", "text",
    ]  # fmt: skip
    assert "warning" not in err


def test_json_has_everything(model: Path, doc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["prompt", "-d", str(doc), "-Q", "code", "-m", str(model), "-t", "cqcq", "--json", "-q"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    row = json.loads(out)
    assert row["prompt"] == "".join(segment["text"] for segment in row["segments"])
    assert row["template"] == "cqcq" and row["reads"] == 2 and row["stop"] == ["\n"]
    assert row["prompt_tokens"] == len(row["ids"]) == sum(s["tokens"] for s in row["segments"])
    contexts = [s for s in row["segments"] if s["role"] == "context"]
    assert row["reading_ends"] == [s["first_token"] + s["tokens"] for s in contexts]
    # Both readings of the document are the same tokens.
    first, second = (row["ids"][s["first_token"] :][: s["tokens"]] for s in contexts)
    assert first == second
    assert row["documents"] == [str(doc)]
    assert row["trained_context_tokens"] == 100 and row["exceeds_context"] is False
    main(arguments)
    assert capsys.readouterr().out == out


def test_too_long_for_the_model(model: Path, doc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["prompt", "-d", str(doc), "-Q", "code", "-m", str(model), "--reads", "9"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert out.count("Applicant") == 9
    assert "reads       9" in err
    assert "warning: " in err and "more than the 100 that model was trained on" in err
    assert main([*arguments, "--json"]) == 0
    out, _ = capsys.readouterr()
    assert json.loads(out)["exceeds_context"] is True


def test_what_a_document_says_does_not_reach_the_terminal(
    model: Path, doc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    doc.write_text("red \x1b[31malert\x1b]0;title\x07 \u202eevil\u202c \x9b2J end")
    main(["prompt", "-d", str(doc), "-Q", "x\x1b[2J", "-m", str(model)])
    out, err = capsys.readouterr()
    assert "red alert evil  end" in out
    for character in "\x1b\x07\x9b\u202e\u202c":
        assert character not in out + err
    main(["prompt", "-d", str(doc), "-Q", "x", "-m", str(model), "--json"])
    out, _ = capsys.readouterr()
    assert json.loads(out)["segments"][3]["text"] == doc.read_text()
    assert "\x1b" not in out


def test_several_documents_and_a_template_of_ones_own(
    model: Path, doc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b.md").write_bytes(b"# second\r\n")
    template = tmp_path / "own.toml"
    template.write_text("parts = [{context = true}, {text = ' => '}, {question = true}]")
    arguments = ["prompt", "-d", str(doc), "-d", str(tmp_path / "b.md"), "-Q", "q", "-m", str(model)]
    assert main([*arguments, "-t", str(template)]) == 0
    out, err = capsys.readouterr()
    assert out == DOCUMENT + "\n# second => q\n"
    assert "template    own" in err and "the end of text only" in err


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"--doc": None}, 2, "no document: give one with --doc"),
        ({"--doc": "none.txt"}, 1, "none.txt: cannot be read: No such file or directory"),
        ({"--question": None}, 2, "give one --question"),
        ({"--question": " "}, 2, "the question is empty"),
        ({"--template": "cqcqq"}, 2, "no template 'cqcqq': did you mean cqcq?"),
        ({"--reads": "0"}, 2, "--reads"),
        ({"--reads": "65"}, 2, "reads must be a whole number from 1 to 64"),
        ({"--model": "no-such-model"}, 1, "no model 'no-such-model'"),
    ],
)
def test_one_line_for_a_mistake(
    model: Path,
    doc: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str | None],
    code: int,
    message: str,
) -> None:
    options = {"--doc": str(doc), "--question": "code", "--model": str(model), **change}
    arguments = [word for name, value in options.items() if value is not None for word in (name, value)]
    assert main(["prompt", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1 and err.startswith("jrt: ")


def test_no_weights_no_torch(model: Path) -> None:
    """From standard input, in a process of its own: torch stays out of it."""
    program = (
        "import sys\nfrom jrtcli.cli import main\n"
        f"code = main(['prompt', '-d', '-', '-Q', 'code', '-m', {str(model)!r}])\n"
        "assert 'torch' not in sys.modules\nraise SystemExit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=DOCUMENT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    assert done.stdout.startswith("Question: code\n\nA. Applicant")
