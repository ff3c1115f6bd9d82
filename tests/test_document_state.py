"""A document's state: its answer is that of a fresh run, and it is refused wherever it could be another."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import safe_open

import jrtcli
from jrt_prompts import Template, load_template, parse_template
from jrtcli import state_identity
from jrtcli.document import DocumentState, load_state, save_state
from jrtcli.errors import JrtError, NotResumable, StateError, UsageError
from jrtcli.reader import Reader
from jrtcli.source import Document, Piece, from_text


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


checkpoints = _load("state_checkpoints")
TEXT = checkpoints.tiny_checkpoint.TEXT
QUESTION = "Who is the contact person?"
TEMPLATES = ("cq", "cqcq", "ccq", "key-cq", "cloze-cq", "own")
OWN = """name = "own"
parts = [{ text = "Read this.\\n" }, { context = true, again = true }, { text = "\\n", again = true },
         { context = true }, { text = "\\nQ: " }, { question = true }, { text = "\\nA:" }]
reads = 3
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {kind: jrtcli.load(checkpoints.save(folder / kind, kind)) for kind in checkpoints.KINDS}


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return jrtcli.load(checkpoints.save(tmp_path_factory.mktemp("fixed") / "fixed", "jrt_rnn"))


def template(name: str) -> Template:
    """Without stop strings, so that random weights say something."""
    found = parse_template(OWN, "own.toml") if name == "own" else load_template(name)
    return replace(found, stop=())


def answers(reader: Reader, source: str | DocumentState, question: str = QUESTION) -> list[tuple[int, float]]:
    return [(token.id, token.probability) for token in reader.ask(source, question, max_new_tokens=4)]


