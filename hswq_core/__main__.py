"""``python -m hswq_core``: the command ``hswq`` where the package is not installed."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
