"""Weight files on disk, in every published form, read without ever running what they contain.

Forms, in the order of preference: `model.safetensors`, its shards (`model.safetensors.index.json`),
`pytorch_model.bin`, its shards (`pytorch_model.bin.index.json`). Names are cleaned only of what no
architecture uses; renaming is the business of each model's `from_checkpoint`.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jrtcli.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

FORMS = ("model.safetensors", "pytorch_model.bin")
"""Names of the weights of a folder, the safer first; each also exists as shards with `<name>.index.json`."""

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_LFS = b"version https://git-lfs.github.com/spec/"
_WHOLE_BYTES = 1 << 18
_BLOCK_BYTES = 4096
_BLOCKS = 16


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object: bare Infinity and NaN, and transformers' {"__float__": "Infinity"}, become floats.

    Raises CheckpointError where the file is missing, not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"), object_hook=_floats)
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}: it is not a checkpoint folder") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} is not valid JSON ({reason}); fetch the file again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__} where an object belongs")
    return value


def _floats(value: dict[str, Any]) -> Any:
    if set(value) == {"__float__"}:
        try:
            return float(value["__float__"])
        except (TypeError, ValueError):
            return value
    return value


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights of a folder: one, or its shards in the order of their names.

    Raises CheckpointError where there is none, an index is wrong, or shards are missing.
    """
    return list(_plan(folder))


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder by its published name, cleaned (`clean`), in the dtype it is stored in.

    Files are memory-mapped where the format allows it, so that a tensor costs memory once it is used.
    Raises CheckpointError for files that are missing, damaged, or hold anything but tensors.
    """
    weights: dict[str, Tensor] = {}
    for path, names in _plan(folder).items():
        tensors = _read_file(path)
        if names is None:
            weights.update(tensors)
            continue
        absent = sorted(names - set(tensors))
        if absent:
            raise CheckpointError(f"{path} lacks {absent[0]}, which the index of its folder says it holds")
        for name, tensor in tensors.items():
            if name in names:
                weights[name] = tensor
    cleaned = clean(weights)
    if not cleaned:
        raise CheckpointError(f"{folder} holds no weights: its files are empty")
    return cleaned


def clean(weights: Mapping[str, Any]) -> dict[str, Tensor]:
    """Names without what some published files add and no model uses.

    Dropped: entries of training metrics, tables of rotary frequencies (computed here), anything that is not
    a tensor. A leading `model.` goes where the files of prefix-linear-attention have it, in front of
    `transformer.` or `backbone.`; GLA's `model.` belongs to its names and stays.
    """
    from torch import Tensor

    prefixed = any(name.startswith(("model.transformer.", "model.backbone.")) for name in weights)
    cleaned: dict[str, Tensor] = {}
    for name, value in weights.items():
        if "metrics" in name or name.endswith("rotary_emb.inv_freq") or not isinstance(value, Tensor):
            continue
        cleaned[name.removeprefix("model.") if prefixed else name] = value
    return cleaned


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 that tells checkpoints apart, the same for one file, shards, safetensors and pickle.

    Over names, dtypes, shapes and values in the order of the names. A tensor above 256 KiB enters with 16
    blocks of 4 KiB spread over it from its first byte to its last: gigabytes cost milliseconds, and training
    changes every tensor everywhere, but a single value changed by hand can go unseen.
    """
    import torch

    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        if not tensor.numel():
            continue
        data = tensor.contiguous().reshape(-1).view(torch.uint8).cpu().numpy()
        if data.nbytes <= _WHOLE_BYTES:
            digest.update(data.tobytes())
            continue
        for i in range(_BLOCKS):
            start = (data.nbytes - _BLOCK_BYTES) * i // (_BLOCKS - 1)
            digest.update(data[start : start + _BLOCK_BYTES].tobytes())
    return digest.hexdigest()


def _plan(folder: Path) -> dict[Path, set[str] | None]:
    """File -> the names to take from it, None for all."""
    for form in FORMS:
        if (folder / form).is_file():
            return {folder / form: None}
        index = folder / f"{form}.index.json"
        if index.is_file():
            return _shards(index)
    present = sorted(path.name for path in folder.glob("*") if path.suffix in (".safetensors", ".bin", ".pt"))
    also = f"; it has {', '.join(present[:3])}, which none of these names" if present else ""
    raise CheckpointError(
        f"{folder} has no weights: neither {FORMS[0]} nor {FORMS[1]}, whole or with an index{also}"
    )


def _shards(index: Path) -> dict[Path, set[str] | None]:
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise CheckpointError(f"{index} has no weight_map; fetch the file again")
    plan: dict[Path, set[str] | None] = {}
    suffix = index.name.removesuffix(".index.json").rpartition(".")[2]
    for name, file in where.items():
        # Only a plain name beside the index: an index comes from elsewhere and must not reach further.
        if not isinstance(file, str) or Path(file).name != file or "\\" in file or ":" in file:
            raise CheckpointError(f"{index} names {file!r}, which is not a file name inside its folder")
        if not file.endswith(f".{suffix}"):
            raise CheckpointError(f"{index} names {file!r}, which is not a .{suffix} file")
        names = plan.setdefault(index.parent / file, set())
        assert names is not None
        names.add(name)
    plan = dict(sorted(plan.items()))
    missing = [path.name for path in plan if not path.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(
            f"{index.parent} lacks {missing[0]}{more} of the {len(plan)} shards of its index; "
            "fetch the missing files"
        )
    return plan


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    if head.startswith(_LFS):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` there")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_pickle(path, zipped=head.startswith(b"PK"))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise _damaged(path, error) from error


def _read_pickle(path: Path, *, zipped: bool) -> dict[str, Tensor]:
    import pickle

    import torch

    try:
        with warnings.catch_warnings():
            # torch warns of pickle protocols that it then reads, or refuses with an error.
            warnings.simplefilter("ignore", UserWarning)
            # Only the zip form (torch >= 1.6) can be memory-mapped.
            value = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() or "Unsupported" in str(error):
            raise CheckpointError(
                f"{path} holds more than tensors and is not read, because unpickling it could run code; "
                "use a safetensors copy of these weights"
            ) from error
        raise _damaged(path, error) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise _damaged(path, error) from error
    return _unwrap(path, value)


def _unwrap(path: Path, value: Any) -> dict[str, Tensor]:
    """The tensors of a pickle, also where a trainer saved them inside its own checkpoint."""
    from torch import Tensor

    if isinstance(value, Mapping):
        for wrapper in _WRAPPERS:
            inner = value.get(wrapper)
            if isinstance(inner, Mapping):
                value = inner
                break
        tensors = {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if tensors:
            return tensors
    raise CheckpointError(f"{path} holds no tensors by name: it is not the weights of a model")


def _damaged(path: Path, error: BaseException) -> CheckpointError:
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return CheckpointError(f"{path} is damaged or cut short ({reason}); fetch the file again")
