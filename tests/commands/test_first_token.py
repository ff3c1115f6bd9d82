"""What happens before the first token: nothing is imported, copied or looked through that is not needed."""

from __future__ import annotations

import gc
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from jrtcli import load
from jrtcli.commands.ask import made_to_stay
from jrtcli.models import architecture
from jrtcli.tokenizer_json import _continuation


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent.parent / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = _load("tiny_checkpoint")
MAMBA = {
    "model_type": "mamba", "architectures": ["MambaForCausalLM"], "vocab_size": 432, "hidden_size": 32,
    "num_hidden_layers": 2, "state_size": 4,
}  # fmt: skip
MAMBA2 = MAMBA | {
    "model_type": "mamba2", "architectures": ["Mamba2ForCausalLM"], "state_size": 16, "num_heads": 2,
    "head_dim": 32, "n_groups": 1, "tie_word_embeddings": True,
}  # fmt: skip
UNNEEDED = (
    "transformers", "huggingface_hub", "accelerate", "ray", "lm_eval", "triton", "sympy", "requests",
    "torch._dynamo", "torch._inductor", "numba.cuda", "pypdf", "mammoth", "selectolax",
    "jrtcli.batch", "jrtcli.bench", "jrtcli.evaluate", "jrtcli.probe", "jrtcli.train", "jrtcli.tasks",
)  # fmt: skip


def _save(config: dict[str, object], folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    folder.mkdir()
    torch.manual_seed(0)
    weights = architecture(str(config["model_type"])).from_config(config).to_checkpoint()[1]
    save_file({name: x.to(dtype).contiguous() for name, x in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    tiny.save_tokenizer(folder)
    return folder


@pytest.mark.parametrize("config", [MAMBA, MAMBA2], ids=["mamba", "mamba2"])
def test_an_answer_needs_none_of_these(
    config: dict[str, object], tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = _save(config, tmp_path / "model")
    (tmp_path / "doc.txt").write_text(tiny.TEXT)
    asked = ["ask", "--doc", str(tmp_path / "doc.txt"), "-Q", "Who?", "-m", str(folder), "--backend", "torch"]
    code = (
        f"import sys; from jrtcli.cli import main; code = main({[*asked, '--max-new-tokens', '2']!r})\n"
        f"print([n for n in {UNNEEDED!r} if n in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == "[]", done.stderr


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of memory maps")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_weights_are_used_where_the_file_is_mapped(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = _save(MAMBA, tmp_path / "model", dtype)
    model = load(folder, dtype=str(dtype).removeprefix("torch.")).model
    maps = [
        [int(end, 16) for end in line.split()[0].split("-")]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith("model/model.safetensors")
    ]
    matrices = [w for w in model.parameters() if w.dim() == 2 and w.dtype == dtype]
    assert len(matrices) >= 9
    for w in matrices:
        assert any(first <= w.data_ptr() < last for first, last in maps)


def test_garbage_is_looked_for_again_after_loading() -> None:
    assert gc.isenabled()
    before = gc.get_freeze_count()
    try:
        with pytest.raises(KeyError), made_to_stay():
            assert not gc.isenabled()
            kept = [[] for _ in range(1000)]  # type: ignore[var-annotated]
            raise KeyError
        assert gc.isenabled() and gc.get_freeze_count() >= before + len(kept)
        gc.disable()
        with made_to_stay():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()


def test_a_continuation_leaves_the_tokenizer_it_comes_from_alone() -> None:
    spec = {
        "model": {"vocab": {"a": 0}},
        "pre_tokenizer": {
            "type": "Sequence", "pretokenizers": [{"type": "Metaspace", "prepend_scheme": "first"}],
        },
        "decoder": {"type": "Metaspace", "prepend_scheme": "first"},
    }  # fmt: skip
    before = json.dumps(spec)
    rest = _continuation(spec)
    assert rest is not None and json.dumps(spec) == before
    assert rest["decoder"]["prepend_scheme"] == "never"
    assert rest["pre_tokenizer"]["pretokenizers"][0]["prepend_scheme"] == "never"
    assert rest["model"] is spec["model"]
    assert _continuation({"model": {}, "decoder": {"type": "ByteLevel"}}) is None
