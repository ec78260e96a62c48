"""`python -m lesion_utils <verb>`."""

import sys
from io import TextIOWrapper

from lesion_utils.cli import main

for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, TextIOWrapper):  # a terminal that cannot show a letter gets its number, not a traceback
        stream.reconfigure(errors="backslashreplace")
sys.exit(main())
