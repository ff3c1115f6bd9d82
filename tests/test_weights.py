"""Every form of weights on disk gives the same tensors; nothing in a file is ever run."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from jrtcli.errors import CheckpointError
from jrtcli.weights import clean, fingerprint, read_json, read_weights, weight_files

Weights = dict[str, Tensor]


def tensors() -> Weights:
    """Mixed dtypes, a scalar, an empty tensor, one above the size that a fingerprint takes whole."""
    torch.manual_seed(0)
    return {
        "backbone.embedding.weight": torch.randn(300, 300),
        "backbone.layers.0.mixer.in_proj.weight": torch.randn(6, 4).half(),
        "backbone.layers.0.mixer.D": torch.randn(3),
        "backbone.layers.0.norm.weight": torch.randn(4).bfloat16(),
        "backbone.scale": torch.tensor(2.5),
        "backbone.none": torch.empty(0, 4),
    }


def whole_bin(folder: Path, weights: Weights) -> None:
    torch.save(weights, folder / "pytorch_model.bin")


def old_bin(folder: Path, weights: Weights) -> None:
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def whole_safetensors(folder: Path, weights: Weights) -> None:
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def wrapped_bin(folder: Path, weights: Weights) -> None:
    torch.save({"state_dict": weights, "epoch": 3, "lr": 0.1}, folder / "pytorch_model.bin")


def _shards(folder: Path, weights: Weights, form: str, save: Callable[[Weights, Path], None]) -> None:
    stem, suffix = form.split(".")
    names = sorted(weights)
    parts = {f"{stem}-0000{i + 1}-of-00002.{suffix}": names[i::2] for i in range(2)}
    for file, held in parts.items():
        save({name: weights[name] for name in held}, folder / file)
    where = {name: file for file, held in parts.items() for name in held}
    (folder / f"{form}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def sharded_bin(folder: Path, weights: Weights) -> None:
    _shards(folder, weights, "pytorch_model.bin", lambda part, path: torch.save(part, path))


def sharded_safetensors(folder: Path, weights: Weights) -> None:
    _shards(folder, weights, "model.safetensors", lambda part, path: save_file(part, path))


FORMS = [whole_bin, old_bin, wrapped_bin, whole_safetensors, sharded_bin, sharded_safetensors]
every_form = pytest.mark.parametrize("save", FORMS)


@every_form
def test_every_form_reads_the_same(tmp_path: Path, save: Callable[[Path, Weights], None]) -> None:
    save(tmp_path, tensors())
    found = read_weights(tmp_path)
    assert set(found) == set(tensors())
    for name, tensor in tensors().items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert fingerprint(found) == fingerprint(tensors())


@pytest.mark.parametrize(
    ("name", "position"),
    [
        ("backbone.layers.0.mixer.D", 1),
        ("backbone.embedding.weight", 0),
        ("backbone.embedding.weight", 300 * 300 - 1),
    ],
)
def test_fingerprint_sees_another_value(name: str, position: int) -> None:
    other = tensors()
    other[name].view(-1)[position] += 1
    assert fingerprint(other) != fingerprint(tensors())


def test_fingerprint_sees_training_names_dtypes_and_shapes() -> None:
    whole = tensors()
    changed = [
        whole | {"backbone.embedding.weight": whole["backbone.embedding.weight"] * 1.001},
        whole | {"backbone.more": torch.zeros(1)},
        whole | {"backbone.none": torch.empty(0, 5)},
        whole | {"backbone.scale": torch.tensor(2.5, dtype=torch.float64)},
    ]
    assert len({fingerprint(w) for w in [whole, *changed]}) == 5


def test_safetensors_come_first(tmp_path: Path) -> None:
    whole_safetensors(tmp_path, tensors())
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    assert [path.name for path in weight_files(tmp_path)] == ["model.safetensors"]
    assert len(read_weights(tmp_path)) == len(tensors())


def test_prefixes_and_entries_that_no_model_uses() -> None:
    one = torch.ones(1)
    hazy = {
        "model.backbone.embedding.weight": one,
        "model.lm_head.weight": one,
        "train_metrics.num-tokens.count": torch.tensor(3),
        "val_metrics.loss": one,
        "model.transformer.layers.0.mixer.rotary_emb.inv_freq": one,
    }
    assert set(clean(hazy)) == {"backbone.embedding.weight", "lm_head.weight"}
    assert set(clean({"model.transformer.ln_f.weight": one, "lm_head.weight": one})) == {
        "transformer.ln_f.weight",
        "lm_head.weight",
    }
    gla = {"model.embeddings.weight": one, "model.layers.0.attn.q_proj.weight": one, "lm_head.weight": one}
    assert set(clean(gla)) == set(gla)


class _Touch:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00001.bin"])
def test_a_pickle_with_code_does_not_run(tmp_path: Path, name: str, zipped: bool) -> None:
    marker = tmp_path / "ran"
    evil = {"backbone.embedding.weight": torch.ones(2), "evil": _Touch(marker)}
    torch.save(evil, tmp_path / name, _use_new_zipfile_serialization=zipped)
    if name != "pytorch_model.bin":
        index = {"weight_map": {"backbone.embedding.weight": name}}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="could run code") as caught:
        read_weights(tmp_path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_a_plain_pickle_with_code_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(_Touch(marker)))
    with pytest.raises(CheckpointError):
        read_weights(tmp_path)
    assert not marker.exists()


@every_form
@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.98])
def test_a_file_cut_short_is_one_line(
    tmp_path: Path, save: Callable[[Path, Weights], None], keep: float
) -> None:
    save(tmp_path, tensors())
    path = weight_files(tmp_path)[-1]
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep >= 1 else keep * len(data))])
    with pytest.raises(CheckpointError) as caught:
        read_weights(tmp_path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_noise_is_one_line(tmp_path: Path) -> None:
    noise = bytes(range(256)) * 40
    for name in ("pytorch_model.bin", "model.safetensors"):
        (tmp_path / name).write_bytes(noise)
        with pytest.raises(CheckpointError, match=name) as caught:
            read_weights(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_git_lfs_pointer_says_so(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 517\n"
    (tmp_path / "model.safetensors").write_text(pointer)
    with pytest.raises(CheckpointError, match="git lfs pull"):
        read_weights(tmp_path)


@pytest.mark.parametrize("save", [sharded_bin, sharded_safetensors])
def test_a_missing_shard_is_named(tmp_path: Path, save: Callable[[Path, Weights], None]) -> None:
    save(tmp_path, tensors())
    gone = weight_files(tmp_path)[0]
    gone.unlink()
    with pytest.raises(CheckpointError, match=f"lacks {gone.name} of the 2 shards"):
        read_weights(tmp_path)


def test_a_shard_without_its_tensor_is_named(tmp_path: Path) -> None:
    sharded_safetensors(tmp_path, tensors())
    index = tmp_path / "model.safetensors.index.json"
    value = json.loads(index.read_text())
    value["weight_map"]["lm_head.weight"] = value["weight_map"]["backbone.scale"]
    index.write_text(json.dumps(value))
    with pytest.raises(CheckpointError, match=r"lacks lm_head\.weight"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    "file",
    ["../outside.safetensors", "/etc/passwd", "sub/x.safetensors", "..\\x.safetensors", "c:x.safetensors", 3],
)
def test_an_index_does_not_reach_outside_its_folder(tmp_path: Path, file: object) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "outside.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(CheckpointError, match="not a file name inside its folder"):
        read_weights(folder)


def test_a_safetensors_index_cannot_name_a_pickle(tmp_path: Path) -> None:
    whole_bin(tmp_path, tensors())
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"backbone.scale": "pytorch_model.bin"}})
    )
    with pytest.raises(CheckpointError, match=r"not a \.safetensors file"):
        read_weights(tmp_path)


def test_shards_may_be_links_as_in_the_cache_of_the_hub(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    sharded_safetensors(snapshot, tensors())
    for path in weight_files(snapshot):
        path.rename(blobs / path.name)
        path.symlink_to(blobs / path.name)
    assert set(read_weights(snapshot)) == set(tensors())


@pytest.mark.parametrize("value", [[1, 2], {"a": 3}, "text", {}])
def test_a_pickle_of_something_else_is_an_error(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="not the weights of a model"):
        read_weights(tmp_path)


def test_no_weights_at_all(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "expected.safetensors")
    with pytest.raises(CheckpointError, match=r"has no weights.*it has expected\.safetensors"):
        read_weights(tmp_path)


def test_floats_that_are_no_json(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(
        '\ufeff{"a": [0.0, Infinity], "b": NaN, "c": {"__float__": "Infinity"}, '
        '"d": {"__float__": 1, "x": 2}}'
    )
    value = read_json(path)
    assert value["a"] == [0.0, math.inf]
    assert math.isnan(value["b"])
    assert value["c"] == math.inf
    assert value["d"] == {"__float__": 1, "x": 2}


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "\x00", "[" * 100_000])
def test_json_that_is_no_object_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_json_that_is_not_text_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        read_json(path)
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        read_json(path)
