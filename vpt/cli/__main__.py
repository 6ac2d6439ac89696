"""`python -m vpt.cli`."""

import sys

from vpt.cli import main

sys.exit(main())
