"""`python -m lesion_utils <verb>`, or `lesion-utils <verb>` once the package is installed."""

import sys
from io import TextIOWrapper

from lesion_utils.cli import main


def run() -> int:
    """Run the verb of the command line; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that cannot show a letter gets its number, not a traceback
            stream.reconfigure(errors="backslashreplace")
    return main()


if __name__ == "__main__":
    sys.exit(run())
