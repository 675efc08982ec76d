"""``python -m silos.node``."""

import sys

from silos.node.node import main

if __name__ == "__main__":
    sys.exit(main())
