"""A model to train with the weights of a checkpoint, also where it differs from the checkpoint's.

Four differences are bridged, in the Based family: layers put in between, an encoder that the checkpoint lacks
(its projections begin as copies of the causal ones), an encoder that the model lacks (its projections become
the causal ones: they hold what the model knows of a document), fewer features of the linear attention (the
query and key dimensions that carry most are kept).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jrtcli.detection import detect
from jrtcli.errors import CheckpointError, JrtError, UsageError
from jrtcli.models import architecture
from jrtcli.models.base import RecurrentLM
from jrtcli.models.hybrid import HybridLM, inner_name
from jrtcli.weights import read_json, read_weights

ENCODER = (".proj_k_enc.weight", ".proj_v_enc.weight", ".enc_conv.weight")


def warm_start(
    name: str | None, folder: Path, changes: Mapping[str, Any], inserted: Mapping[int, int] | None = None
) -> tuple[RecurrentLM, list[str]]:
    """A model of architecture `name` (None: the checkpoint's) with the weights of a checkpoint folder, and
    notes on what was made or dropped.

    changes: overrides of its config.json; tables are merged. inserted: place of a further layer in the model
    -> the checkpoint's layer that it begins as, silent. Raises CheckpointError when the folder holds no such
    model, UsageError for a change that no weights can follow.
    """
    try:
        config, weights = read_json(folder / "config.json"), dict(read_weights(folder))
    except JrtError as error:
        raise CheckpointError(f"no checkpoint to start from: {error}") from None
    was = detect(config, weights, folder)
    cls = architecture(name or was)
    merged = _merged(config, changes)
    notes: list[str] = []
    if inserted and not issubclass(cls, HybridLM):
        raise UsageError(f"model.inserted: layers are put into Based and JRT-RNN only, not into {was}")
    if issubclass(cls, HybridLM):
        if was not in ("based", "jrt_rnn", "transformer"):
            raise UsageError(f"model.init_from: {folder} is a {was} checkpoint, the recipe's model a {name}")
        # Under our names; a model's own to_checkpoint gives the published ones back.
        weights = {key: w for full, w in weights.items() if (key := inner_name(full)) is not None}
        if cls.architecture != was:
            merged["model_type"] = cls.architecture
        if inserted:
            weights = _insert(merged, weights, inserted, notes)
        if cls.has_encoder:
            _add_encoder(weights, notes)
        else:
            _drop_encoder(merged, weights, notes)
        _fewer_features(config, merged, weights, notes)
    elif cls.architecture != was:
        raise UsageError(
            f"model.init_from: {folder} is a {was} checkpoint, the recipe's model a {cls.architecture}"
        )
    return cls.from_checkpoint(merged, weights), notes


def _merged(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(config)
    for key, value in changes.items():
        before = merged.get(key)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        merged[key] = {**before, **value} if both else value  # type: ignore[dict-item]
    return merged


def _add_encoder(weights: dict[str, Tensor], notes: list[str]) -> None:
    """Give a causal model's linear attentions the encoder projections they lack, copies of their own."""
    added = 0
    for name in [n for n in weights if n.endswith(".mixer.proj_k.weight")]:
        mixer = name.removesuffix("proj_k.weight")
        if f"{mixer}proj_k_enc.weight" in weights:
            continue
        added += 1
        weights[f"{mixer}proj_k_enc.weight"] = weights[name].clone()
        weights[f"{mixer}proj_v_enc.weight"] = weights[f"{mixer}proj_v.weight"].clone()
        filters = weights.get(f"{mixer}qkv_conv.weight")
        if filters is not None:  # its rows are those of q, k, v in this order; the encoder has no q
            keys = weights[name].shape[0]
            weights[f"{mixer}enc_conv.weight"] = filters[keys:].clone()
    if added:
        notes.append(f"the encoder's projections of {added} layers begin as copies of the causal ones")


def _drop_encoder(config: dict[str, Any], weights: dict[str, Tensor], notes: list[str]) -> None:
    """Make a JRT-RNN causal: the encoder's keys and values of a document take the place of the causal ones.

    With its own causal projections nearly all is lost: the loss of a bundled model, before it was trained on,
    was then 11.2 nats per answer token, with the encoder's 2.2.
    """
    dropped = [name for name in weights if name.endswith(ENCODER)]
    for name in sorted(dropped):
        kept = weights.pop(name)
        if name.endswith(".enc_conv.weight"):
            filters = name.replace("enc_conv", "qkv_conv")
            queries = len(weights[filters]) - len(kept)
            weights[filters] = torch.cat([weights[filters][:queries], kept])
        else:
            weights[name.replace("_enc.", ".")] = kept
    config.pop("enc_length", None)
    mixer = config.get("alt_mixer")
    if isinstance(mixer, Mapping):
        config["alt_mixer"] = {k: v for k, v in mixer.items() if k != "enc_length"}
    if dropped:
        layers = sum(name.endswith(ENCODER[0]) for name in dropped)
        notes.append(
            f"the encoder's projections of {layers} layers become the causal ones: the model is causal"
        )


_OUTPUTS = (".mixer.out_proj.weight", ".mixer.out_proj.bias", ".mlp.fc2.weight", ".mlp.fc2.bias")


def _insert(
    config: dict[str, Any], weights: Mapping[str, Tensor], inserted: Mapping[int, int], notes: list[str]
) -> dict[str, Tensor]:
    """The weights with layers put in, copies whose outputs are zero: the model computes what it did.

    Sets `n_layer` and moves the layer indices of the configuration along.
    """
    old = int(config["n_layer"])
    count = old + len(inserted)
    if not all(0 <= place < count and 0 <= source < old for place, source in inserted.items()):
        raise UsageError(
            f"model.inserted: places are 0 to {count - 1}, layers of the checkpoint 0 to {old - 1}"
        )
    others = iter(range(old))
    begins = [inserted[place] if place in inserted else next(others) for place in range(count)]
    made = {name: weight for name, weight in weights.items() if not name.startswith("layers.")}
    for place, source in enumerate(begins):
        prefix = f"layers.{source}."
        for name, weight in weights.items():
            if name.startswith(prefix):
                silent = place in inserted and name.endswith(_OUTPUTS)
                copy = torch.zeros_like(weight) if silent else weight.clone()
                made[f"layers.{place}.{name.removeprefix(prefix)}"] = copy
    config["n_layer"] = count
    for key in ("alt_mixer_layers", "alt_mixer_2_layers"):
        if key in config:
            config[key] = [place for place, source in enumerate(begins) if source in config[key]]
    notes.append(f"{len(inserted)} layers are put in, silent at first: the model has {count}")
    return made


def _fewer_features(
    before: Mapping[str, Any], config: dict[str, Any], weights: dict[str, Tensor], notes: list[str]
) -> None:
    """Keep `alt_mixer.feature_dim` of the query and key dimensions of every head: those whose queries and
    keys are largest, in their old order.

    Scores are q k / sqrt(feature_dim): with dimensions alike, their spread stays as it was without rescaling.
    """
    old = int((before.get("alt_mixer") or {}).get("feature_dim", 16))
    mixer = dict(config.get("alt_mixer") or {})
    new = int(mixer.get("feature_dim", old))
    found = [n.removesuffix("proj_q.weight") for n in weights if n.endswith(".mixer.proj_q.weight")]
    if new == old or not found:
        return
    if new > old:
        raise UsageError(f"model.config.alt_mixer.feature_dim: {new} is more than the checkpoint's {old}")
    for prefix in found:
        kept = _largest(weights, prefix, old, new)
        keys = weights[f"{prefix}proj_q.weight"].shape[0]
        for part in ("proj_q", "proj_k", "proj_k_enc"):
            if (projection := weights.get(f"{prefix}{part}.weight")) is not None:
                weights[f"{prefix}{part}.weight"] = projection[kept].clone()
        for part, blocks in (("qkv_conv", 2), ("enc_conv", 1)):  # keys of q and k, of k; then the values
            if (filters := weights.get(f"{prefix}{part}.weight")) is not None:
                rows = [kept + i * keys for i in range(blocks)]
                rows.append(torch.arange(blocks * keys, filters.shape[0]))
                weights[f"{prefix}{part}.weight"] = filters[torch.cat(rows)].clone()
        if (norm := weights.get(f"{prefix}q_norm.weight")) is not None:
            weights[f"{prefix}q_norm.weight"] = norm[kept[:new]].clone()  # the same in all heads
    if isinstance(mixer.get("feature_map"), Mapping):
        mixer["feature_map"] = {**mixer["feature_map"], "input_dim": new}
    config["alt_mixer"] = mixer
    notes.append(f"the linear attention keeps {new} of {old} query and key dimensions per head")


def _largest(weights: Mapping[str, Tensor], prefix: str, old: int, new: int) -> Tensor:
    """Rows (heads * new,) of the dimensions to keep, by the size of query times key."""
    size = weights[f"{prefix}proj_q.weight"].float().norm(dim=1)
    size = size * weights[f"{prefix}proj_k.weight"].float().norm(dim=1)
    if (filters := weights.get(f"{prefix}qkv_conv.weight")) is not None:
        size = size * filters[: 2 * len(size)].float().flatten(1).norm(dim=1).view(2, -1).prod(0)
    heads = len(size) // old
    size = size.view(heads, old)
    if (norm := weights.get(f"{prefix}q_norm.weight")) is not None:
        # One weight serves all heads: they have to keep the same dimensions.
        size = (size * norm.float().abs()).mean(0).expand(heads, old)
    best = size.topk(new, dim=1).indices.sort(dim=1).values
    return (best + old * torch.arange(heads)[:, None]).flatten()
