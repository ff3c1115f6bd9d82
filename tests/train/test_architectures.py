"""Every architecture trains: right gradients, from scratch and from a checkpoint; the result answers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import jrtcli
from jrtcli.cli import main
from jrtcli.models import ARCHITECTURES, architecture
from jrtcli.train.config import from_dict
from jrtcli.train.loop import train
from jrtcli.train.loss import Inputs, Objective, batch_totals


def _beside(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


tiny_models = _beside("tiny_models")
every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


def test_none_is_forgotten() -> None:
    assert set(tiny_models.CONFIGS) == set(ARCHITECTURES)


def inputs(name: str, packed: bool) -> Inputs:
    """23 tokens in three sequences, or two rows of them; JRT-RNN with an encoder and masked tokens."""
    draw = torch.Generator().manual_seed(5)
    tokens = torch.randint(0, tiny_models.ROWS, (1, 23) if packed else (2, 23), generator=draw)
    weights = torch.ones(tokens.shape)
    bounds = torch.tensor([0, 9, 10, 23]) if packed else None
    starts = bounds[:-1] if bounds is not None else torch.tensor([0])
    weights[:, starts] = 0.0
    lengths, masked = None, None
    if name == "jrt_rnn":
        lengths = torch.tensor([4, 0, 7]) if packed else torch.tensor([11, 6])
        masked = torch.full(tokens.shape, -1)
        masked[:, 1], masked[:, 3] = 7, 9
    totals = batch_totals(weights, None, masked)
    return Inputs(tokens, weights, lengths, None, totals, masked, bounds, is_text=True)


def model_of(name: str, backend: str) -> Any:
    torch.manual_seed(1)
    model = architecture(name).from_config(tiny_models.CONFIGS[name], backend=backend)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return model.double()


@every_architecture
@pytest.mark.parametrize("packed", [False, True], ids=["rows", "pack"])
def test_gradients_are_those_of_the_recurrence(name: str, packed: bool) -> None:
    """In fp64, of every parameter, against autograd through the naive loops."""
    given = inputs(name, packed)
    grads, losses = {}, {}
    for backend in ("naive", "torch"):
        model = model_of(name, backend)
        loss, _ = Objective(model, tag_layer=None, tag_weight=0.0, width=16)(given)
        loss.backward()
        losses[backend] = loss.item()
        grads[backend] = {n: p.grad for n, p in model.named_parameters()}
    assert losses["torch"] == pytest.approx(losses["naive"], rel=1e-6)
    for parameter, expected in grads["naive"].items():
        found = grads["torch"][parameter]
        assert found is not None and expected is not None, parameter
        assert torch.linalg.norm(found - expected) <= 1e-6 * torch.linalg.norm(expected) + 1e-12, parameter


@every_architecture
def test_gradients_are_the_slope_of_the_loss(name: str) -> None:
    """In fp64: a step along a direction changes the loss as the gradient says."""
    model = model_of(name, "torch")
    given = inputs(name, True)

    def loss() -> torch.Tensor:  # the objective takes logits in fp32, where the slope drowns
        hidden = model.hidden(
            given.tokens,
            cu_seqlens=given.cu_seqlens,
            **({} if given.encoder_lengths is None else {"encoder_length": given.encoder_lengths}),
        )
        at = given.weights[:, 1:] > 0
        return torch.nn.functional.cross_entropy(model.head(hidden[:, :-1][at]), given.tokens[:, 1:][at])

    parameters = list(model.parameters())
    loss().backward()
    draw = torch.Generator().manual_seed(3)
    directions = [torch.randn(p.shape, generator=draw, dtype=p.dtype) for p in parameters]
    said = sum(float((p.grad * d).sum()) for p, d in zip(parameters, directions, strict=True))
    values = []
    with torch.no_grad():
        for side in (1e-6, -2e-6):
            for p, d in zip(parameters, directions, strict=True):
                p.add_(side * d)
            values.append(loss().item())
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(said, rel=1e-4)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    tiny_models.save_tokenizer(folder)
    words = tiny_models.WORDS.split()
    for i in range(60):
        turned = words[i % len(words) :] + words[: i % len(words)]
        (folder / f"{i:02d}.txt").write_text(" ".join(turned[: 12 + i]) + "\n")
    return folder


def recipe(name: str, text: Path, output: Path, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "steps": 3,
        "tokenizer": str(text / "tokenizer.json"),
        "output": str(output),
        "cache": str(text / "cache"),
        "precision": "fp32",
        "template": "cq",
        "tensorboard": "off",
        "model": {"architecture": name, "config": tiny_models.CONFIGS[name]},
        "objective": {"kind": "jrt" if name == "jrt_rnn" else "lm", "encoder_tokens": [4, 12]},
        "optimizer": {"warmup_steps": 1},
        "eval": {"every": 3, "text_tokens": 64},
        "data": {"generator": 0.0, "text": 1.0, "text_paths": [str(text)], "document_tokens": 24}
        | {"tokens_per_step": 96},
    }
    return from_dict({**values, **changes})


@every_architecture
def test_trains_and_what_it_writes_answers(
    name: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scratch = train(recipe(name, text, tmp_path / "scratch"))
    assert scratch.measure == "loss" and scratch.best == tmp_path / "scratch" / "best"
    loaded = jrtcli.load(scratch.best)
    assert loaded.identity.architecture == name

    start = {"architecture": name, "init_from": str(scratch.best)}
    still = {"muon_lr": 0.0, "adamw_lr": 0.0}
    train(recipe(name, text, tmp_path / "again", model=start, optimizer=still))
    again = jrtcli.load(tmp_path / "again" / "last")
    tokens = torch.arange(3, 40)[None]
    assert torch.equal(again.model(tokens), loaded.model(tokens))

    document = tmp_path / "lamp.txt"
    document.write_text("The lamp of the harbour is red.")
    asked = ["--doc", str(document), "-Q", "What colour is the lamp?", "--max-new-tokens", "3"]
    assert main(["ask", "--model", str(scratch.best), *asked, "--json", "--quiet"]) == 0
    assert '"answer"' in capsys.readouterr().out
