"""Speed of jrt against transformers' own CPU path: same weights, one thread, interleaved rounds.

    OMP_NUM_THREADS=1 python examples/speed_against_transformers.py --tokens 2048

Random weights at the shapes of mamba-130m and mamba2-130m. Times are process CPU time, the best of the rounds
of each side, so that a busy machine disturbs both alike; read the ratio. Ends with an error where the logits
differ by more than rounding: 24 layers of random weights grow it, in either program (against fp64), to some
1e-4 of the logits in fp32.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jrtcli.models import architecture
from jrtcli.placement import resolve_backend

SHAPES: dict[str, dict[str, Any]] = {
    "mamba": {"vocab_size": 50280, "hidden_size": 768, "num_hidden_layers": 24, "state_size": 16},
    "mamba2": {
        "vocab_size": 50288,
        "hidden_size": 768,
        "num_hidden_layers": 24,
        "state_size": 128,
        "num_heads": 24,
        "head_dim": 64,
        "n_groups": 1,
        "tie_word_embeddings": True,
    },
}
TIMED = ("their_prefill", "our_prefill", "our_linears", "their_decode", "our_decode", "our_decode_of_16")
LARGEST_ERROR = {
    torch.float32: 1e-3
}  # relative RMS of the logits; in bf16 random weights amplify rounding without bound


def reference(name: str, layers: int, dtype: torch.dtype) -> Any:
    """transformers' model with its own random weights."""
    import transformers

    transformers.logging.set_verbosity_error()
    shape = {**SHAPES[name], "num_hidden_layers": layers}
    config_class, model_class = {
        "mamba": (transformers.MambaConfig, transformers.MambaForCausalLM),
        "mamba2": (transformers.Mamba2Config, transformers.Mamba2ForCausalLM),
    }[name]
    torch.manual_seed(0)
    return model_class(config_class(**shape)).to(dtype).eval()


def decode_many(model: Any, token: Tensor, state: Any, count: int) -> Tensor:
    """`count` steps of all rows at once."""
    for _ in range(count):
        logits, state = model.step(token, state)
    return logits


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """Process CPU time of one run, and its result."""
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


@torch.no_grad()
def compare(
    name: str, tokens: int, decode: int, rounds: int, layers: int, dtype: torch.dtype, backend: str
) -> dict[str, Any]:
    """One row: tokens per second of both, their ratios, and how far the logits are apart."""
    theirs = reference(name, layers, dtype)
    ours = architecture(name).from_checkpoint(
        theirs.config.to_dict(), theirs.state_dict(), dtype=dtype, backend=backend
    )
    ids = torch.randint(0, 50000, (1, tokens), generator=torch.Generator().manual_seed(1))
    next_id = ids[:, 0]

    def their_prefill() -> tuple[Tensor, Any]:
        out = theirs(ids, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1].float(), out.cache_params

    def their_decode(cache: Any) -> Tensor:
        for i in range(decode):
            place = torch.tensor([tokens + i])
            out = theirs(next_id[:, None], cache_params=cache, use_cache=True, cache_position=place)
        return out.logits[:, -1].float()

    def our_decode(state: Any) -> Tensor:
        for _ in range(decode):
            logits, state = ours.step(next_id, state)
        return logits

    linears = [module for module in ours.layers.modules() if isinstance(module, torch.nn.Linear)]
    inputs = {size: torch.randn(512, size).to(dtype) for size in {m.in_features for m in linears}}

    def our_linears() -> None:
        for _ in range(tokens // 512):
            for module in linears:
                module(inputs[module.in_features])

    many = torch.randint(0, 50000, (16,), generator=torch.Generator().manual_seed(2))
    ours.step(next_id, ours.prefill(ids[:, :64])[1])  # weights are reordered on first use
    best = dict.fromkeys(TIMED, float("inf"))
    for _ in range(rounds):
        times: dict[str, float] = {}
        times["our_prefill"], (got, state) = seconds(lambda: ours.prefill(ids))
        times["their_prefill"], (want, cache) = seconds(their_prefill)
        times["our_linears"], _ = seconds(our_linears)
        times["our_decode"], got_next = seconds(lambda s=state: our_decode(s))
        times["their_decode"], want_next = seconds(lambda c=cache: their_decode(c))
        times["our_decode_of_16"], _ = seconds(lambda s=state: decode_many(ours, many, s.repeat(16), decode))
        best = {key: min(value, times[key]) for key, value in best.items()}
    pairs = ((got, want), (got_next, want_next))
    error = max(float((a - b).norm() / b.norm()) for a, b in pairs)
    assert error <= LARGEST_ERROR.get(dtype, float("inf")), (
        f"{name}: relative RMS error of the logits is {error}"
    )
    return {
        "shape": f"{name}-130m" if layers == 24 else f"{name}, {layers} layers",
        "backend": backend,
        "dtype": str(dtype).removeprefix("torch."),
        "prefill_tokens": tokens,
        "prefill_tokens_per_s": round(tokens / best["our_prefill"], 1),
        "transformers_prefill_tokens_per_s": round(tokens / best["their_prefill"], 1),
        "prefill_ratio": round(best["their_prefill"] / best["our_prefill"], 2),
        "share_of_the_linears_alone": round(best["our_linears"] / best["our_prefill"], 3),
        "decode_of_16_rows_over_one": round(16 * best["our_decode"] / best["our_decode_of_16"], 2),
        "decode_tokens_per_s": round(decode / best["our_decode"], 1),
        "transformers_decode_tokens_per_s": round(decode / best["their_decode"], 1),
        "decode_ratio": round(best["their_decode"] / best["our_decode"], 2),
        "largest_logit_difference": max(float((a - b).abs().max()) for a, b in pairs),
        "relative_rms_error_of_logits": error,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=[*SHAPES, "both"], default="both")
    parser.add_argument("--tokens", type=int, default=2048, help="length of the prefill")
    parser.add_argument("--decode", type=int, default=16, help="tokens decoded after it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--backend", default="auto", help="auto, numba, torch or naive")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    print(json.dumps({"torch": torch.__version__, "machine": platform.machine(), "threads": 1}))
    for name in SHAPES if options.shape == "both" else [options.shape]:
        dtype = getattr(torch, options.dtype)
        backend = resolve_backend(options.backend, name, "cpu")
        row = compare(name, options.tokens, options.decode, options.rounds, options.layers, dtype, backend)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
