"""What a federation costs that waits: CPU of the SuperLink and of each node while nobody asks.

Real processes on this machine, TLS and node authentication, as in `scale`. A node is its process
and the warm one beside it.

    superlink_percent.N      of one core, with N nodes connected
    node_percent.N           of one core, the mean of the nodes; the target is below 0.5
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from report import Report, columns, load_now, options, say, sized
from scale import write_silos
from trees import cpu_seconds

from consilo.errors import ConsiloError
from consilo.machine.processes import Supervisor
from flows.services.federation import start_silos, wait_online

COUNTS = (3, 20)


def idle(folder: Path, count: int, settle_s: float, seconds: float) -> tuple[float, float]:
    """Return the percent of a core that the SuperLink takes, and that a node takes.

    Args:
        folder: new.
        count: of nodes.
        settle_s: before it counts.
        seconds: that count.
    """
    silos = {each.name: each.directory for each in write_silos(folder / "silos", count)}
    with Supervisor() as supervisor:
        address, certificate = start_silos(supervisor, folder, silos, say)
        wait_online(address, Path(certificate), silos, supervisor.services)
        time.sleep(settle_s)
        of_link = [each.pid for each in supervisor.services if each.name == "the SuperLink"]
        of_nodes = [each.pid for each in supervisor.services if each.name.startswith("silo ")]
        before = time.perf_counter(), cpu_seconds(of_link), cpu_seconds(of_nodes)
        time.sleep(seconds)
        after = time.perf_counter(), cpu_seconds(of_link), cpu_seconds(of_nodes)
    wall_s, link_s, nodes_s = (b - a for a, b in zip(before, after, strict=True))
    return 100 * link_s / wall_s, 100 * nodes_s / wall_s / count


def main() -> int:
    """Run from the command line."""
    chosen = options(__doc__).parse_args()
    load = load_now()
    counts, settle_s, seconds = sized(
        chosen,
        full=(COUNTS, 10.0, 90.0),
        quick=(COUNTS[:1], 10.0, 20.0),
        smoke=((1,), 0.0, 1.0),
    )
    figures: dict[str, float] = {}
    rows: list[tuple[str, ...]] = [("nodes", "SuperLink, % of a core", "a node, % of a core")]
    try:
        for count in counts:
            with tempfile.TemporaryDirectory(prefix="consilo-idle-") as place:
                link, node = idle(Path(place), count, settle_s, seconds)
            figures |= {f"superlink_percent.{count}": link, f"node_percent.{count}": node}
            rows.append((str(count), f"{link:.2f}", f"{node:.2f}"))
            say(f"{count} nodes: SuperLink {link:.2f} %, a node {node:.2f} %")
    except ConsiloError as cause:
        print(cause, file=sys.stderr)
        return 1
    Report("idle", chosen.size, load, figures).show(as_json=chosen.json, table=columns(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
