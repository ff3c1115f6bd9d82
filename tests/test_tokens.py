"""Text to ids and back, for a small vocabulary of each kind and for the three real ones."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import random
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

import jrt_prompts
from jrt_prompts import Prompt, Segment
from jrtcli import tokenizer_json
from jrtcli.errors import CheckpointError
from jrtcli.tokens import Tokenizer, encode_prompt, load_tokenizer, whole_characters
from jrtcli.train import vocabulary as small_vocabulary

TEXT = """Trade name: Acu-Ray 300. Submitted by Zoë Müller, 東京 — “reviewed” 😀.

  Date prepared:\tMarch 14, 2015
The device measures bone mineral density (BMD). The device is intended for use by a physician.
"""
REAL = {"gpt2": (50257, None, 50256), "gpt-neox-20b": (50277, None, 0), "mistral-7b-v0.1": (32000, 1, 2)}
KINDS = ["byte_level", "prefixed", "pieces", "sentencepiece", "small"]


def _byte_level(folder: Path, *, prefix_space: bool) -> None:
    fast = FastTokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator([TEXT], trainer)
    fast.save(str(folder / "tokenizer.json"))


def _pieces(folder: Path) -> None:
    """A tokenizer.json as Mistral's: ▁ for a space, one in front, bytes for what is not there, BOS."""
    byte_tokens = {f"<0x{i:02X}>": i + 3 for i in range(256)}
    letters = sorted(set("▁TradenmsubityDvcofh.,:"))
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | byte_tokens
    vocabulary |= {letter: 259 + i for i, letter in enumerate(letters)}
    vocabulary |= {"▁T": len(vocabulary), "de": len(vocabulary) + 1}
    fast = FastTokenizer(
        models.BPE(vocabulary, [("▁", "T"), ("d", "e")], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fast.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fast.add_special_tokens(["<unk>", "<s>", "</s>"])
    fast.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast.save(str(folder / "tokenizer.json"))


def _sentencepiece(folder: Path) -> None:
    corpus = folder / "corpus.txt"
    corpus.write_text(TEXT * 3)
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=340,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.98,
        minloglevel=2,
    )


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    """A small tokenizer of each kind."""
    made = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        if kind in ("byte_level", "prefixed"):
            _byte_level(folder, prefix_space=kind == "prefixed")
        elif kind == "pieces":
            _pieces(folder)
        elif kind == "sentencepiece":
            _sentencepiece(folder)
        else:
            small_vocabulary.save(small_vocabulary.train([TEXT], size=330), folder / "tokenizer.json")
        made[kind] = load_tokenizer(folder)
    return made


@pytest.fixture(scope="module")
def real(shared_data: Path) -> dict[str, Tokenizer]:
    """The tokenizers of the published checkpoints."""
    return {name: load_tokenizer(shared_data / "tokenizers" / name) for name in REAL}


@pytest.fixture(scope="module")
def documents(shared_data: Path) -> list[str]:
    """Real documents, cut so that three tokenizers read them in seconds."""
    with gzip.open(shared_data / "fda510k" / "docs_eval.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in itertools.islice(file, 6)]
    texts = [max((v for v in row.values() if isinstance(v, str)), key=len)[:2500] for row in rows]
    texts += [path.read_text("utf-8")[:2500] for path in sorted((shared_data / "texts").glob("*.txt"))[:6]]
    return texts


every_kind = pytest.mark.parametrize("kind", KINDS)
every_real = pytest.mark.parametrize("name", REAL)
texts = st.text(st.characters(codec="utf-8"), max_size=40) | st.text("Trade Müller😀\n\t .", max_size=40)


@every_kind
def test_a_continuation_comes_back(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = tokenizers[kind]
    for text in (TEXT, "a", " a", "\n\nQuestion: Who?\nAnswer:", "😀\x00é"):
        ids = tokenizer.encode(text, first=False)
        # The small vocabulary knows no capitals, and no single space at the start of a line.
        lines = "\n".join(line.removeprefix(" ") for line in text.lower().split("\n"))
        if kind != "small":
            assert tokenizer.decode(ids) == text
        elif text.startswith("\n"):
            assert tokenizer.decode(ids) == lines
        assert max(ids) < tokenizer.size


@every_kind
def test_a_beginning_comes_back_and_a_continuation_gets_no_space(
    tokenizers: dict[str, Tokenizer], kind: str
) -> None:
    tokenizer = tokenizers[kind]
    first, rest = (tokenizer.encode("Trade", first=first) for first in (True, False))
    if kind in ("pieces", "sentencepiece"):
        assert first[0] == tokenizer.bos_id == 1
        assert tokenizer.decode(first) == "Trade"
        assert tokenizer.decode(first[1:]) == " Trade"
    if kind != "small":
        assert tokenizer.decode(rest) == "Trade"
        assert tokenizer.encode(" Trade", first=False) == first[kind in ("pieces", "sentencepiece") :] or (
            kind == "byte_level"
        )


@every_kind
@settings(max_examples=60, deadline=None)
@given(text=texts)
def test_streams_join_to_the_decoding(tokenizers: dict[str, Tokenizer], kind: str, text: str) -> None:
    tokenizer = tokenizers[kind]
    for first in (True, False):
        ids = tokenizer.encode(text, first=first)
        stream = tokenizer.stream()
        parts = [stream.push(token) for token in ids]
        assert all("\ufffd" not in part for part in parts) or "\ufffd" in text
        assert "".join(parts) + stream.flush() == tokenizer.decode(ids)
        if kind in ("byte_level", "sentencepiece", "pieces") and (first or kind != "prefixed"):
            assert tokenizer.decode(ids) == text


@every_kind
def test_any_ids_stream_to_the_decoding(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = tokenizers[kind]
    for seed in range(15):
        ids = random.Random(seed).choices(range(tokenizer.size), k=120)
        stream = tokenizer.stream()
        text = "".join(stream.push(token) for token in ids) + stream.flush()
        assert text == tokenizer.decode(ids)
        text.encode()


@every_kind
def test_half_a_character_waits(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode("\n🙈x", first=False)
    stream = tokenizer.stream()
    parts = [stream.push(token) for token in ids]
    assert "🙈" in parts
    assert "".join(parts).strip().endswith("x")
    cut = tokenizer.stream()
    said = [cut.push(token) for token in ids[: parts.index("🙈")]]
    assert "".join(said).strip(" ") == "\n"
    assert cut.flush().startswith("\ufffd")


def test_padding_rows_and_special_tokens_have_no_text(tokenizers: dict[str, Tokenizer]) -> None:
    for kind, tokenizer in tokenizers.items():
        stream = tokenizer.stream()
        if kind != "small":
            assert stream.push(tokenizer.size + 3) == ""
        assert tokenizer.eos_id is not None
        assert tokenizer.decode([tokenizer.eos_id]) == ""


@every_kind
def test_a_text_cannot_hold_special_tokens(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode("a <|endoftext|> b </s> <s> <eos> <pad>", first=False)
    assert not {tokenizer.eos_id, tokenizer.bos_id} & set(ids)


@every_kind
def test_lone_surrogates_are_replaced(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = tokenizers[kind]
    assert tokenizer.encode("x\ud800y", first=False) == tokenizer.encode("x\ufffdy", first=False)
    prompt = Prompt(
        (Segment("context", "x\ud83d"), Segment("text", "\ude00\n"), Segment("question", "\udfff"))
    )
    assert encode_prompt(prompt, tokenizer).head_tokens > 0
    assert whole_characters("😀a\udc80") == "😀a\ufffd"


def test_lower_case_is_known(tokenizers: dict[str, Tokenizer]) -> None:
    assert {kind for kind, tokenizer in tokenizers.items() if tokenizer.lowercases} == {"small"}


def test_sizes_ids_and_hashes(tokenizers: dict[str, Tokenizer]) -> None:
    small = tokenizers["small"]
    assert (small.size, small.bos_id, small.eos_id) == (330, None, 1)
    assert len({tokenizer.hash for tokenizer in tokenizers.values()}) == len(KINDS)
    path = Path(small.source) / "tokenizer.json"
    assert small.hash == hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_tokenizer(path).hash == small.hash


def test_tokenizer_config_names_the_special_tokens(tmp_path: Path) -> None:
    _pieces(tmp_path)
    assert load_tokenizer(tmp_path).encode("T", first=True)[0] == 1
    config = {"add_bos_token": False, "eos_token": {"content": "<s>"}, "bos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (2, 1)
    assert 1 not in tokenizer.encode("T", first=True)
    (tmp_path / "tokenizer_config.json").write_text("{")
    assert load_tokenizer(tmp_path).encode("T", first=True)[0] == 1


def test_metaspace_tokenizers_continue_without_a_space(tmp_path: Path) -> None:
    _pieces(tmp_path)
    path = tmp_path / "tokenizer.json"
    spec = json.loads(path.read_text())
    spec["normalizer"] = None
    spec["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": "first",
        "split": False,
    }
    spec["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
            {"type": "ByteFallback"},
        ],
    }
    path.write_text(json.dumps(spec))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.decode(tokenizer.encode("Trade", first=False)) == "Trade"
    assert tokenizer.decode(tokenizer.encode("Trade", first=True)) == "Trade"
    assert tokenizer.encode("Trade", first=True)[1:] == tokenizer.encode(" Trade", first=False)


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\xfe", b'{"model": {"type": "Nothing"}}'])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_a_damaged_file_is_one_line(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=name) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_tokenizer_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"has no tokenizer: no tokenizer\.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(CheckpointError, match="name one with --tokenizer"):
        load_tokenizer(folder=tmp_path)
    with pytest.raises(CheckpointError, match="no tokenizer 'gpt3'"):
        load_tokenizer("gpt3")
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        load_tokenizer(tmp_path / "vocab.json")


def test_spans_cover_the_ids_and_name_the_segments(tokenizers: dict[str, Tokenizer]) -> None:
    prompt = jrt_prompts.load_template("cqcq").render(TEXT, "Who submitted it?")
    for kind, tokenizer in tokenizers.items():
        encoded = encode_prompt(prompt, tokenizer)
        assert [span.role for span in encoded.spans] == [segment.role for segment in prompt.segments]
        assert [span.start for span in encoded.spans] == [0, *(span.end for span in encoded.spans[:-1])]
        assert encoded.spans[-1].end == len(encoded.ids)
        said = [tokenizer.decode(encoded.ids[span.start : span.end]).strip() for span in encoded.spans]
        shown = [segment.text.strip() for segment in prompt.segments]
        if kind == "small":
            shown = ["\n".join(x.removeprefix(" ") for x in text.lower().split("\n")) for text in shown]
        assert said == shown
        assert encoded.cache_points == tuple(s.end for s in encoded.spans if s.role == "context")
        assert encoded.head_tokens == encoded.cache_points[-1]


def test_a_prompt_without_a_document_has_no_head(tokenizers: dict[str, Tokenizer]) -> None:
    encoded = encode_prompt(
        Prompt((Segment("text", "a"), Segment("question", "b"))), tokenizers["byte_level"]
    )
    assert (encoded.head_tokens, encoded.cache_points) == (0, ())
    empty = encode_prompt(Prompt((Segment("context", ""), Segment("text", "Tb"))), tokenizers["pieces"])
    assert tokenizers["pieces"].decode(empty.ids) == "Tb"


def _check_heads(tokenizer: Tokenizer, document: str, template: str) -> None:
    """The head is encoded the same whatever follows it, also alone."""
    render = jrt_prompts.load_template(template).render
    question = "Who is the contact person?"
    prompt = render(document, question)
    encoded = encode_prompt(prompt, tokenizer)
    head = encoded.ids[: encoded.head_tokens]
    alone = encode_prompt(Prompt(prompt.segments[: prompt.last_context + 1]), tokenizer)
    assert alone.ids == head
    other = render(document, question, cue="The name is")
    if [s.text for s in other.segments[: other.last_context + 1]] == [
        s.text for s in prompt.segments[: prompt.last_context + 1]
    ]:
        assert encode_prompt(other, tokenizer).ids[: len(head)] == head
    # Reading C is all of the head that [C, Q, C, Q] shares between questions.
    if prompt.segments[0].role == "context":
        another = encode_prompt(render(document, "And when?"), tokenizer)
        first = encoded.cache_points[0]
        assert another.ids[:first] == encoded.ids[:first]


@pytest.mark.parametrize("template", jrt_prompts.list_templates())
def test_heads(tokenizers: dict[str, Tokenizer], template: str) -> None:
    for tokenizer in tokenizers.values():
        _check_heads(tokenizer, TEXT, template)


@every_real
def test_real_tokenizers(real: dict[str, Tokenizer], name: str) -> None:
    tokenizer = real[name]
    assert (tokenizer.size, tokenizer.bos_id, tokenizer.eos_id) == REAL[name]
    assert not tokenizer.lowercases
    ids = tokenizer.encode("Hello world", first=True)
    assert (
        ids
        == {"gpt2": [15496, 995], "gpt-neox-20b": [12092, 1533], "mistral-7b-v0.1": [1, 22557, 1526]}[name]
    )


@every_real
@pytest.mark.parametrize("template", jrt_prompts.list_templates())
def test_real_heads_and_whole_strings(
    real: dict[str, Tokenizer], documents: list[str], name: str, template: str
) -> None:
    tokenizer = real[name]
    for document in documents[::3]:
        _check_heads(tokenizer, document, template)
    for document in documents:
        prompt = jrt_prompts.load_template(template).render(document, "What is it called?")
        encoded = encode_prompt(prompt, tokenizer)
        assert list(encoded.ids) == tokenizer.encode(prompt.text, first=True)
        assert tokenizer.decode(encoded.ids) == prompt.text


@every_real
def test_real_documents_stream(real: dict[str, Tokenizer], documents: list[str], name: str) -> None:
    tokenizer = real[name]
    for document in documents:
        stream = tokenizer.stream()
        ids = tokenizer.encode(document, first=True)
        parts = [stream.push(token) for token in ids]
        assert "".join(parts) + stream.flush() == document == tokenizer.decode(ids)


@every_real
def test_real_tokenizers_agree_with_the_libraries(
    real: dict[str, Tokenizer], documents: list[str], shared_data: Path, name: str
) -> None:
    """Against transformers' GPT-2, the plain library for GPT-NeoX, sentencepiece itself for Mistral."""
    folder = shared_data / "tokenizers" / name
    for document in documents[:4]:
        ids = real[name].encode(document, first=True)
        if name == "gpt2":
            from transformers import GPT2Tokenizer

            reference = GPT2Tokenizer(str(folder / "encoder.json"), str(folder / "vocab.bpe"))
            assert reference(document)["input_ids"] == ids
        elif name == "gpt-neox-20b":
            assert FastTokenizer.from_file(str(folder / "20B_tokenizer.json")).encode(document).ids == ids
        else:
            plain = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
            assert [1, *plain.encode(document)] == ids


def test_what_encoding_a_long_text_took_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _byte_level(tmp_path, prefix_space=False)
    tokenizer = load_tokenizer(tmp_path)
    asked: list[bool] = []
    monkeypatch.setattr(tokenizer_json, "give_back", lambda: asked.append(True))
    ids, ends = tokenizer.encode_with_ends(TEXT, first=True)
    assert not asked and ends[-1] == len(TEXT)
    monkeypatch.setattr(tokenizer_json, "_MANY_TOKENS", len(ids))
    assert tokenizer.encode_with_ends(TEXT, first=True) == (ids, ends) and asked == [True]
    assert tokenizer.encode(TEXT, first=True) == list(ids) and tokenizer.decode(ids) == TEXT
    monkeypatch.undo()
    tokenizer_json.give_back()  # whatever C library there is
