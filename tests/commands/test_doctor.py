"""`jrt doctor`: the facts of this machine, and a model whose laws are broken is found out."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from jrtcli import laws, machine
from jrtcli.cli import main
from jrtcli.machine import EXTRAS, Package, install_command, processor
from jrtcli.models import ARCHITECTURES


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent.parent / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = _load("tiny_checkpoint")


def test_the_facts_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert torch.__version__ in said and "threads" in said
    for name in [*EXTRAS, *ARCHITECTURES]:
        assert name in said


def test_json_has_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["machine"]["torch"] == torch.__version__
    assert {backend["architecture"] for backend in said["machine"]["backends"]} == set(ARCHITECTURES)
    assert said["checks"] == [] and said["model"] is None


@pytest.mark.parametrize(("kind", "enc_length"), [("based", None), ("jrt_rnn", None), ("jrt_rnn", 64)])
def test_a_good_model_keeps_the_laws(
    kind: str, enc_length: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny.save(tmp_path / "model", kind, enc_length=enc_length)
    assert main(["doctor", "--model", str(folder), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["model"]["architecture"] == kind
    assert len(said["checks"]) >= 5 and all(check["passed"] for check in said["checks"])
    assert {check["law"] for check in said["checks"]} == {"split anywhere", "alone or together"}
    assert max(check["logits"] for check in said["checks"]) < 1e-4


def test_a_model_that_forgets_its_state_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "model")
    from jrtcli.models.base import RecurrentLM

    original = RecurrentLM.prefill

    def forgets(self: Any, tokens: Any, state: Any = None, **options: Any) -> Any:
        return original(self, tokens, None, **options)

    monkeypatch.setattr(RecurrentLM, "prefill", forgets)
    assert main(["doctor", "--model", str(folder)]) == 1


def test_a_model_that_reads_padding_fails() -> None:
    model = tiny.model()
    original = model.prefill

    def reads_padding(tokens: Any, state: Any = None, *, lengths: Any = None, **options: Any) -> Any:
        return original(tokens, state, **options)

    model.prefill = reads_padding
    failed = [check.way for check in laws.check(model, dtype="float32") if not check.passed]
    assert failed == ["three lengths, right padding"]


def test_nan_is_not_equal() -> None:
    a, b = torch.zeros(3), torch.tensor([0.0, float("nan"), 0.0])
    difference = laws.relative_rms([(a, b)])
    assert not laws.Check("law", "way", difference, 0.0, True, 1e-3).passed


def test_one_command_adds_what_is_of_use() -> None:
    packages = tuple(Package(name, None, extra, purpose) for name, (_, extra, purpose) in EXTRAS.items())
    without, with_gpu = install_command(packages, has_gpu=False), install_command(packages, has_gpu=True)
    assert without is not None and without.endswith("-m pip install 'jrt[docs,train]'")
    assert with_gpu is not None and "gpu" in with_gpu and "mamba-ssm" in with_gpu
    have = tuple(Package(name, "1", extra, purpose) for name, (_, extra, purpose) in EXTRAS.items())
    assert install_command(have, has_gpu=True) is None


def test_the_extras_are_those_of_the_project(root: Path) -> None:
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, (_, extra, _) in EXTRAS.items():
        assert any(requirement.startswith(name) for requirement in project[extra]), name


def test_the_processor_is_read(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nmodel name : A CPU\nflags : fpu avx2 amx_bf16\nmodel name : another\n")
    assert processor(cpuinfo) == ("A CPU", ("avx2", "amx_bf16"))
    assert processor(tmp_path / "missing")[1] == ()


def test_a_gpu_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tiny.save(tmp_path / "model"))
    if not torch.cuda.is_available():
        assert main(["doctor", "--model", folder, "--device", "cuda"]) == 2
        said = capsys.readouterr().err
        assert "this machine has no GPU that this torch can use" in said and "take --device cpu" in said
    assert main(["doctor", "--model", folder, "--device", "cpu", "--backend", "triton"]) == 2
    assert (
        "--backend triton runs on a CUDA device, not on cpu; take --backend auto" in capsys.readouterr().err
    )


def test_on_a_gpu_each_architecture_names_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    from jrt_kernels import registry

    monkeypatch.setattr(registry, "problem", lambda backend: None)
    for architecture in ARCHITECTURES:
        backend = machine._backend(architecture, "cuda:0")
        assert backend.backend == "triton"
        assert backend.reason.startswith("kernels for this GPU on cuda:0; also naive, torch")
    monkeypatch.setattr(
        registry, "problem", lambda backend: f"{backend} is not installed: pip install 'jrt[gpu]'"
    )
    backend = machine._backend("based", "cuda:0")
    assert backend.backend == "torch"
    assert "triton, which is faster, cannot be used: triton is not installed: pip install" in backend.reason
