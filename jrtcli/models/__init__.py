"""The architectures, each in a file of its own."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jrtcli.models.base import RecurrentLM

ARCHITECTURES: dict[str, str] = {
    "mamba": "jrtcli.models.mamba:Mamba",
    "mamba2": "jrtcli.models.mamba2:Mamba2",
    "gla": "jrtcli.models.gla:GLA",
    "based": "jrtcli.models.based:Based",
    "jrt_rnn": "jrtcli.models.jrt_rnn:JRTRNN",
    "transformer": "jrtcli.models.transformer:Transformer",
}
"""name -> "module:class", imported on use. A new architecture is one entry here."""


def architecture(name: str) -> type[RecurrentLM]:
    """The model class of an architecture. Raises KeyError for an unknown name."""
    module, attribute = ARCHITECTURES[name].split(":")
    cls: type[RecurrentLM] = getattr(import_module(module), attribute)
    return cls
