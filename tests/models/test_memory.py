"""Reading is flat in memory: a prefill never holds more than a chunk of activations.

`examples/memory_flat.py` measures the same at the shape of a published model.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from jrtcli.models import ARCHITECTURES

SHORT, LONG = 8_192, 131_072
HELD_BYTES_PER_TOKEN = 4 * 24  # the least that one tensor of the residual stream would need for every token

READ = f"""
import resource, sys, torch
sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import TINY
torch.set_num_threads(1)
model = TINY[sys.argv[1]].model()
def peak(tokens):
    model.prefill(torch.randint(40, (1, tokens)), **({{"encoder_length": 24}} if model.has_encoder else {{}}))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak({SHORT}), peak({LONG}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
# The transformer's key-value cache grows with every token: that is what the others do without.
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "transformer"])
def test_the_peak_does_not_grow_with_the_length(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", READ, name], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    short, long = (1024 * int(kib) for kib in done.stdout.split())
    assert long <= 1.2 * short
    # The interpreter and torch are most of either peak: the growth itself is a part of one activation.
    assert long - short < 0.5 * HELD_BYTES_PER_TOKEN * LONG


def test_later_chunks_write_their_states_where_the_first_ones_lie(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tiny.architecture == "transformer":
        pytest.skip("its cache grows with every token")
    model = tiny.model()
    monkeypatch.setattr(model, "prefill_tokens", 32)
    ids = torch.randint(40, (1, 160), generator=torch.Generator().manual_seed(0))
    _, given = model.prefill(ids[:, :64], **({"encoder_length": 24} if model.has_encoder else {}))
    before = given.clone()
    places: list[list[int]] = []
    whole = model._read

    def read(*args: Any, **options: Any) -> Any:
        hidden, layers = whole(*args, **options)
        places.append([x.data_ptr() for layer in layers for x in layer.values()])
        return hidden, layers

    monkeypatch.setattr(model, "_read", read)
    _, after = model.prefill(ids[:, 64:], given)
    assert len(places) == 3 and places[0] == places[1] == places[2]
    held = [x.data_ptr() for layer in given.layers for x in layer.values()]
    assert not set(held) & set(places[0])
    for old, kept, new in zip(before.layers, given.layers, after.layers, strict=True):
        assert all(torch.equal(old[key], kept[key]) for key in old)
        assert any(not torch.equal(old[key], new[key]) for key in old)
