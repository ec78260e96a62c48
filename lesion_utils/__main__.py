"""`python -m lesion_utils <verb>`."""

import sys

from lesion_utils.cli import main

sys.exit(main())
