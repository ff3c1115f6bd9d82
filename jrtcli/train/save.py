"""What a run leaves on disk, written so that a kill at any moment leaves the old file or the new one.

OUTPUT/best/, OUTPUT/last/   folders that `jrt --model` loads: config.json, model.safetensors,
                             tokenizer.json, jrt.json, training.json (recipe, step, score, versions)
OUTPUT/trainer.pt            everything a resumed run needs
OUTPUT/metrics.jsonl         one line per interval
OUTPUT/tensorboard/          the same as event files, where TensorBoard is installed
"""

from __future__ import annotations

import json
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from jrtcli.errors import CheckpointError
from jrtcli.train.board import open_board, scalars
from jrtcli.whole_file import write_atomic, write_json

TRAINER = "trainer.pt"
METRICS = "metrics.jsonl"


def versions() -> dict[str, str]:
    """The versions that a run's numbers depend on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("jrt", "torch", "accelerate", "tokenizers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def save_model(
    folder: Path,
    model: Any,
    *,
    training: dict[str, Any],
    tokenizer: str,
    reading: dict[str, Any],
) -> None:
    """Write a model in its published form.

    training: recipe, step, score (its own file; step and score also in the weights' metadata, so that they
    cannot disagree). tokenizer: path of tokenizer.json or "". reading: the content of jrt.json.
    """
    config, weights = model.to_checkpoint()
    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in weights.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.data_ptr() in storages:  # tied weights: safetensors refuses shared memory
            tensor = tensor.clone()
        storages.add(tensor.data_ptr())
        tensors[name] = tensor
    metadata = {"format": "pt", "step": str(training.get("step")), "score": str(training.get("score"))}
    write_json(folder / "config.json", config)
    write_json(folder / "jrt.json", reading)
    if tokenizer:
        content = Path(tokenizer).read_bytes()
        write_atomic(folder / "tokenizer.json", lambda file: file.write(content))
    payload = safetensors_bytes(tensors, metadata)
    write_atomic(folder / "model.safetensors", lambda file: file.write(payload))
    write_json(folder / "training.json", training)


def save_trainer(output: Path, state: dict[str, Any]) -> None:
    """Write what a resumed run needs: tensors and plain values only."""
    write_atomic(output / TRAINER, lambda file: torch.save(state, file))


def load_trainer(output: Path) -> dict[str, Any] | None:
    """Read it back, None if there is none. Raises CheckpointError for a damaged file."""
    path = output / TRAINER
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: cannot be read ({reason}); start over with --fresh") from None
    return state


def clear(output: Path) -> None:
    """Remove what an earlier run left, and nothing else."""
    for name in (TRAINER, METRICS):
        (output / name).unlink(missing_ok=True)
    for events in (output / "tensorboard").glob("events.out.tfevents.*"):
        events.unlink()
    for name in ("best", "last"):
        if (output / name / "training.json").exists():
            shutil.rmtree(output / name)


class Metrics:
    """The metrics file: lines after the step that a run resumes from are dropped. Beside it,
    TensorBoard's."""

    def __init__(self, output: Path, step: int, board: str = "off") -> None:
        self.board = open_board(output / "tensorboard", step, board)
        self.path = output / METRICS
        output.mkdir(parents=True, exist_ok=True)
        kept = []
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    continue  # cut off by a kill
                if row.get("step", 0) <= step:
                    kept.append(line + "\n")
        text = "".join(kept)
        write_atomic(self.path, lambda file: file.write(text.encode()))

    def write(self, row: dict[str, Any]) -> None:
        """Append one row."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        if self.board is not None:
            for name, value in scalars(row):
                self.board.add_scalar(name, value, row["step"])
            self.board.flush()

    def close(self) -> None:
        """End the event file."""
        if self.board is not None:
            self.board.close()
