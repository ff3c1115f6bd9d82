"""Who reads and speaks in a benchmark of models: jrt, transformers, a Transformer++, llama.cpp.

B rows, T tokens, V rows of the vocabulary.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from jrt_kernels.registry import Unsupported
from jrtcli.bench.shapes import transformer_shape
from jrtcli.checkpoint import Loaded, load
from jrtcli.weights import read_json

INT8 = "int8"
"""A dtype here: weights in int8, everything else as without it."""


class Program(ABC):
    """Reads tokens and goes on by steps. name: as rows call it; about: what a note says of it, or None."""

    name: str
    about: str | None = None
    spreads = False
    """Whether a state of one row can be given to several; else they have to be read."""
    changes_state = True
    """Whether `step` changes the state it is given."""
    parameters: int
    weight_bytes: int

    @abstractmethod
    def read(self, ids: Tensor) -> tuple[Tensor, Any]:
        """ids (B, T) -> logits of the last token (B, V), and what `step` goes on from."""

    @abstractmethod
    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        """token (B,) -> logits (B, V), the new state; the given one may be changed."""

    def spread(self, state: Any, rows: int) -> Any:
        """A state of one row for so many rows, where `spreads`."""
        raise NotImplementedError


class Ours(Program):
    """jrt with one backend."""

    spreads = True
    changes_state = False

    def __init__(self, loaded: Loaded) -> None:
        self.loaded, self.model = loaded, loaded.model
        self.name = loaded.backend
        self.parameters = loaded.identity.parameters
        self.weight_bytes = weight_bytes(loaded.model)

    def read(self, ids: Tensor) -> tuple[Tensor, Any]:
        return self.model.prefill(ids)

    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.model.step(token, state)

    def spread(self, state: Any, rows: int) -> Any:
        return state.repeat(rows)

    @property
    def linears(self) -> list[tuple[torch.nn.Module, int, int]]:
        """The matrix products of the layers, what a prefill cannot do without: module, inputs, outputs."""
        return [
            (module, int(module.in_features), int(module.out_features))  # type: ignore[arg-type]
            for module in self.model.layers.modules()
            if hasattr(module, "in_features") and hasattr(module, "out_features")
        ]


class Transformers(Program):
    """transformers' own model of the same checkpoint."""

    name = "transformers"

    def __init__(self, folder: Path, device: str, dtype: str) -> None:
        transformers = _transformers()
        config = read_json(folder / "config.json")
        kind = config.get("model_type")
        if kind not in transformers.CONFIG_MAPPING or "hidden_size" not in config or kind == "gla":
            raise Unsupported(f"transformers has no model for this checkpoint ({kind or 'no model_type'})")
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), local_files_only=True, trust_remote_code=False
        )
        self._prepare(device)

    def _prepare(self, device: str) -> None:
        self.model.to(device).eval().requires_grad_(False)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.weight_bytes = weight_bytes(self.model)

    def read(self, ids: Tensor) -> tuple[Tensor, Any]:
        out = self.model(ids, use_cache=True, logits_to_keep=1)
        cache = getattr(out, "cache_params", None)
        name = "past_key_values" if cache is None else "cache_params"
        return out.logits[:, -1], (name, out[name], ids.shape[1])

    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        name, cache, place = state
        more = {}
        if name == "cache_params":
            more["cache_position"] = torch.tensor([place], device=token.device)
        out = self.model(token[:, None], use_cache=True, **{name: cache}, **more)
        return out.logits[:, -1], (name, out[name], place + 1)


class TransformerPlusPlus(Transformers):
    """A Transformer++ of the size of another model: random weights, attention through SDPA's flash kernel."""

    name = "transformer++"

    def __init__(self, like: Program, width: int, vocab_rows: int, device: str, dtype: str) -> None:
        transformers = _transformers()
        shape = transformer_shape(like.parameters, width, vocab_rows)
        config = transformers.LlamaConfig(
            **shape, tie_word_embeddings=True, max_position_embeddings=2**20, attn_implementation="sdpa"
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = transformers.LlamaForCausalLM(config).to(getattr(torch, dtype))
        self._prepare(device)
        self.about = (
            f"{self.parameters / 1e6:,.0f}M parameters in {shape['num_hidden_layers']} layers, random weights"
        )

    def read(self, ids: Tensor) -> tuple[Tensor, Any]:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return super().read(ids)


def open_ours(folder: str | Path, device: str, dtype: str, backend: str) -> Ours:
    """A checkpoint in jrt. Raises Unsupported for int8 weights where this version has none."""
    more: dict[str, Any] = {"dtype": dtype}
    if dtype == INT8:
        if "weights" not in inspect.signature(load).parameters:
            raise Unsupported("this version of jrt has no int8 weights")
        more = {"dtype": "auto", "weights": INT8}
    loaded = load(folder, device=device, backend=backend, **more)
    loaded.model.requires_grad_(False)
    return Ours(loaded)


def weight_bytes(model: torch.nn.Module) -> int:
    """Bytes of parameters and buffers, each storage once."""
    held = {x.data_ptr(): x.numel() * x.element_size() for x in (*model.parameters(), *model.buffers())}
    return sum(held.values())


def _transformers() -> Any:
    import transformers

    # Its hints about missing kernels would stand between the rows.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers
