"""Peak memory of reading 262,144 tokens against reading 8,192, at the shape of a 130M model.

    python examples/memory_flat.py mamba mamba2 gla based jrt_rnn [--tokens 262144]

Weights are random: memory does not depend on them. Each length is read in a process of its own; its peak is
what the operating system counted (ru_maxrss): interpreter, torch and weights are in it. A row takes minutes.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

SHORT_TOKENS = 8_192
ENCODER_TOKENS = 1_024  # JRT-RNN's encoder region is read in one piece, by design

_GPT2 = {"n_embd": 768, "n_layer": 18, "n_head": 12, "n_inner": 1536, "vocab_size": 50257, "n_positions": 0}
_GPT2 |= {
    "activation_function": "swiglu",
    "rms_norm": True,
    "rotary_emb_fraction": 1,
    "pad_vocab_size_multiple": 8,
}
_GPT2 |= {"alt_mixer_layers": [1, 6, 11, 16], "alt_mixer_2_layers": [2, 7, 12, 17]}
_GPT2 |= {"mixer": {"_target_": "BaseConv", "use_bias": True, "expand_proj": 4}}
_GPT2 |= {"alt_mixer_2": {"_target_": "SlidingAttention", "window_size": 128, "num_heads": 12}}

CONFIGS: dict[str, dict[str, object]] = {
    "mamba": {
        "d_model": 768,
        "n_layer": 24,
        "vocab_size": 50277,
        "ssm_cfg": {},
        "pad_vocab_size_multiple": 8,
    },
    "mamba2": {
        "d_model": 768,
        "n_layer": 24,
        "vocab_size": 50277,
        "ssm_cfg": {"layer": "Mamba2"},
        "pad_vocab_size_multiple": 16,
    },
    "gla": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_heads": 4,
        "vocab_size": 32000,
        "hidden_act": "swish",
    },
    "based": _GPT2 | {"alt_mixer": {"_target_": "LinearAttention", "feature_dim": 16, "num_heads": 12}},
    "jrt_rnn": _GPT2
    | {
        "enc_length": ENCODER_TOKENS,
        "alt_mixer": {"_target_": "PrefixLinearAttention", "feature_dim": 16, "num_heads": 12},
    },
}


def read(architecture: str, tokens: int) -> None:
    """Reads random tokens; prints the parameters, the peak memory in bytes and the seconds it took."""
    import torch

    from jrtcli import models

    torch.manual_seed(0)
    model = models.architecture(architecture).from_config(CONFIGS[architecture]).requires_grad_(False).eval()
    ids = torch.randint(32000, (1, tokens))
    start = time.perf_counter()
    model.prefill(ids)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(sum(p.numel() for p in model.parameters()), peak, seconds)


def measure(architecture: str, tokens: int) -> tuple[int, int, float]:
    """`read` in a process of its own -> parameters, peak bytes, seconds."""
    command = [sys.executable, __file__, architecture, "--read", str(tokens)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    parameters, peak, seconds = done.stdout.split()
    return int(parameters), int(peak), float(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("architectures", nargs="*", choices=[*CONFIGS, []], default=list(CONFIGS))
    parser.add_argument("--tokens", type=int, default=262_144)
    parser.add_argument("--read", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.read is not None:
        read(asked.architectures[0], asked.read)
        return
    lengths = f"{SHORT_TOKENS:>12,} tokens{asked.tokens:>12,} tokens"
    print(f"{'':10}{'parameters':>12}{lengths}{'ratio':>8}{'tokens/s':>10}", flush=True)
    for architecture in asked.architectures:
        parameters, short, _ = measure(architecture, SHORT_TOKENS)
        _, long, seconds = measure(architecture, asked.tokens)
        print(
            f"{architecture:10}{parameters / 1e6:>10.0f} M{short / 2**20:>15.0f} MB{long / 2**20:>16.0f} MB"
            f"{long / short:>8.3f}{asked.tokens / seconds:>10.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
