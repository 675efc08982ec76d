"""``python -m dashboards --dir HOME --port PORT``: the page as ``consilo up`` starts it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from consilo.errors import ConsiloError
from consilo.printable import printable_lines


def main() -> int:
    """Run from the command line; 1 where it cannot be served."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="the coordinator's directory")
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1")
    chosen = parser.parse_args()
    from dashboards.server import serve_page

    try:
        serve_page(chosen.dir.resolve(), port=chosen.port, say=lambda text: print(text, flush=True))
    except ConsiloError as cause:
        print(f"error: {printable_lines(str(cause))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
