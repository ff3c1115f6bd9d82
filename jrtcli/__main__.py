"""`python -m jrtcli` is `jrt`."""

import sys


def main() -> int:
    """`jrtcli.cli.main`, interrupted quietly also while the program itself is being imported."""
    try:
        from jrtcli.cli import main as run

        return run()
    except KeyboardInterrupt:
        # Spelled out: an import is what was interrupted.
        return 130


if __name__ == "__main__":
    sys.exit(main())
