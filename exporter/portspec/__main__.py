"""`python -m portspec`, and the console script."""

import sys

from portspec.cli import main

if __name__ == "__main__":
    sys.exit(main())
