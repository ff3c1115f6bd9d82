"""llama.cpp beside jrt: a row for each file, the fastest one to compare with; a library of the test's own."""

from __future__ import annotations

import csv
import io
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from jrt_kernels.registry import Unsupported
from jrtcli import load
from jrtcli.bench import llama_cpp
from jrtcli.bench.ceilings import Ceilings
from jrtcli.bench.llama_cpp import LlamaCpp, features, files_of
from jrtcli.bench.models import Plan, measure
from jrtcli.bench.rows import Row, record, to_csv
from jrtcli.bench.shapes import SHAPES, write_random
from jrtcli.commands.bench_show import table
from jrtcli.errors import UsageError

SHAPE = {
    "model_type": "mamba", "architectures": ["MambaForCausalLM"], "vocab_size": 96, "hidden_size": 64,
    "num_hidden_layers": 2, "state_size": 4,
}  # fmt: skip
TYPES = {"f32": "0", "q8_0": "7", "q4_k_m": "15"}


class _Llama:
    """What llama-cpp-python's Llama is asked for: tokens one after the other, the logits of the last.

    It computes with jrt's own model where `wanted` has one; `noise` by file type, relative.
    """

    wanted: Any = None
    noise: ClassVar = {"7": 0.05, "15": 0.4}

    def __init__(self, **options: Any) -> None:
        self.options, self.seen = options, [0]
        name = Path(options["model_path"]).stem
        kind = next((kind for end, kind in TYPES.items() if name.endswith(end)), "7")
        self.metadata, self.model, self.ctx, self.kind = {"general.file_type": kind}, self, self, kind

    def reset(self) -> None:
        self.seen, self.state = [0], None

    def eval(self, ids: list[int]) -> None:
        self.seen += ids
        if self.wanted is not None:
            self.logits, self.state = self.wanted.prefill(torch.tensor([ids]), self.state)

    def n_vocab(self) -> int:
        return 96


def _logits(ctx: _Llama, i: int) -> list[float]:
    if ctx.wanted is None:
        return [float(sum(ctx.seen) + j) for j in range(96)]
    exact = ctx.logits[0]
    noise = torch.randn(96, generator=torch.Generator().manual_seed(0))
    return list(exact + noise * exact.norm() / noise.norm() * ctx.noise.get(ctx.kind, 0.0))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    made = SimpleNamespace(
        Llama=_Llama,
        llama_model_n_params=lambda model: 1000,
        llama_get_logits_ith=_logits,
        llama_print_system_info=lambda: b"CPU : SSE3 = 1 | AVX512 = 1 | SVE = 0 | AMX_INT8 = 1 | ",
    )
    monkeypatch.setattr(llama_cpp, "find_spec", lambda name: made)
    monkeypatch.setattr(llama_cpp, "import_module", lambda name: made)


