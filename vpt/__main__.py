"""`python -m vpt`, the same as the command `vpt`."""

import sys

from vpt.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
