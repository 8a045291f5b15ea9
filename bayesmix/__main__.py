"""`python -m bayesmix` is the command `bayesmix`."""

import sys

from bayesmix.cli import main

if __name__ == "__main__":
    sys.exit(main())
