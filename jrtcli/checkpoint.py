"""A name, hub id or folder -> a checkpoint: where it lies, what it is, and the model it holds.

Nothing of a repository is ever executed: weights are read by jrtcli.weights, a configuration is data, and the
`auto_map` that names Python files of a repository is not looked at.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jrt_prompts
from jrtcli import hub, known
from jrtcli.detection import detect, family_of
from jrtcli.errors import CheckpointError, JrtError, UsageError
from jrtcli.freed_memory import keep_freed_memory
from jrtcli.known import Known
from jrtcli.models import architecture
from jrtcli.placement import resolve_backend, resolve_device, resolve_dtype, resolve_weights
from jrtcli.tokens import Tokenizer, load_tokenizer
from jrtcli.vocabulary import PATTERNS
from jrtcli.weights import FORMS, fingerprint, read_json, read_weights

if TYPE_CHECKING:
    from torch import Tensor

    from jrtcli.models.base import RecurrentLM

DEFAULT_TEMPLATE = "cqcq"
"""The prompt of a checkpoint that names none: JRT-Prompt as the paper defines it."""

ENCODER_TEMPLATE = "cq"
"""The same for JRT-RNN, whose encoder reads ahead."""


MAX_LAYERS = 4096
GPU_PREFILL_TOKENS = 8192
"""What a GPU reads at once (RecurrentLM.prefill_tokens): it is not busy with less."""
CPU_PREFILL_TOKENS = {"float32": (1024, 2048)}
"""The same on a CPU: for each thread, and the most; 512 and 4,096 where nothing else is said. Products of
fp32 gain more from many tokens than their results lose by leaving the cache."""


@dataclass(frozen=True)
class Identity:
    """What a model is, for reports and for files made with it.

    source: "bundled", a hub id, or the path of a folder. revision: the commit of a hub snapshot. parameters:
    tied ones counted once. weights_sha256: jrtcli.weights.fingerprint, the same in every form of the files.
    """

    name: str
    source: str
    revision: str | None
    architecture: str
    parameters: int
    weights_sha256: str


@dataclass(frozen=True, eq=False)
class Located:
    """A checkpoint on this machine, its weights not read.

    config: config.json as it is. settings: jrt.json, which our own trainer writes beside the weights, or {}.
    """

    name: str
    source: str
    folder: Path
    config: dict[str, Any]
    settings: dict[str, Any]
    known: Known | None
    tokenizer_source: str | Path | None

    @property
    def template(self) -> str:
        """The name of the prompt template that suits this checkpoint.

        Raises CheckpointError where jrt.json names none of the built-in ones: it may come from the hub, and
        must not reach a file of this machine.
        """
        named = self.settings.get("template")
        if isinstance(named, str):
            if named not in (names := jrt_prompts.list_templates()):
                raise CheckpointError(
                    f"{self.folder / 'jrt.json'} names the template {named!r}, which is not built in: "
                    f"take one of {', '.join(names)} with --template"
                )
            return named
        if self.known:
            return self.known.template
        mixer = self.config.get("alt_mixer")
        encoder = "enc_length" in self.config or (isinstance(mixer, Mapping) and "enc_length" in mixer)
        return ENCODER_TEMPLATE if encoder else DEFAULT_TEMPLATE

    @property
    def context_tokens(self) -> int | None:
        """The length in tokens it was trained at; None where nothing says so."""
        known_context = self.known.context if self.known else None
        said = (self.settings.get("context_tokens"), known_context)
        usual = (self.config.get("max_position_embeddings"), self.config.get("n_positions"))
        return next((n for n in (*said, *usual) if isinstance(n, int) and n > 0), None)

    @property
    def revision(self) -> str | None:
        """The commit, for a snapshot of the hub's cache."""
        return hub.commit_of(self.folder)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Its own, its family's, or the one asked for; read when first used. Raises CheckpointError."""
        return self._read_tokenizer()

    def _read_tokenizer(self) -> Tokenizer:
        family = self.known.tokenizer if self.known else family_of(self.config)
        return load_tokenizer(self.tokenizer_source, folder=self.folder, family=family)


