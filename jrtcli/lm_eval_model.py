"""The model type `jrt` of lm-evaluation-harness: `lm_eval --model jrt --model_args pretrained=NAME`.

Registered by an entry point of the group `lm_eval.models`, which releases of the harness after 0.4.13 look
up; `jrt-lm-eval` is `lm_eval` with this model known, for the releases before.
"""

from __future__ import annotations

from typing import Any

from lm_eval.api.model import LM
from lm_eval.api.registry import model_registry
from tqdm import tqdm

from jrtcli.checkpoint import load
from jrtcli.completion import Completion, Wanted
from jrtcli.errors import UsageError

MAX_GEN_TOKENS = 256
"""Where a task says nothing, as for the harness's own models."""


class JrtModel(LM):
    """A recurrent model of jrt, by its short name, hub id or folder.

    Options as of jrtcli.completion.Completion and jrtcli.checkpoint.load. batch_size: prompts at once; auto:
    as many as suffice. Nothing is cut off a prompt: a state of fixed size has no longest one.
    """

    def __init__(
        self,
        pretrained: str = "tiny",
        *,
        template: str | None = None,
        reads: int | None = None,
        fill: str = "twice",
        window: int | None = None,
        device: str | None = None,
        dtype: str = "auto",
        weights: str = "auto",
        backend: str = "auto",
        revision: str | None = None,
        tokenizer: str | None = None,
        seed: int = 0,
        max_gen_toks: int = MAX_GEN_TOKENS,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            raise UsageError(f"--model_args of jrt has no {', '.join(sorted(unknown))}")
        rows = None if batch_size is None or str(batch_size).startswith("auto") else int(batch_size)
        self.max_gen_toks = max_gen_toks
        self.loaded = load(
            pretrained,
            device=_device(device),
            dtype=dtype,
            weights=weights,
            backend=backend,
            revision=revision,
            tokenizer=tokenizer,
        )
        self.completion = Completion(
            self.loaded, template=template, reads=reads, fill=fill, window=window, rows=rows, seed=seed
        )
        self._device = self.loaded.device

    @property
    def tokenizer_name(self) -> str:
        """What the harness keys its cache of requests by."""
        return self.loaded.tokenizer.source.replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside its results."""
        identity = self.loaded.identity
        return {
            "model_num_parameters": identity.parameters,
            "model_dtype": self.loaded.numbers,
            "model_revision": identity.revision,
            "model_sha": identity.weights_sha256,
        }

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """A continuation for each request (prompt, generation arguments), up to a stop string."""
        wanted = [self._wanted(*request.args) for request in requests]
        answers = [""] * len(requests)
        made = self.completion.continuations(wanted)
        for i, text in tqdm(made, total=len(requests), disable=disable_tqdm, desc="jrt generate_until"):
            answers[i] = text
            self.cache_hook.add_partial("generate_until", requests[i].args, text)
        return answers

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-probability, whether greedy) of each request's (context, continuation)."""
        found = self.completion.log_likelihoods([request.args for request in requests])
        for request, answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return found

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each whole text, its context never cut."""
        found = []
        for request in tqdm(requests, disable=disable_tqdm, desc="jrt loglikelihood_rolling"):
            found.append(self.completion.rolling(request.args[0]))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, found[-1])
        return found

    def _wanted(self, prompt: str, arguments: dict[str, Any]) -> Wanted:
        until = arguments.get("until") or []
        stop = (until,) if isinstance(until, str) else tuple(until)
        tokens = arguments.get("max_gen_toks", arguments.get("max_new_tokens", self.max_gen_toks))
        sampled = arguments.get("do_sample", float(arguments.get("temperature", 0.0)) > 0)
        temperature = float(arguments.get("temperature", 1.0)) if sampled else 0.0
        return Wanted(prompt, tuple(s for s in stop if s), int(tokens), temperature)


def _device(asked: str | None) -> str:
    """The harness asks for cuda:0 where its user asked for nothing: without a GPU that is auto."""
    import torch

    return "auto" if asked is None or (asked == "cuda:0" and not torch.cuda.is_available()) else asked


def register() -> None:
    """Make the model known by its name to a harness that does not look up entry points."""
    if "jrt" not in model_registry:
        model_registry.register("jrt", target=JrtModel)


def run() -> None:
    """The console script `jrt-lm-eval`: the harness's own command line."""
    from lm_eval.__main__ import cli_evaluate

    register()
    cli_evaluate()
