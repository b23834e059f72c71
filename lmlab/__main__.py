"""``python -m lmlab`` is the command line."""

import sys

from lmlab.cli import main

if __name__ == "__main__":
    sys.exit(main())