@pytest.mark.parametrize("kind", checkpoints.KINDS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_from_a_saved_state_the_answer_is_that_of_a_fresh_run_to_the_last_bit(
    kind: str, name: str, loaded: dict[str, Any], tmp_path: Path
) -> None:
    model = loaded[kind]
    reader = Reader(model, template=template(name))
    if name == "cqcq" and model.model.has_encoder:
        with pytest.raises(NotResumable, match="template cq or ccq"):
            reader.read(TEXT)
        return
    for seed in range(2):
        text = checkpoints.text(seed)
        path = tmp_path / f"{seed}.state"
        save_state(path, reader.read(text))
        state = load_state(path, model)
        assert (state.context, state.tokens) == (text, len(state.ids))
        for question in (QUESTION, "When?"):
            assert answers(reader, text, question) == answers(reader, state, question)
        asking = reader.ask(state, QUESTION, max_new_tokens=1)
        list(asking)
        answer = asking.answer
        assert answer.reused_tokens == state.tokens
        assert answer.reused_tokens + answer.read_tokens == answer.prompt_tokens
        # As many readings as come before the question are not read again.
        assert (answer.read_tokens < state.tokens) == (name != "cqcq")


@pytest.mark.parametrize("kind", ["mamba2", "based-extras", "jrt_rnn-extras", "transformer"])
def test_a_document_read_in_passages_keeps_a_state_of_each(
    kind: str, loaded: dict[str, Any], tmp_path: Path
) -> None:
    reader = Reader(loaded[kind], template=template("ccq"), window=60)
    text = checkpoints.text(3, words=120)
    state = reader.read(text)
    assert len(state.state) == len(state.passages) > 2
    assert [len(ids) for ids, _ in state.passages] == state.state.length.tolist()
    save_state(tmp_path / "s.state", state)
    again = load_state(tmp_path / "s.state", loaded[kind])
    fresh = reader.ask(text, QUESTION, max_new_tokens=4)
    reused = reader.ask(again, QUESTION, max_new_tokens=4)
    assert [t.id for t in fresh] == [t.id for t in reused]
    assert fresh.answer.passages == reused.answer.passages == len(state.passages)
    assert reused.answer.reused_tokens == state.tokens
    assert fresh.answer.read_tokens == reused.answer.read_tokens + reused.answer.reused_tokens
    with pytest.raises(StateError, match=r"window 60 in the state, 0 here"):
        Reader(loaded[kind], template=template("ccq"), window=0).ask(again, QUESTION)


@pytest.mark.parametrize("kind", ["mamba2", "transformer"])
def test_a_model_in_bfloat16_goes_on_from_its_own_states_only(
    kind: str, loaded: dict[str, Any], tmp_path: Path
) -> None:
    model = jrtcli.load(loaded[kind].folder, dtype="bfloat16")
    reader = Reader(model, template=template("ccq"))
    save_state(tmp_path / "s.state", reader.read(TEXT))
    assert answers(reader, load_state(tmp_path / "s.state", model)) == answers(reader, TEXT)
    with pytest.raises(StateError, match="dtype bfloat16 in the state, float32 here"):
        load_state(tmp_path / "s.state", loaded[kind])


def test_what_a_fresh_run_reads_on_its_way_is_the_state(loaded: dict[str, Any]) -> None:
    reader = Reader(loaded["gla"], template=template("ccq"))
    kept: list[Any] = []
    asking = reader.ask(TEXT, QUESTION, max_new_tokens=3, on_read=kept.append)
    list(asking)
    assert asking.answer.reused_tokens == 0
    state = reader.ahead(TEXT).state(kept, 0.0)
    for one, other in zip(state.state.layers, reader.read(TEXT).state.layers, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_progress_of_reading_ahead_ends_at_its_last_token(loaded: dict[str, Any]) -> None:
    seen: list[tuple[int, int]] = []
    reader = Reader(loaded["mamba"], template="ccq", window=60)
    state = reader.read(checkpoints.text(3, words=120), on_progress=lambda done, of: seen.append((done, of)))
    assert seen[-1] == (state.tokens, state.tokens) and seen == sorted(seen)


def test_an_encoder_of_fixed_length_keeps_a_state_once_the_document_is_past_it(
    fixed: Any, tmp_path: Path
) -> None:
    reader = Reader(fixed, template=template("cqcq"))
    save_state(tmp_path / "s.state", reader.read(TEXT))
    assert answers(reader, TEXT) == answers(reader, load_state(tmp_path / "s.state", fixed))
    with pytest.raises(NotResumable, match="24 tokens in one piece"):
        reader.read("Too short.")


def test_a_question_that_comes_first_leaves_nothing_to_read_ahead(loaded: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="question before the document"):
        Reader(loaded["mamba"], template="qcq").read(TEXT)


@pytest.fixture
def saved(loaded: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "doc.state"
    document = Document(TEXT, (Piece("a.txt"), Piece("b.pdf", 40, (0, 10, 30))))
    save_state(path, Reader(loaded["based-extras"], template=template("ccq")).read(document))
    return path


def test_a_state_is_a_safetensors_file_that_only_its_owner_reads(saved: Path, loaded: dict[str, Any]) -> None:
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    with safe_open(saved, framework="pt") as file:
        metadata = file.metadata()
        names = set(file.keys())
        assert file.get_tensor("layers.0.conv").dtype == torch.float32
        assert bytes(file.get_tensor("text").tolist()).decode() == TEXT
    assert {"ids", "text", "length"} < names
    identity = json.loads(metadata["facts"])["identity"]
    model = loaded["based-extras"]
    expected = {
        "checkpoint": "based-extras",
        "revision": None,
        "weights_sha256": model.identity.weights_sha256,
        "tokenizer_sha256": model.tokenizer.hash,
        "template": "ccq",
        "reads": 2,
        "part": "2 of 2 readings",
        "state_dtype": "float32",
        "dtype": "float32",
        "jrt": jrtcli.__version__,
    }
    assert {name: identity[name] for name in expected} == expected
    assert {field for field in state_identity.StateIdentity.__dataclass_fields__} == set(identity)


def test_the_places_in_the_document_come_back(saved: Path, loaded: dict[str, Any]) -> None:
    state = load_state(saved, loaded["based-extras"])
    assert str(state.document.locate(1)) == "a.txt:1"
    assert str(state.document.locate(75)) == "b.pdf page 3"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("jrt", "9.9", "jrt 9.9 in the state, "),
        ("checkpoint", "other", "checkpoint other in the state, based-extras here"),
        ("revision", "abc", "revision abc in the state, unknown here"),
        ("architecture", "mamba", "architecture mamba in the state, based here"),
        ("weights_sha256", "0" * 64, "weights 000000000000 in the state, "),
        ("config_sha256", "1" * 64, "config.json 111111111111 in the state, "),
        ("tokenizer_sha256", "2" * 64, "tokenizer 222222222222 in the state, "),
        ("dtype", "bfloat16", "dtype bfloat16 in the state, float32 here"),
        ("weights", "int8", "kind of weights int8 in the state, auto here"),
        ("document_sha256", "3" * 64, "document 333333333333 in the state, "),
        ("ids_sha256", "4" * 64, "token ids 444444444444 in the state, "),
        ("tokens", 5, "tokens 5 in the state, "),
        ("passages", 2, "passages 2 in the state, 1 here"),
        ("template", "cqcq", "template cqcq in the state, ccq here"),
        ("template_sha256", "5" * 64, "content of the template 555555555555 in the state, "),
        ("reads", 3, "readings 3 in the state, 2 here"),
        ("window", 7, "window 7 in the state, 0 here"),
        ("part", "1 of 2 readings", "part of the prompt 1 of 2 readings in the state, 2 of 2 readings here"),
    ],
)
def test_every_fact_that_differs_is_named_with_both_values(
    name: str, value: Any, words: str, loaded: dict[str, Any], tmp_path: Path
) -> None:
    model = loaded["based-extras"]
    reader = Reader(model, template="ccq")
    state = reader.read(TEXT)
    assert state.identity is not None
    other = replace(state, identity=replace(state.identity, **{name: value}))
    save_state(tmp_path / "s.state", other)
    with pytest.raises(StateError) as error:
        reader.ask(load_state(tmp_path / "s.state", model), QUESTION)
    assert words in str(error.value) and str(error.value).startswith(f"{tmp_path / 's.state'}: ")
    assert "\n" not in str(error.value)


def test_every_fact_is_checked_somewhere() -> None:
    (mark,) = test_every_fact_that_differs_is_named_with_both_values.pytestmark  # type: ignore[attr-defined]
    facts = set(state_identity.StateIdentity.__dataclass_fields__)
    # The dtype of the state is the file's own.
    assert facts - {case[0] for case in mark.args[1]} == {"state_dtype"}


def test_another_model_document_or_template_is_refused(
    saved: Path, loaded: dict[str, Any], tmp_path: Path
) -> None:
    model = loaded["based-extras"]
    with pytest.raises(StateError, match="checkpoint based-extras in the state, gla here"):
        load_state(saved, loaded["gla"])
    with pytest.raises(
        StateError, match=r"document a.txt, b.pdf \(\w+\) in the state, mine.txt \(\w+\) here"
    ):
        load_state(saved, model, document=from_text("Something else.", "mine.txt"))
    state = load_state(saved, model, document=from_text(TEXT, "mine.txt"))
    assert str(state.document.locate(1)) == "mine.txt:1"
    changed = tmp_path / "ccq.toml"
    parts = '{ context = true }, { text = "\\n" }, { context = true }, { question = true }'
    changed.write_text(f'name = "ccq"\nparts = [{parts}]')
    with pytest.raises(StateError, match="content of the template"):
        Reader(model, template=str(changed)).ask(state, QUESTION)
    # The same weights under another configuration are another model.
    again = checkpoints.save(tmp_path / "based-extras", "based-extras")
    config = json.loads((again / "config.json").read_text())
    (again / "config.json").write_text(json.dumps(config | {"layer_norm_epsilon": 1e-3}))
    with pytest.raises(StateError, match=r"config\.json"):
        load_state(saved, jrtcli.load(again))


def test_a_state_in_memory_is_checked_as_well(loaded: dict[str, Any]) -> None:
    state = Reader(loaded["mamba"], template="ccq").read(TEXT)
    with pytest.raises(StateError, match="this state: checkpoint mamba in the state, mamba2 here"):
        Reader(loaded["mamba2"], template="ccq").ask(state, QUESTION)
    bare = replace(state, identity=None, ids=(1, *state.ids[1:]))
    with pytest.raises(JrtError, match="not the beginning of this prompt"):
        Reader(loaded["mamba"], template="ccq").ask(bare, QUESTION)
    with pytest.raises(StateError, match="does not say what it was read with"):
        save_state("never.state", bare)


def test_a_smaller_dtype_is_part_of_the_file(loaded: dict[str, Any], tmp_path: Path) -> None:
    model = loaded["transformer"]
    reader = Reader(model, template=template("cq"))
    state = reader.read(TEXT)
    exact, half = tmp_path / "exact.state", tmp_path / "half.state"
    assert save_state(half, state, dtype="bfloat16") < save_state(exact, state)
    with safe_open(half, framework="pt") as file:
        assert file.get_tensor("layers.0.k").dtype == torch.bfloat16
    again = load_state(half, model)
    assert again.identity is not None and again.identity.state_dtype == "bfloat16"
    # In the model it is fp32 again, at the precision it was saved with.
    k = state.state.layers[0]["k"]
    assert torch.equal(again.state.layers[0]["k"], k.bfloat16().float())
    assert len(answers(reader, again)) == 4
    with pytest.raises(StateError, match="saved in bfloat16 and is no better"):
        save_state(tmp_path / "back.state", again)
    assert save_state(tmp_path / "again.state", again, dtype="bfloat16") > 0
    large = replace(state, state=state.state.clone())
    large.state.layers[0]["k"].mul_(1e6)
    with pytest.raises(StateError, match="do not fit into float16"):
        save_state(tmp_path / "large.state", large, dtype="float16")
    with pytest.raises(StateError, match="no dtype 'int8'"):
        save_state(tmp_path / "int8.state", state, dtype="int8")


def test_a_state_replaces_a_state_and_nothing_else(
    saved: Path, loaded: dict[str, Any], tmp_path: Path
) -> None:
    state = load_state(saved, loaded["based-extras"])
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    with pytest.raises(StateError, match=r"notes\.txt: is there and is not a document's state"):
        save_state(notes, state)
    assert notes.read_text() == "mine"
    os.truncate(saved, 500)
    save_state(saved, state)
    assert load_state(saved, loaded["based-extras"]).ids == state.ids
    with pytest.raises(StateError, match="cannot be written"):
        save_state(tmp_path / "nowhere" / "doc.state", state)
    link = tmp_path / "link.state"
    link.symlink_to(notes)
    with pytest.raises(StateError, match="is there"):
        save_state(link, state)
    link.unlink()
    link.symlink_to(saved)
    before = saved.read_bytes()
    save_state(link, replace(state, seconds=99.0))
    assert not link.is_symlink() and saved.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["doc.state", "link.state", "notes.txt"]