@dataclass(frozen=True, eq=False)
class Loaded(Located):
    """A model ready to run on `device` ("cpu", "cuda:0") in `dtype` ("float32") with kernels of `backend`.

    weights: "int8" where its large matrices are that, else "auto". dtype_reason: why auto meant this dtype.
    """

    model: RecurrentLM
    identity: Identity
    device: str
    dtype: str
    backend: str
    weights: str = "auto"
    dtype_reason: str = "asked for"

    @property
    def numbers(self) -> str:
        """What it computes with, for a report: "float32", "int8 weights, float32"."""
        return f"{self.weights} weights, {self.dtype}" if self.weights != "auto" else self.dtype

    def _read_tokenizer(self) -> Tokenizer:
        """Raises CheckpointError also where it has more tokens than the model has rows."""
        tokenizer = super()._read_tokenizer()
        rows = self.model.vocab_size
        if tokenizer.size > rows:
            raise CheckpointError(
                f"the tokenizer {tokenizer.source} has {tokenizer.size} tokens, the model {self.name} only "
                f"{rows} rows: it is another model's; name the right one with --tokenizer"
            )
        return tokenizer

    @cached_property
    def real_tokens(self) -> int:
        """Ids below this are tokens; rows above are padding, never sampled. Without a tokenizer: all rows."""
        try:
            return self.tokenizer.size
        except CheckpointError:
            if self.tokenizer_source is not None:
                raise
            return self.model.vocab_size


def load(
    name_or_folder: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    backend: str = "auto",
    weights: str = "auto",
    revision: str | None = None,
    tokenizer: str | Path | None = None,
) -> Loaded:
    """The model of a folder, a short name (jrtcli.known) or a hub id, downloaded where necessary.

    device: auto (a GPU if there is one), cpu, cuda, cuda:N. dtype: auto (float32; bfloat16 on a GPU, and on a
    CPU that has instructions for it where the weights are stored so), float32, bfloat16, float16. backend:
    auto (jrt_kernels.registry.choose) or its name. weights: auto, or int8 (on a CPU). revision: branch,
    tag or commit of a hub checkpoint. tokenizer: a folder, file, family or hub id, not the checkpoint's own.
    Raises CheckpointError for what cannot be found, read, or does not fit its architecture; UsageError for a
    device, dtype or backend that does not exist.
    """
    import torch

    device = resolve_device(device)
    kept = resolve_weights(weights, device)
    named = resolve_dtype(dtype, device)
    located = locate(name_or_folder, revision=revision, tokenizer=tokenizer)
    tensors = read_weights(located.folder)
    dtype, reason = (named, "asked for") if dtype != "auto" else _own_dtype(tensors, device, named)
    kind = detect(located.config, tensors, located.folder)
    for key in ("n_layer", "num_hidden_layers"):
        if isinstance(layers := located.config.get(key), int) and layers > MAX_LAYERS:
            # Building them would take all memory before a single missing key is noticed.
            raise CheckpointError(f"{located.folder}: config.json says {key} {layers}; fetch the file again")
    backend = resolve_backend(backend, kind, device)
    try:
        model = architecture(kind).from_checkpoint(
            located.config, tensors, backend=backend, dtype=getattr(torch, dtype), device=device
        )
    except torch.OutOfMemoryError as error:
        raise CheckpointError(
            f"{located.name} does not fit into the memory of {device}: take --dtype bfloat16, "
            "a smaller model, or --device cpu"
        ) from error
    except JrtError as error:
        raise CheckpointError(f"{located.folder} ({kind}): {error}") from error
    except (
        KeyError,
        TypeError,
        ValueError,
        IndexError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
    ) as error:
        # A configuration with a value missing, or one that no model can have.
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise CheckpointError(
            f"{located.folder}: its config.json and weights make no {kind} model ({reason})"
        ) from error
    model.eval()
    if kept == "int8":
        model.quantize()
    if device.startswith("cuda"):
        model.prefill_tokens = GPU_PREFILL_TOKENS
    if device == "cpu":
        each, most = CPU_PREFILL_TOKENS.get(dtype, (512, 4096))
        model.prefill_tokens = min(each * torch.get_num_threads(), most)
        keep_freed_memory()
    identity = Identity(
        name=located.name,
        source=located.source,
        revision=located.revision,
        architecture=kind,
        parameters=sum(p.numel() for p in model.parameters()),
        weights_sha256=fingerprint(tensors),
    )
    return Loaded(
        **vars(located),
        model=model,
        identity=identity,
        device=device,
        dtype=dtype,
        backend=backend,
        weights=kept,
        dtype_reason=reason,
    )


