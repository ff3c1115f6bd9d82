"""Which architecture, and which tokenizer family, a published file is of."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from jrtcli.errors import CheckpointError
from jrtcli.models import ARCHITECTURES


def detect(config: Mapping[str, Any], keys: Collection[str], where: Path | str = "the checkpoint") -> str:
    """The architecture of a checkpoint: what its configuration calls itself, else what its keys are.

    Most published files name no architecture, or a wrong one ("gpt2"), so the names of the weights decide.
    Raises CheckpointError for one that jrt does not have.
    """
    kind = config.get("model_type")

    def has(*parts: str) -> bool:
        return any(part in key for key in keys for part in parts)

    if config.get("attn_layer_idx") or (has(".mixer.A_log") and has("Wqkv")):
        raise CheckpointError(f"{where} mixes Mamba with attention layers, which jrt does not have")
    if isinstance(kind, str) and kind in ARCHITECTURES:
        return kind
    if has(".proj_k_enc."):
        return "jrt_rnn"
    if has(".gk_proj."):
        return "gla"
    if has(".mixer.A_log"):
        ssm = config.get("ssm_cfg")
        second = isinstance(ssm, Mapping) and ssm.get("layer") == "Mamba2"
        return "mamba2" if second or not has(".mixer.x_proj.") else "mamba"
    if has(".mixer.proj_q.", ".mixer.conv.conv", ".mixer.conv1.conv1", ".mixer.conv1."):
        return "based"
    if has(".mixer.Wqkv."):
        return "transformer"
    # Layer lists without a single mixer known by its keys: a Based file with spellings of its own.
    if isinstance(config.get("alt_mixer"), Mapping):
        return "based"
    said = f"model_type {kind!r}" if kind else "no model_type"
    raise CheckpointError(
        f"{where} is of no architecture that jrt has ({said}, keys like {next(iter(sorted(keys)), 'none')}); "
        f"it has {', '.join(ARCHITECTURES)}"
    )


def family_of(config: Mapping[str, Any]) -> str | None:
    """The tokenizer family of a published file not known by name, by its vocabulary; None where unclear."""
    size = config.get("vocab_size")
    if config.get("model_type") == "gla" and size == 32000:
        return "mistral-7b-v0.1"
    # hazyresearch's Mamba says 50277 but was trained with GPT-2's tokens; its file has fields of GPT2Config.
    if size == 50257 or (size == 50277 and "n_embd" in config):
        return "gpt2"
    return "gpt-neox-20b" if size in (50277, 50280, 50288) else None
