"""``python -I -m silos.node``; without ``-I`` it starts itself again with it."""

import sys

from consilo.machine.environment import replace_by_isolated

if __name__ == "__main__":
    if not sys.flags.isolated:
        replace_by_isolated("silos.node", sys.argv[1:])

    from silos.node.node import main

    sys.exit(main())
