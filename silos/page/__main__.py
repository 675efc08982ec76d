"""``python -m silos.page --dir SILO``: the process that `consilo silo page` becomes."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path


def main() -> None:
    """Serve the page until Ctrl-C; print the address that opens it once."""
    reads = argparse.ArgumentParser(prog="silos.page")
    reads.add_argument("--dir", type=Path, required=True)
    reads.add_argument("--port", type=int, required=True)
    reads.add_argument("--json", action="store_true")
    given = reads.parse_args()
    os.umask(0o077)
    from consilo.errors import ConsiloError
    from consilo.pages.served import bound, serve
    from consilo.printable import printable_lines
    from silos.page.site import made

    try:
        listening = bound(given.port)
        port = listening.getsockname()[1]
        site = made(given.dir.resolve(), port)
        assert site.token is not None
        address = f"http://127.0.0.1:{port}/enter?token={site.token.token}"

        def ready() -> None:
            if given.json:
                print(json.dumps({"url": address, "pid": os.getpid()}), flush=True)
                return
            print(f"{site.name}: open this on this machine; it opens once\n  {address}", flush=True)
            print("Ctrl-C ends it", file=sys.stderr)

        serve(site.application(), listening, ready=ready)
    except ConsiloError as error:
        print(f"error: {printable_lines(str(error))}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(0) from None


if __name__ == "__main__":
    main()
