"""The checkpoints that go by a short name: every one of the paper's tables, and those that ship with jrt.

Sources: ids from model cards and the READMEs of HazyResearch/prefix-linear-attention and HazyResearch/based;
parameters by the shapes of each format, which give the published file sizes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from jrtcli import hub
from jrtcli.errors import CheckpointError
from jrtcli.weights import weight_files

TINY = "tiny"
"""The short name of the bundled checkpoint that is the default everywhere."""

BUNDLED = Path(__file__).parent / "bundled"
"""Folder of the bundled checkpoints; each lies in a folder of its name."""
TRAINED_CONTEXT_TOKENS = 2048


@dataclass(frozen=True)
class Known:
    """One checkpoint that has a short name.

    architecture: a name of jrtcli.models.ARCHITECTURES. parameters: tied weights counted once. tokenizer: the
    family (jrtcli.tokens.FAMILIES) for files that bring no tokenizer. context: tokens it was trained at.
    size_bytes: of the weights. template: the prompt that suits it. paper_tables: its rows, "1" or "2".
    """

    name: str
    hub_id: str
    architecture: str
    parameters: int
    tokenizer: str
    context: int | None
    size_bytes: int
    template: str
    paper_tables: tuple[str, ...]
    bundled: bool = False


def _known(
    hub_id: str, architecture: str, parameters: int, tokenizer: str, width: int, tables: str = ""
) -> Known:
    """width: bytes per stored number."""
    return Known(
        name=hub_id.partition("/")[2].lower(),
        hub_id=hub_id,
        architecture=architecture,
        parameters=parameters,
        tokenizer=tokenizer,
        context=TRAINED_CONTEXT_TOKENS,
        size_bytes=parameters * width,
        # JRT-RNN reads non-causally, and fills its encoder with a second reading where the prompt is short:
        # it is shown one. Every other base model recalls more from JRT-Prompt, attention included (Table 1).
        template="cq" if architecture == "jrt_rnn" else "cqcq",
        paper_tables=tuple(tables.split()),
    )


_NEOX, _GPT2, _MISTRAL = "gpt-neox-20b", "gpt2", "mistral-7b-v0.1"

_PUBLISHED = (
    _known("state-spaces/mamba-130m", "mamba", 129_135_360, _NEOX, 4, "1"),
    _known("state-spaces/mamba-370m", "mamba", 371_516_416, _NEOX, 4, "1"),
    _known("state-spaces/mamba-790m", "mamba", 793_204_224, _NEOX, 4),
    _known("state-spaces/mamba-1.4b", "mamba", 1_372_178_432, _NEOX, 4, "1"),
    _known("state-spaces/mamba-2.8b", "mamba", 2_768_345_600, _NEOX, 4, "1"),
    # Stored as fp16 with some fp32 entries.
    _known("state-spaces/mamba2-130m", "mamba2", 128_989_632, _NEOX, 2, "1"),
    _known("state-spaces/mamba2-370m", "mamba2", 368_346_624, _NEOX, 2, "1"),
    _known("state-spaces/mamba2-780m", "mamba2", 780_161_280, _NEOX, 2),
    _known("state-spaces/mamba2-1.3b", "mamba2", 1_343_757_312, _NEOX, 2, "1"),
    _known("state-spaces/mamba2-2.7b", "mamba2", 2_702_599_680, _NEOX, 2, "1"),
    _known("fla-hub/gla-1.3B-100B", "gla", 1_365_514_240, _MISTRAL, 2, "1"),
    _known("fla-hub/gla-2.7B-100B", "gla", 2_703_583_744, _MISTRAL, 2, "1"),
    _known("hazyresearch/based-360m", "based", 362_620_928, _GPT2, 4),
    _known("hazyresearch/based-360M-30B", "based", 362_620_928, _GPT2, 4, "2"),
    _known("hazyresearch/based-1b", "based", 1_349_453_056, _GPT2, 4, "1 2"),
    _known("hazyresearch/based-1b-50b", "based", 1_349_453_056, _GPT2, 4, "1 2"),
    _known("hazyresearch/JRT-360M-30B", "jrt_rnn", 356_578_304, _GPT2, 4, "2"),
    _known("hazyresearch/JRT-1B-50B", "jrt_rnn", 1_375_143_168, _GPT2, 4, "2"),
    _known("hazyresearch/mamba-360m", "mamba", 358_190_080, _GPT2, 4),
    _known("hazyresearch/mamba-360M-30B", "mamba", 358_190_080, _GPT2, 4, "2"),
    _known("hazyresearch/mamba-1b", "mamba", 1_319_311_360, _GPT2, 4, "1 2"),
    _known("hazyresearch/mamba-1b-50b", "mamba", 1_319_311_360, _GPT2, 4, "1 2"),
    _known("hazyresearch/attn-360m", "transformer", 359_810_048, _GPT2, 4),
    _known("hazyresearch/attn-360M-30B", "transformer", 359_810_048, _GPT2, 4, "2"),
    _known("hazyresearch/attn-1b", "transformer", 1_303_856_400, _GPT2, 4, "1 2"),
    _known("hazyresearch/attn-1b-50bn", "transformer", 1_303_856_400, _GPT2, 4, "1 2"),
)


def known() -> Iterator[Known]:
    """Every known checkpoint, the bundled ones that this installation has first, the default before all."""
    folders = sorted(BUNDLED.iterdir()) if BUNDLED.is_dir() else []
    for folder in sorted(folders, key=lambda folder: folder.name != TINY):
        entry = _bundled(folder)
        if entry is not None:
            yield entry
    yield from _PUBLISHED


def find(name: str) -> Known | None:
    """The checkpoint of a short name or hub id, capitals or not; None for any other.

    The transformers copies of Mamba go by the same names with `-hf`.
    """
    wanted = name.lower()
    if not wanted:  # a bundled model has no hub id, and that is no name of it
        return None
    for entry in known():
        if wanted in (entry.name, entry.hub_id.lower()):
            return entry
        copies = entry.architecture == "mamba" and entry.hub_id.startswith("state-spaces/")
        if copies and wanted in (f"{entry.name}-hf", f"{entry.hub_id.lower()}-hf"):
            return replace(entry, name=f"{entry.name}-hf", hub_id=f"{entry.hub_id}-hf")
    return None


def folder_here(entry: Known) -> Path | None:
    """Where a checkpoint lies on this machine, its weights complete; None if it does not. Uses no network."""
    if entry.bundled:
        return BUNDLED / entry.name
    config = hub.cached_file(entry.hub_id, "config.json")
    if config is None:
        return None
    try:
        weight_files(config.parent)
    except CheckpointError:
        return None
    return config.parent


def _bundled(folder: Path) -> Known | None:
    """A bundled checkpoint as its own files describe it; None if the folder holds none."""
    weights, config = folder / "model.safetensors", folder / "config.json"
    if not (weights.is_file() and config.is_file()):
        return None
    own = folder / "jrt.json"
    settings = json.loads(own.read_text("utf-8")) if own.is_file() else {}
    with weights.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return Known(
        name=folder.name,
        hub_id="",
        architecture=json.loads(config.read_text("utf-8")).get("model_type", ""),
        parameters=sum(prod(x["shape"]) for name, x in header.items() if name != "__metadata__"),
        tokenizer="own",
        context=settings.get("context_tokens"),
        size_bytes=weights.stat().st_size,
        template=settings.get("template", "cqcq"),
        paper_tables=(),
        bundled=True,
    )
