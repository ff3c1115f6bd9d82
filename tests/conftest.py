"""What the tests share: where the goldens and the optional real data lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Set before torch is imported: tensors are small here, and several workers share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def golden() -> Path:
    """Reference logits of the original implementations."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real documents and tokenizers that are not part of the project; skips where they are absent."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("needs the real documents beside the checkout")
    return path


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests with the marker `gpu` are for machines that have one."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
