"""llama.cpp through llama-cpp-python: GGUF files that the user made of the same weights, a program each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from jrt_kernels.registry import Unsupported, numba_problem
from jrtcli.bench.programs import Program
from jrtcli.errors import UsageError

NAME = "llama.cpp"
MISSING = "llama-cpp-python is not installed: pip install llama-cpp-python"
_FILE_TYPES = {
    "0": "F32", "1": "F16", "2": "Q4_0", "3": "Q4_1", "7": "Q8_0", "8": "Q5_0", "9": "Q5_1", "10": "Q2_K",
    "11": "Q3_K_S", "12": "Q3_K_M", "13": "Q3_K_L", "14": "Q4_K_S", "15": "Q4_K_M", "16": "Q5_K_S",
    "17": "Q5_K_M", "18": "Q6_K", "32": "BF16",
}  # fmt: skip
"""llama_ftype of llama.h."""


class LlamaCpp(Program):
    """One GGUF file in llama.cpp. dtype: its file type, as Q8_0."""

    name = NAME
    tiles: ClassVar[Any] = None
    """How llama.cpp sets AMX's tiles up, once it has."""

    def __init__(self, gguf: Path | None, device: str, threads: int, most_tokens: int) -> None:
        if find_spec("llama_cpp") is None:
            raise Unsupported(MISSING)
        if gguf is None:
            raise Unsupported("needs a GGUF file of the same weights: --gguf FILE")
        self.library, self.threads = import_module("llama_cpp"), threads
        self.model = self.library.Llama(
            model_path=str(gguf),
            n_ctx=most_tokens,
            n_batch=2048,
            n_ubatch=512,
            n_threads=threads,
            n_threads_batch=threads,
            n_gpu_layers=-1 if device.startswith("cuda") else 0,
            verbose=False,
        )
        kind = str(self.model.metadata.get("general.file_type", ""))
        self.dtype = _FILE_TYPES.get(kind, f"GGUF type {kind or 'unknown'}")
        self.about = f"{gguf.name}, n_batch 2048, n_ubatch 512"
        self.weight_bytes = gguf.stat().st_size
        self.parameters = int(self.library.llama_model_n_params(self.model.model))

    @property
    def bits(self) -> int:
        """Of most weights, as the file type's name says."""
        digits = "".join(c for c in self.dtype.partition("_")[0] if c.isdigit())
        return int(digits or 32)

    def read(self, ids: Tensor) -> tuple[Tensor, Any]:
        if ids.shape[0] > 1:
            raise Unsupported("llama-cpp-python's Llama has one row: no batch")
        self.model.reset()
        self._eval(ids[0].tolist())
        return self._logits(), None

    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        self._eval(token.tolist())
        return self._logits(), None

    def _eval(self, ids: list[int]) -> None:
        # llama.cpp sets AMX's tiles up once for each thread; PyTorch's products give them back, and the next
        # one of llama.cpp would be an illegal instruction.
        if numba_problem() is not None:
            self.model.eval(ids)
            return
        from jrt_kernels.jit.team import team
        from jrt_kernels.jit.tiles import remembered, restore

        if (before := LlamaCpp.tiles) is not None:
            restore(before)
            if self.threads > 1 and (ours := team()) is not None:
                ours.run(self.threads, lambda number, count: restore(before))
        self.model.eval(ids)
        if before is None and (now := remembered()).any():
            LlamaCpp.tiles = now

    def _logits(self) -> Tensor:
        pointer = self.library.llama_get_logits_ith(self.model.ctx, -1)
        return torch.tensor(pointer[: self.model.n_vocab()])[None]


def features() -> str | None:
    """The instruction sets that the installed llama.cpp was built for and uses here; None without it."""
    if find_spec("llama_cpp") is None:
        return None
    said = import_module("llama_cpp").llama_print_system_info().decode()
    parts = [part.rpartition(":")[2].partition("=") for part in said.split("|")]
    return ", ".join(name.strip() for name, _, value in parts if value.strip() == "1") or None


def files_of(given: Sequence[Path], models: Sequence[str]) -> Mapping[str, tuple[Path, ...]]:
    """Each model's GGUF files, of files and of folders that hold them.

    All are a single model's; of several models each has those whose names begin with its own (the last part
    of a folder's or hub id's). Raises UsageError for what does not exist, holds none, or belongs to none.
    """
    files: list[Path] = []
    for path in given:
        found = sorted(path.glob("*.gguf")) if path.is_dir() else [path]
        if not found or not all(file.is_file() for file in found):
            missing = "no *.gguf file is in this folder" if path.is_dir() else "there is no such file"
            raise UsageError(f"--gguf {path}: {missing}")
        files += found
    if len(models) == 1:
        return {models[0]: tuple(dict.fromkeys(files))}
    owners: dict[str, list[Path]] = {name: [] for name in models}
    for file in dict.fromkeys(files):
        fitting = [name for name in models if file.name.startswith(Path(name).name)]
        if not fitting:
            raise UsageError(
                f"--gguf {file}: of which model is it? Begin its name with one of"
                f" {', '.join(Path(name).name for name in models)}"
            )
        owners[max(fitting, key=lambda name: len(Path(name).name))].append(file)
    return {name: tuple(found) for name, found in owners.items()}