def _own_dtype(weights: Mapping[str, Tensor], device: str, usual: str) -> tuple[str, str]:
    """What `auto` means for these weights, and why: `usual` for the device, but bf16 weights as they are
    where a CPU multiplies them."""
    import torch

    from jrtcli.models.linear import multiplies_bf16

    if device != "cpu":
        return usual, f"the default on {device}"
    large = [w for w in weights.values() if w.dim() == 2 and w.is_floating_point()]
    if not large or any(w.dtype != torch.bfloat16 for w in large):
        return usual, "exact for weights that are not bfloat16"
    if multiplies_bf16():
        return "bfloat16", "the weights are stored so, and this processor multiplies them"
    return usual, "the weights are bfloat16, which this processor does not multiply"


def locate(
    name_or_folder: str | Path,
    *,
    revision: str | None = None,
    tokenizer: str | Path | None = None,
    weights: bool = True,
) -> Located:
    """Finds a checkpoint: a folder that exists, else a short name, else a hub id.

    Without `weights`, only its configuration and tokenizer are fetched from the hub. Raises CheckpointError.
    """
    name = str(name_or_folder)
    path = Path(name_or_folder).expanduser()
    entry = known.find(name)
    if name and path.is_dir() and (entry is None or (path / "config.json").is_file()):
        folder, shown, source, entry = path, path.resolve().name, str(path.resolve()), None
    elif entry is not None and entry.bundled:
        folder, shown, source = known.BUNDLED / entry.name, entry.name, "bundled"
    elif entry is None and path.is_file():
        raise _unknown(name, path)
    elif entry is not None or hub.is_repo_id(name):
        source = entry.hub_id if entry else name
        shown = entry.name if entry else name
        folder = _fetch(source, revision, weights)
        revision = None
    else:
        raise _unknown(name, path)
    if revision is not None:
        raise UsageError(f"--revision names a version on the hub, but {name} is a folder on this machine")
    config = read_json(folder / "config.json")
    own = folder / "jrt.json"
    settings = read_json(own) if own.is_file() else {}
    return Located(shown, source, folder, config, settings, entry, tokenizer)


def _fetch(repo_id: str, revision: str | None, weights: bool) -> Path:
    described = ("config.json", "jrt.json", *PATTERNS)
    if not weights:
        return hub.snapshot(repo_id, described, revision=revision)
    folder = Path()
    for form in FORMS:
        stem, _, suffix = form.rpartition(".")
        files = (form, f"{form}.index.json", f"{stem}-*.{suffix}")
        folder = hub.snapshot(repo_id, (*described, *files), revision=revision)
        if any((folder / file).exists() for file in files[:2]):
            # Safetensors where the repository has them: only else is a pickle fetched.
            break
    return folder


def _unknown(name: str, path: Path) -> CheckpointError:
    if path.is_file():
        return CheckpointError(f"{name} is a file: give the folder that holds config.json and the weights")
    if name == known.TINY:
        return CheckpointError("this installation lacks the bundled model: install jrt again")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        return CheckpointError(f"there is no folder {name}")
    close = difflib.get_close_matches(name.lower(), [entry.name for entry in known.known()], n=3)
    meant = f"; did you mean {' or '.join(close)}?" if close else ""
    return CheckpointError(
        f"no model {name!r}: neither a folder, a short name (`jrt models`) nor a hub id{meant}"
    )
