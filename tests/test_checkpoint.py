"""A name, hub id or folder becomes a model, and says in one line why it does not."""

from __future__ import annotations

import importlib
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import jrtcli
from jrtcli import known
from jrtcli.checkpoint import MAX_LAYERS, load, locate
from jrtcli.detection import detect, family_of
from jrtcli.errors import CheckpointError, JrtError, UsageError
from jrtcli.models import ARCHITECTURES
from jrtcli.placement import resolve_backend, resolve_device, resolve_dtype
from jrtcli.weights import read_weights

GOLDENS = {
    "attn-transformerpp": "transformer",
    "based-hybrid": "based",
    "gla": "gla",
    "jrt-rnn": "jrt_rnn",
    "mamba1-hazy": "mamba",
    "mamba1-hf": "mamba",
    "mamba1-ssm": "mamba",
    "mamba2-hf": "mamba2",
    "mamba2-ssm": "mamba2",
}
every_golden = pytest.mark.parametrize(("case", "architecture"), GOLDENS.items())
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def word_tokenizer(folder: Path, size: int) -> None:
    """A tokenizer of `size` words, as tokenizer.json."""
    from tokenizers import Tokenizer, models

    words = {f"w{i}": i for i in range(size)}
    Tokenizer(models.WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, with the network switched off as HF_HUB_OFFLINE does."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def into_cache(cache: Path, repo_id: str, source: Path) -> Path:
    """Puts a folder into the cache as the main branch of a repository."""
    repo = cache / f"models--{repo_id.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    snapshot = repo / "snapshots" / COMMIT
    shutil.copytree(source, snapshot)
    return snapshot


@every_golden
def test_goldens_load(
    golden: Path, cache: Path, case: str, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else those that are stored in bfloat16 stay so, on some processors.
    monkeypatch.setattr("jrtcli.models.linear.multiplies_bf16", lambda: False)
    loaded = load(golden / case)
    assert loaded.identity.architecture == loaded.model.architecture == architecture
    assert loaded.identity.name == case
    assert loaded.identity.source == str(golden / case)
    assert loaded.identity.revision is None
    backend = "torch" if architecture == "transformer" else "numba"
    assert (loaded.device, loaded.dtype, loaded.backend) == ("cpu", "float32", backend)
    assert loaded.known is None
    assert loaded.template == ("cq" if architecture == "jrt_rnn" else "cqcq")
    expected = load_file(golden / case / "expected.safetensors")
    run = next(name.removesuffix(".input_ids") for name in expected if name.endswith(".input_ids"))
    logits = loaded.model(expected[f"{run}.input_ids"][:, :7])
    # Weights alone are a model: without a tokenizer every row can be drawn.
    assert loaded.real_tokens == loaded.model.vocab_size == logits.shape[-1]
    assert torch.isfinite(logits).all()
    with pytest.raises(CheckpointError, match="--tokenizer"):
        _ = loaded.tokenizer


@every_golden
def test_detected_by_keys_where_the_configuration_says_nothing(
    golden: Path, case: str, architecture: str
) -> None:
    weights = read_weights(golden / case)
    config = json.loads((golden / case / "config.json").read_text())
    assert detect(config, weights) == architecture
    assert detect({}, weights) == architecture
    assert detect({"model_type": "gpt2"}, weights) == architecture


def test_a_saved_model_loads_again(golden: Path, tmp_path: Path) -> None:
    for case in ("based-hybrid", "mamba2-ssm"):
        before = load(golden / case)
        config, weights = before.model.to_checkpoint()
        folder = tmp_path / case
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        save_file({name: tensor.clone() for name, tensor in weights.items()}, folder / "model.safetensors")
        after = load(folder)
        tokens = torch.arange(20)[None]
        assert torch.equal(after.model(tokens), before.model(tokens))
        assert after.identity.parameters == before.identity.parameters


def test_the_configuration_may_name_one_of_ours() -> None:
    for name in ARCHITECTURES:
        assert detect({"model_type": name}, ["anything"]) == name


@pytest.mark.parametrize(
    ("config", "keys", "message"),
    [
        ({"model_type": "llama"}, ["model.layers.0.self_attn.q_proj.weight"], "model_type 'llama'"),
        ({}, ["transformer.h.0.attn.c_attn.weight"], "no model_type"),
        ({"ssm_cfg": {"layer": "Mamba2"}, "attn_layer_idx": [9]}, ["a.mixer.A_log"], "mixes Mamba"),
        ({}, ["l.0.mixer.A_log", "l.1.mixer.Wqkv.weight"], "mixes Mamba"),
    ],
)
def test_an_architecture_that_jrt_does_not_have(
    config: dict[str, Any], keys: list[str], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        detect(config, keys, "x")


def test_remote_code_is_never_imported(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, marker = tmp_path / "evil", tmp_path / "ran"
    shutil.copytree(golden / "mamba1-ssm", folder)
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoTokenizer": "evil.Tok"}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": names, "trust_remote_code": True}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": names, "tokenizer_class": "Tok"}))
    for file in ("evil.py", "modeling.py", "__init__.py"):
        (folder / file).write_text(f"open({str(marker)!r}, 'w').close()\n")
    word_tokenizer(folder, 509)
    monkeypatch.chdir(folder)
    loaded = load(folder)
    assert loaded.tokenizer.size == loaded.real_tokens == 509
    assert not marker.exists()
    assert "evil" not in sys.modules


def test_padding_rows_are_no_tokens(golden: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(golden / "mamba1-ssm", folder)
    word_tokenizer(folder, 500)
    loaded = load(folder)
    assert loaded.model.vocab_size == 512
    assert loaded.real_tokens == 500


def test_another_models_tokenizer_is_refused(golden: Path, tmp_path: Path) -> None:
    word_tokenizer(tmp_path, 513)
    loaded = load(golden / "mamba1-ssm", tokenizer=tmp_path / "tokenizer.json")
    for attribute in ("tokenizer", "real_tokens"):
        with pytest.raises(CheckpointError, match="513 tokens, the model mamba1-ssm only 512 rows"):
            getattr(loaded, attribute)


def test_settings_beside_the_weights(golden: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(golden / "jrt-rnn", folder)
    (folder / "jrt.json").write_text(json.dumps({"template": "qcq", "context_tokens": 512, "stop": ["\n"]}))
    located = locate(folder)
    assert (located.template, located.context_tokens) == ("qcq", 512)
    assert located.settings["stop"] == ["\n"]
    # Beside weights from the hub it must not reach a file of this machine.
    (tmp_path / "mine.toml").write_text("parts = [{ context = true }, { question = true }]")
    for wrong in ("nosuch", str(tmp_path / "mine.toml"), "../mine.toml"):
        (folder / "jrt.json").write_text(json.dumps({"template": wrong}))
        with pytest.raises(CheckpointError, match="which is not built in: take one of ccq, "):
            _ = locate(folder).template
    (folder / "jrt.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"jrt\.json"):
        locate(folder)


def test_infinity_in_a_configuration(golden: Path) -> None:
    assert locate(golden / "mamba2-hf").config["time_step_limit"] == [0.0, math.inf]


def test_a_folder_comes_before_a_short_name(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mamba-130m").mkdir()
    with pytest.raises(CheckpointError, match="state-spaces/mamba-130m is not in the cache"):
        locate("mamba-130m")
    shutil.copytree(golden / "mamba1-ssm", tmp_path / "mamba-130m", dirs_exist_ok=True)
    located = locate("mamba-130m")
    assert located.source == str(tmp_path / "mamba-130m")
    assert located.known is None


def test_the_bundled_name(golden: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(known, "BUNDLED", tmp_path / "none")
    with pytest.raises(CheckpointError, match="lacks the bundled model"):
        load("tiny")
    shutil.copytree(golden / "mamba1-hf", tmp_path / "bundled" / "tiny")
    monkeypatch.setattr(known, "BUNDLED", tmp_path / "bundled")
    loaded = load("tiny")
    assert (loaded.identity.name, loaded.identity.source) == ("tiny", "bundled")
    assert loaded.known is not None
    assert loaded.known.bundled


def test_offline_and_cached(golden: Path, cache: Path) -> None:
    snapshot = into_cache(cache, "state-spaces/mamba-130m", golden / "mamba1-ssm")
    for name in ("mamba-130m", "state-spaces/mamba-130m"):
        loaded = load(name)
        assert loaded.folder == snapshot
        assert loaded.identity.name == "mamba-130m"
        assert loaded.identity.source == "state-spaces/mamba-130m"
        assert loaded.identity.revision == COMMIT
        assert loaded.known == known.find("mamba-130m")
        assert loaded.context_tokens == 2048
    assert load(name, revision=COMMIT).identity.revision == COMMIT


def test_offline_with_another_repository(golden: Path, cache: Path) -> None:
    into_cache(cache, "someone/else", golden / "gla")
    loaded = load("someone/else")
    assert loaded.identity.architecture == "gla"
    assert loaded.known is None
    with pytest.raises(CheckpointError, match=r"no revision|not in the cache"):
        load("someone/else", revision="other")


@pytest.mark.parametrize("name", ["mamba2-130m", "someone/other"])
def test_offline_and_not_cached_says_what_to_do(cache: Path, name: str) -> None:
    hub_id = "state-spaces/mamba2-130m" if name == "mamba2-130m" else name
    with pytest.raises(CheckpointError) as caught:
        load(name)
    message = str(caught.value)
    assert "\n" not in message
    assert "HF_HUB_OFFLINE is set" in message
    assert f"hf download {hub_id}" in message
    assert "--model FOLDER" in message


def test_a_family_tokenizer_from_the_cache(golden: Path, cache: Path, tmp_path: Path) -> None:
    into_cache(cache, "state-spaces/mamba-130m", golden / "mamba1-ssm")
    loaded = load("mamba-130m")
    with pytest.raises(CheckpointError, match=r"hf download EleutherAI/gpt-neox-20b.*--tokenizer FOLDER"):
        _ = loaded.tokenizer
    words = tmp_path / "words"
    words.mkdir()
    word_tokenizer(words, 505)
    into_cache(cache, "EleutherAI/gpt-neox-20b", words)
    loaded = load("mamba-130m")
    assert loaded.tokenizer.source == "EleutherAI/gpt-neox-20b"
    assert loaded.real_tokens == 505


def test_the_environment_of_the_hub_is_obeyed(golden: Path, tmp_path: Path) -> None:
    """In a process of its own, with HF_HOME and HF_HUB_OFFLINE as a user sets them; torch is not needed."""
    into_cache(tmp_path / "hub", "hazyresearch/JRT-360M-30B", golden / "jrt-rnn")
    program = (
        "import sys; from jrtcli.checkpoint import locate\n"
        "try: print(locate(sys.argv[1]).revision, 'torch' in sys.modules)\n"
        "except Exception as error: print(error)"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}

    def run(name: str) -> str:
        command = [sys.executable, "-c", program, name]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert not done.stderr
        return done.stdout.strip()

    assert run("jrt-360m-30b") == f"{COMMIT} False"
    assert "HF_HUB_OFFLINE is set" in run("jrt-1b-50b")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mamba-130", "did you mean mamba-130m"),
        ("nonsense", "neither a folder, a short name"),
        ("./nowhere", "there is no folder ./nowhere"),
        ("/no/such/place", "there is no folder"),
        ("a/b/c", "there is no folder a/b/c"),
        ("", "no model ''"),
        ("bad name/x y", "no model"),
    ],
)
def test_a_name_that_is_nothing(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_what_is_given_is_not_a_checkpoint_folder(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="is a file: give the folder"):
        load(golden / "gla" / "model.safetensors")
    monkeypatch.chdir(golden)
    with pytest.raises(CheckpointError, match=r"gla/config\.json is a file: give the folder"):
        load("gla/config.json")  # it could be a hub id
    shutil.copy(golden / "gla" / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match="has no weights"):
        load(tmp_path)
    with pytest.raises(UsageError, match="--revision"):
        load(golden / "gla", revision="main")


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
@every_golden
def test_a_key_that_does_not_fit_is_named_with_both_shapes(
    golden: Path, tmp_path: Path, case: str, architecture: str, change: str
) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    shutil.copy(golden / case / "config.json", folder)
    weights = {name: tensor.clone() for name, tensor in read_weights(golden / case).items()}
    name = next(
        name for name in weights if name.endswith("out_proj.weight") or name.endswith("o_proj.weight")
    )
    if change == "missing":
        del weights[name]
    elif change == "unexpected":
        name = name.replace("proj.weight", "proj.extra")
        weights[name] = torch.zeros(3, 5)
    else:
        weights[name] = torch.zeros(3, 5)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    message = str(caught.value)
    # A model may rename its modules: the end of the name is what a user recognises.
    assert change in message
    assert "proj" in message
    assert "\n" not in message
    if change != "missing":
        assert "3, 5" in message


def test_a_configuration_that_makes_no_model_is_one_line(golden: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(golden / "gla", folder)
    deep = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": MAX_LAYERS + 1}
    for config in ({"model_type": "gla"}, {"model_type": "gla", "hidden_size": "big"}, deep):
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError) as caught:
            load(folder)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "family"),
    [
        ({"vocab_size": 50277, "ssm_cfg": {}}, "gpt-neox-20b"),
        ({"vocab_size": 50277, "ssm_cfg": {}, "n_embd": 1024}, "gpt2"),
        ({"vocab_size": 50280, "model_type": "mamba"}, "gpt-neox-20b"),
        ({"vocab_size": 50257, "model_type": "gpt2"}, "gpt2"),
        ({"vocab_size": 32000, "model_type": "gla"}, "mistral-7b-v0.1"),
        ({"vocab_size": 300}, None),
    ],
)
def test_the_family_of_a_published_file(config: dict[str, Any], family: str | None) -> None:
    assert family_of(config) == family


def test_dtypes(golden: Path) -> None:
    assert resolve_dtype("auto", "cpu") == "float32"
    assert resolve_dtype("auto", "cuda:0") == "bfloat16"
    for name in ("bf16", "bfloat16", "torch.bfloat16"):
        assert resolve_dtype(name, "cpu") == "bfloat16"
    assert (resolve_dtype("fp16", "cpu"), resolve_dtype("fp32", "cuda:0")) == ("float16", "float32")
    with pytest.raises(UsageError, match="no dtype 'int8'"):
        resolve_dtype("int8", "cpu")
    loaded = load(golden / "based-hybrid", dtype="bf16")
    assert loaded.dtype == "bfloat16"
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == "cpu"
    with pytest.raises(UsageError, match="has no GPU that this torch can use"):
        resolve_device("cuda")
    for name in ("gpu", "", "cuda:x", "meta", "cpu:7:8"):
        with pytest.raises(UsageError, match="there is no device"):
            resolve_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert (resolve_device("auto"), resolve_device("cuda"), resolve_device("cuda:1")) == (
        "cuda:0",
        "cuda:0",
        "cuda:1",
    )
    with pytest.raises(UsageError, match="has 2 GPUs"):
        resolve_device("cuda:2")


def test_backends(golden: Path) -> None:
    for kind in ARCHITECTURES:
        # Softmax attention is matrix products, which numba has no code for.
        assert resolve_backend("auto", kind, "cpu") == ("torch" if kind == "transformer" else "numba")
        assert resolve_backend("naive", kind, "cpu") == "naive"
    with pytest.raises(UsageError, match="gla has no backend 'cuda': take auto or naive, torch, numba"):
        resolve_backend("cuda", "gla", "cpu")
    tokens = torch.arange(12)[None]
    one, two = (load(golden / "mamba1-ssm", backend=name) for name in ("naive", "torch"))
    assert (one.backend, two.backend) == ("naive", "torch")
    assert torch.allclose(one.model(tokens), two.model(tokens), atol=1e-4)


def test_errors_are_for_users() -> None:
    assert issubclass(CheckpointError, JrtError)
    assert jrtcli.load is importlib.import_module("jrtcli.checkpoint").load