def _file(folder: Path, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_bytes(b"GGUF")
    return file


def rows(plan: Plan) -> list[Row]:
    ceilings = {(dtype, n): Ceilings(dtype, 1e10, 1e11) for dtype in plan.dtypes for n in plan.threads}
    return list(measure(plan, ceilings))


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Plan:
    """Of one small Mamba, with a file of each type that computes with it."""
    monkeypatch.setitem(SHAPES, "small", SHAPE)
    model = load(write_random("small", tmp_path / "weights")).model
    monkeypatch.setattr(_Llama, "wanted", model)
    files = [_file(tmp_path / "gguf", f"small-{kind}.gguf") for kind in TYPES]
    return Plan(
        ("small",), ((1, 32),), ("torch",), ("llama.cpp",), ("float32", "bfloat16"), "cpu", (1,), 2,
        gguf=tuple(files), keep=tmp_path / "weights",
    )  # fmt: skip


@pytest.mark.usefixtures("library")
def test_a_file_reads_one_row(tmp_path: Path) -> None:
    program = LlamaCpp(_file(tmp_path, "tiny-q8_0.gguf"), "cpu", 2, 100)
    assert program.dtype == "Q8_0" and program.weight_bytes == 4 and program.parameters == 1000
    assert program.bits == 8
    assert program.model.options["n_threads"] == 2 and program.model.options["n_ctx"] == 100
    logits, state = program.read(torch.tensor([[3, 4]]))
    assert logits.shape == (1, 96) and logits[0, 0] == 7
    assert program.step(torch.tensor([5]), state)[0][0, 1] == 13
    assert program.read(torch.tensor([[1]]))[0][0, 0] == 1
    with pytest.raises(Unsupported, match="no batch"):
        program.read(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(Unsupported, match="--gguf"):
        LlamaCpp(None, "cpu", 1, 100)
    assert features() == "SSE3, AVX512, AMX_INT8"


@pytest.mark.usefixtures("library")
def test_every_file_is_a_row_once_and_all_are_compared_with_the_fastest(plan: Plan) -> None:
    found = rows(plan)
    assert [(row.runner, row.dtype) for row in found] == [
        ("llama.cpp", "F32"), ("llama.cpp", "Q8_0"), ("llama.cpp", "Q4_K_M"), ("torch", "float32"),
        ("jrt-prompt", "float32"), ("torch", "bfloat16"), ("jrt-prompt", "bfloat16"),
    ]  # fmt: skip
    assert len(found) == plan.count
    assert all(row.samples_ms and row.over == "the best llama.cpp" for row in found), found
    best = max(row.tokens_per_s or 0 for row in found[:3])
    for row in found:
        assert row.speedup == pytest.approx((row.tokens_per_s or 0) / best)
    errors = [row.error for row in found[:3]]
    assert errors[0] < 1e-4 and errors[1:] == pytest.approx([0.05, 0.4], rel=0.1)  # type: ignore[operator]
    assert [row.note.split(",")[0] for row in found[:3]] == [f"small-{kind}.gguf" for kind in TYPES]  # type: ignore[union-attr]


@pytest.mark.usefixtures("library")
def test_two_peers_are_two_speed_ups(plan: Plan) -> None:
    found = rows(replace(plan, peers=("transformers", "llama.cpp"), dtypes=("float32",)))
    theirs, *files, ours, _ = found
    best = max(files, key=lambda row: row.tokens_per_s or 0)
    assert ours.over == "transformers" and dict(ours.also).keys() == {"the best llama.cpp"}
    for name, other in (("transformers", theirs), ("the best llama.cpp", best)):
        speedup = ours.speedup if name == ours.over else dict(ours.also)[name]
        assert speedup == pytest.approx((ours.tokens_per_s or 0) / (other.tokens_per_s or 1))
    names, cells = table(found)
    at = names.index("over the best llama.cpp")
    assert names[at - 1] == "over transformers" and all(line[at] for line in cells)
    kept = next(csv.DictReader(io.StringIO(to_csv([ours], {}))))
    assert kept["also"] == f"the best llama.cpp {dict(ours.also)['the best llama.cpp']:.4g}"
    assert record(ours)["also"] == dict(ours.also)


@pytest.mark.usefixtures("library")
def test_steps_beside_one_file(plan: Plan) -> None:
    found = rows(
        replace(plan, gguf=plan.gguf[1:2], dtypes=("float32",), shapes=((1, 8), (2, 8)), new_tokens=2)
    )
    assert [(row.runner, row.batch) for row in found] == [
        ("llama.cpp", 1), ("torch", 1), ("llama.cpp", 2), ("torch", 2),
    ]  # fmt: skip
    assert found[0].speedup == 1 and found[1].over == "llama.cpp"
    assert "no batch" in str(found[2].note) and found[3].over_one_row


@pytest.mark.usefixtures("library")
def test_a_file_of_another_model_has_no_time(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Llama, "noise", {"7": 1.4, "15": 0.5, "0": 0.01})
    found = rows(replace(plan, dtypes=("float32",)))
    assert [bool(row.samples_ms) for row in found[:3]] == [False, False, True]
    assert (
        str(found[1].note).startswith("small-q8_0.gguf: wrong: relative RMS error") and not found[1].speedup
    )
    assert found[3].over == "llama.cpp" and found[3].speedup


def test_a_library_that_is_missing_is_a_reason(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    monkeypatch.setattr(llama_cpp, "find_spec", lambda name: None)
    found = rows(replace(plan, gguf=(), dtypes=("float32",)))
    assert "llama-cpp-python is not installed" in str(found[0].note) and found[1].samples_ms
    assert features() is None


def test_files_go_to_the_model_whose_name_they_begin_with(tmp_path: Path) -> None:
    names = ["m-130m-f32.gguf", "m-130m-large-f32.gguf", "n.gguf"]
    first, large, other = (_file(tmp_path / "gguf", name) for name in names)
    models = ("m-130m", "org/m-130m-large", "/at/n")
    assert files_of([tmp_path / "gguf", first], models) == {
        "m-130m": (first,), "org/m-130m-large": (large,), "/at/n": (other,),
    }  # fmt: skip
    assert files_of([first, other], ("any",)) == {"any": (first, other)}
    assert files_of([], models) == {name: () for name in models}
    for wrong, words in (
        ([other], "of which model"), ([tmp_path / "no.gguf"], "no such file"), ([tmp_path], "no \\*.gguf"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            files_of(wrong, models[:2])
