"""`python -m jrtcli` is `jrt`."""

import sys

from jrtcli.cli import main

if __name__ == "__main__":
    sys.exit(main())
