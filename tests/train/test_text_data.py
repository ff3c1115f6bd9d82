"""Plain text: what is read, tokenised once, cut, shuffled and packed; the objectives on it worked out by
hand."""

from __future__ import annotations

import dataclasses
import gzip
import importlib.util
import io
import itertools
import json
import math
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from jrtcli.errors import JrtError, UsageError
from jrtcli.models import ARCHITECTURES, architecture
from jrtcli.train import text_data, text_files
from jrtcli.train.config import from_dict
from jrtcli.train.loss import Objective
from jrtcli.train.sharing import share
from jrtcli.train.sources import check_objective
from jrtcli.train.text_data import TextConfig, assemble, held_out_batches, sequences, text_batch
from jrtcli.train.token_cache import open_tokens, tokenise


def _beside(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


tiny_models = _beside("tiny_models")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    return Tokenizer.from_file(str(tiny_models.save_tokenizer(folder)))


def written(folder: Path, lengths: list[int]) -> Path:
    """A token cache of documents whose tokens are 1000 d, 1000 d + 1, ..."""
    folder.mkdir()
    ids = np.concatenate([1000 * d + np.arange(n) for d, n in enumerate(lengths)]).astype(np.uint32)
    ids.tofile(folder / "tokens.bin")
    np.save(folder / "bounds.npy", np.array([0, *np.cumsum(lengths)]))
    (folder / "meta.json").write_text(json.dumps({"dtype": "uint32"}))
    return folder


def documents(folder: Path, tokenizer: Tokenizer) -> list[str]:
    ids, bounds = open_tokens(folder)
    return [tokenizer.decode(ids[a:b].tolist()) for a, b in itertools.pairwise(bounds)]


def test_every_kind_of_file_is_read(tmp_path: Path, tokenizer: Tokenizer) -> None:
    text = tmp_path / "text"
    (text / "below").mkdir(parents=True)
    (text / "a.txt").write_text("one\ntwo")
    with gzip.open(text / "below" / "b.txt.gz", "wt") as file:
        file.write("three")
    (text / "c.jsonl").write_text('{"text": "four"}\n\n{"text": "five", "id": 3}\n')
    with tarfile.open(text / "d.tar.gz", "w:gz") as archive:
        for name, said in (("x/six.txt", b"six"), ("x/picture.png", b"none"), ("seven.md", b"seven")):
            member = tarfile.TarInfo(name)
            member.size = len(said)
            archive.addfile(member, io.BytesIO(said))
    (text / "empty.txt").write_text("")
    (tmp_path / "odd.name").write_bytes(b"eight \xff")
    seen: list[tuple[int, int]] = []
    paths = [str(text), str(tmp_path / "odd.*")]
    folder = tokenise(paths, tokenizer, tmp_path / "cache", lambda done, total: seen.append((done, total)))
    expected = ["one\ntwo", "three", "four", "five", "six", "seven", "eight \ufffd"]
    assert documents(folder, tokenizer) == expected
    ids, bounds = open_tokens(folder)
    assert (ids[bounds[1:] - 1] == tokenizer.token_to_id("<eos>")).all() and ids.dtype == np.uint16
    assert seen[-1][0] == seen[-1][1] > 0


def test_tokenised_once_and_again_when_something_changed(tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one")
    cache = tmp_path / "cache"
    first = tokenise([str(file)], tokenizer, cache)
    made = (first / "tokens.bin").stat().st_mtime_ns
    assert tokenise([str(file)], tokenizer, cache) == first
    assert (first / "tokens.bin").stat().st_mtime_ns == made
    file.write_text("one more")
    assert tokenise([str(file)], tokenizer, cache) != first
    tokenizer.add_tokens(["more"])
    assert len({tokenise([str(file)], tokenizer, cache), first}) == 2
    assert len(list(cache.iterdir())) == 3


TOKENISE = """
import sys
from pathlib import Path
from tokenizers import Tokenizer
from jrtcli.train.token_cache import tokenise
print(tokenise([sys.argv[1]], Tokenizer.from_file(sys.argv[2]), Path(sys.argv[3])))
"""


def test_two_processes_make_one_cache(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one two three\n" * 20_000)
    arguments = (str(file), str(tiny_models.save_tokenizer(tmp_path)), str(tmp_path / "cache"))
    # Not forked: the threads that a tokenizer has used in this process would be missing in its copy.
    command = [sys.executable, "-c", TOKENISE, *arguments]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = [one.communicate(timeout=120)[0] for one in running]
    assert [one.returncode for one in running] == [0, 0]
    assert folders[0] == folders[1] and len(list((tmp_path / "cache").iterdir())) == 1


def test_a_failed_build_leaves_nothing(tmp_path: Path, tokenizer: Tokenizer) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "fine"}\n{"title": "no text"}\n')
    with pytest.raises(JrtError, match=r"bad\.jsonl, line 2"):
        tokenise([str(bad)], tokenizer, tmp_path / "cache")
    broken = tmp_path / "broken.txt.gz"
    broken.write_bytes(gzip.compress(b"text " * 1000)[:-20])
    with pytest.raises(JrtError, match=r"broken\.txt\.gz cannot be read"):
        tokenise([str(broken)], tokenizer, tmp_path / "cache")
    (tmp_path / "none.txt").write_text("")
    with pytest.raises(UsageError, match="no text"):
        tokenise([str(tmp_path / "none.txt")], tokenizer, tmp_path / "cache")
    with pytest.raises(UsageError, match="nowhere"):
        tokenise([str(tmp_path / "nowhere")], tokenizer, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_long_document_is_read_in_pieces(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(f"line {i} ä\n" for i in range(200))
    (tmp_path / "long.txt").write_text(text, encoding="utf-8")
    monkeypatch.setattr(text_files, "PIECE_CHARS", 64)
    found = list(text_files.pieces(tmp_path / "long.txt"))
    assert "".join(piece.text for piece in found) == text and len(found) > 20
    assert [piece.ends for piece in found] == [False] * (len(found) - 1) + [True]
    folder = tokenise([str(tmp_path / "long.txt")], tokenizer, tmp_path / "cache")
    assert documents(folder, tokenizer) == [text]


def test_a_pass_has_every_sequence_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    lengths = [5, 23, 1, 40, *[7] * 60]
    folder = str(written(tmp_path / "tokens", lengths))
    config = TextConfig(folder, seed=3, length=10, tokens_per_step=50)
    held = {tuple(row) for row in sequences(folder, 10, True).tolist()}
    kept = [tuple(row) for row in sequences(folder, 10, False).tolist()]
    assert held and not held & set(kept)
    assert all(2 <= stop - start <= 10 for start, stop in kept)
    total = sum(stop - start for start, stop in kept)
    ids = open_tokens(folder).ids
    expected = sorted(tuple(ids[a:b].tolist()) for a, b in kept)

    def one_pass(first: int) -> list[tuple[int, ...]]:
        found = []
        for step in range(first, first + -(-total // 50)):
            made = text_batch(config, step)
            assert made.longest <= 10
            flat, bounds = made.tokens.flatten().tolist(), made.cu_seqlens
            marks = range(0, len(flat) + 1, made.longest) if bounds is None else bounds.tolist()
            found += [tuple(flat[a:b]) for a, b in itertools.pairwise(marks)]
        return found

    begun = one_pass(0)
    assert sorted(begun[: len(kept)]) == expected  # the second pass begins in the last step
    assert begun != one_pass(0)[::-1] and begun == one_pass(0)
    other = text_batch(dataclasses.replace(config, seed=4), 0)
    assert not torch.equal(other.tokens.flatten()[:10], text_batch(config, 0).tokens.flatten()[:10])


def test_few_documents_hold_their_ends_out(tmp_path: Path) -> None:
    folder = str(written(tmp_path / "tokens", [500, 100]))
    assert sequences(folder, 1000, False).tolist() == [[0, 490], [500, 598]]
    assert sequences(folder, 1000, True).tolist() == [[490, 500], [598, 600]]
    config = TextConfig(folder, seed=0, length=8, tokens_per_step=8)
    (first, *others) = held_out_batches(config, 8)
    assert not others and first.tokens.min() >= 490
    assert held_out_batches(config, 0) == []


def test_targets_of_next_tokens_by_hand() -> None:
    config = TextConfig("", 0, 4, 8)
    rows = [np.array([5, 6, 7]), np.array([8, 9])]
    made = assemble(rows, config, np.random.default_rng(0))
    assert made.tokens.tolist() == [[5, 6, 7, 8, 9]] and made.cu_seqlens is not None
    assert made.cu_seqlens.tolist() == [0, 3, 5]
    assert made.weights.tolist() == [[0, 1, 1, 0, 1]]
    assert made.encoder_lengths is None and made.masked is None
    even = assemble([np.array([5, 6]), np.array([8, 9])], config, np.random.default_rng(0))
    assert even.tokens.tolist() == [[5, 6], [8, 9]] and even.cu_seqlens is None


class Fixed(nn.Module):
    """Logits of a position: 2 for its own token, 0 for the others."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.layers = nn.ModuleList()

    def hidden(self, tokens: Tensor, **given: Any) -> Tensor:
        self.given = given
        return nn.functional.one_hot(tokens, 12).float()

    def head(self, hidden: Tensor) -> Tensor:
        return self.scale * hidden


def test_the_objective_of_the_paper_by_hand() -> None:
    """(NTP + 0.25 MLM) / 1.25: masked tokens at their place, next tokens from the region's end on."""
    config = TextConfig("", 0, 8, 8, kind="jrt", mask_token=11, mask_share=0.5, encoder_tokens=(4,))
    made = assemble([np.array([1, 2, 3, 4, 5, 5, 5, 6])], config, np.random.default_rng(1))
    assert made.encoder_lengths is not None and made.encoder_lengths.tolist() == [4]
    assert made.masked is not None
    places = torch.nonzero(made.masked[0] >= 0).flatten().tolist()
    assert len(places) == 2 and max(places) < 4  # half of four
    for place in range(8):
        is_masked = place in places
        true = [1, 2, 3, 4, 5, 5, 5, 6][place]
        assert made.tokens[0, place] == (11 if is_masked else true)
        assert made.masked[0, place] == (true if is_masked else -1)
    assert made.weights.tolist() == [[0, 0, 0, 0, 0, 1, 1, 1]]
    model = Fixed()
    inputs, _ = share(made, 0, 1, "cpu", has_encoder=True)
    loss, sums = Objective(model, tag_layer=None, tag_weight=0.0, width=12, mlm_weight=0.25)(inputs)
    assert model.given["encoder_length"].tolist() == [4]
    z = math.exp(2) + 11
    # From 5 to 5 twice: e^2 / z; from 5 to 6: 1 / z. At a mask token the true one has 1 / z.
    ntp = (2 * math.log(z / math.exp(2)) + math.log(z)) / 3
    mlm = math.log(z)
    assert loss.item() == pytest.approx((ntp + 0.25 * mlm) / 1.25, rel=1e-6)
    means = sums.means()
    assert means["text"] == pytest.approx(ntp, rel=1e-6) and means["mlm"] == pytest.approx(mlm, rel=1e-6)
    assert means["mlm_acc"] == 0.0 and "answer" not in means


def test_encoder_lengths_are_drawn_or_half() -> None:
    row = np.arange(40)
    config = TextConfig("", 0, 40, 40, kind="jrt", mask_token=0, encoder_tokens=(5, 20))
    lengths = set()
    for seed in range(200):
        made = assemble([row], config, np.random.default_rng(seed))
        assert made.encoder_lengths is not None and made.masked is not None
        encoder = int(made.encoder_lengths)
        lengths.add(encoder)
        assert int((made.masked >= 0).sum()) == max(1, round(0.15 * encoder))
    assert lengths == set(range(5, 21))
    for asked, expected in (((0,), 20), ((7,), 7), ((40,), 20)):
        made = assemble([row], dataclasses.replace(config, encoder_tokens=asked), np.random.default_rng(0))
        assert made.encoder_lengths is not None and int(made.encoder_lengths) == expected


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_document_does_not_see_its_neighbours(name: str) -> None:
    torch.manual_seed(0)
    model = architecture(name).from_config(tiny_models.CONFIGS[name]).double()
    kind = "jrt" if name == "jrt_rnn" else "lm"
    config = TextConfig("", 0, 20, 60, kind=kind, mask_token=200, encoder_tokens=(6,))
    draw = np.random.default_rng(0)
    rows = [draw.integers(1, 200, size) for size in (13, 20, 9)]

    def hidden(index: list[int], which: int) -> Tensor:
        made = assemble([rows[i].copy() for i in index], config, np.random.default_rng(1))
        given = {"cu_seqlens": made.cu_seqlens} if made.cu_seqlens is not None else {}
        if made.encoder_lengths is not None:
            given["encoder_length"] = made.encoder_lengths
        tokens = torch.from_numpy(np.concatenate([rows[i] for i in index]))[None]  # none masked
        out = model.hidden(tokens, **given)
        begin = sum(len(rows[i]) for i in index[: index.index(which)])
        return out[0, begin : begin + len(rows[which])]

    alone = hidden([1], 1)
    for neighbours in ([0, 1, 2], [2, 1], [1, 0]):
        assert torch.allclose(hidden(neighbours, 1), alone, rtol=1e-9, atol=1e-9)


def test_the_mask_token_is_named_or_a_row_of_its_own(tokenizer: Tokenizer) -> None:
    def chosen(rows: int, has_encoder: bool = True, **objective: Any) -> int | None:
        model = type("M", (), {"vocab_size": rows, "has_encoder": has_encoder, "architecture": "m"})
        recipe = from_dict({"steps": 1, "objective": {"kind": "jrt", **objective}})
        return check_objective(recipe, tokenizer, model)

    size = tokenizer.get_vocab_size()
    assert chosen(288) == 287 and chosen(288, mask_token=4) == 4
    assert chosen(288, has_encoder=False, kind="lm") is None
    for wrong, said in (
        ({"rows": size}, "objective.mask_token"),
        ({"rows": 288, "mask_token": 288}, "288 rows"),
        ({"rows": 288, "kind": "answers"}, "objective.kind"),
        ({"rows": 288, "kind": "lm"}, "encoder of JRT-RNN"),
        ({"rows": 288, "has_encoder": False}, "needs an encoder"),
    ):
        with pytest.raises(UsageError, match=said):
            chosen(**wrong)  # type: ignore[arg-type]
    tokenizer.add_special_tokens(["[MASK]"])
    assert chosen(288) == tokenizer.token_to_id("[MASK]")


def test_the_array_of_a_long_corpus_stays_on_disk(tmp_path: Path) -> None:
    folder = written(tmp_path / "tokens", [100])
    assert isinstance(open_tokens(folder).ids, np.memmap)
    assert isinstance(text_data._tokens(str(folder)).ids, np.memmap)
