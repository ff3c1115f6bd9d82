"""Ask recurrent language models about documents, and make them recall what they read."""

__version__ = "0.1.0"

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> object:
    # `load` pulls torch in; importing the package must not.
    if name == "load":
        from jrtcli.checkpoint import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
