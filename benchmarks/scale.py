"""How the cost of a round grows with the number of silos, over the Flower transport.

Real processes on this machine, TLS and node authentication: a SuperLink and N nodes, a perceptron
of 2,114 parameters. All silos compute on the same cores, so a round's wall time has their
computing in it; the overhead is the wall time less the sum of the silos' own computing over the
cores. A silo's own computing is what it takes with the fewest silos: with more silos than cores a
silo's clock runs on while another one computes.

    s_per_round.N            wall time, median over rounds, the first left out
    overhead_s_per_round.N   the same, less the silos' computing
    cpu_s_per_round.N        CPU-seconds of all processes
    growth                   overhead per silo at the most silos, over that at the fewest: at most
                             1 where the overhead grows no worse than linearly
    cpu_growth               the same of the CPU-seconds; it hardly depends on the machine's load
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from statistics import median

import yaml
from report import Report, columns, load_now, options, say, sized
from rounds import Cost, ours

from consilo.contracts.contract import Contract
from consilo.errors import ConsiloError
from consilo.kernel import seeds
from flows.demo.demo_data import CONTRACT, Hospital, hospital_rows
from silos.gate.policy import TEMPLATE

COUNTS = (3, 5, 10, 20)
ROWS = 100


def write_silos(folder: Path, count: int) -> list[Hospital]:
    """Write ``count`` silos of `ROWS` rows each, drawn with replacement from the demo's table."""
    import pandas as pd

    table = pd.concat(list(hospital_rows(count=4, seed=0).values()), ignore_index=True)
    made = []
    for number in range(count):
        name = f"silo{number:02d}"
        directory = folder / name
        directory.mkdir(parents=True, mode=0o700)
        drawn = seeds.generator(0, "scale", number).integers(len(table), size=ROWS)
        rows = table.iloc[drawn].reset_index(drop=True)
        rows["patient_id"] = [f"{name}-{row}" for row in range(ROWS)]
        rows.to_parquet(directory / "rows.parquet", index=False)
        source = {"type": "parquet", "path": "rows.parquet"}
        (directory / "silo.yaml").write_text(
            yaml.safe_dump({"name": name, "data": {"rows": source}})
        )
        said = {"contract": CONTRACT, "agreed": Contract.load(CONTRACT).digest}
        (directory / "mapping.yaml").write_text(yaml.safe_dump(said))
        (directory / "policy.yaml").write_text(TEMPLATE)
        made.append(Hospital(name, directory, rows, broken=False))
    return made


def shared_overhead(cost: Cost, computing_s: float) -> float:
    """Return the wall time that the silos' computing, spread over the cores, does not explain.

    Args:
        cost: of some rounds.
        computing_s: of all silos in a round.
    """
    return median(cost.wall_s) - computing_s / (os.cpu_count() or 1)


def main() -> int:
    """Run from the command line."""
    chosen = options(__doc__).parse_args()
    load = load_now()
    counts, rounds = sized(chosen, full=(COUNTS, 8), quick=(COUNTS[:1], 2), smoke=((1,), 1))
    each_s = 0.0
    figures: dict[str, float] = {}
    rows: list[tuple[str, ...]] = [("silos", "wall s", "overhead s", "per silo ms", "CPU-s")]
    try:
        for count in counts:
            with tempfile.TemporaryDirectory(prefix="consilo-scale-") as place:
                folder = Path(place)
                cost = ours(folder, write_silos(folder / "silos", count), rounds)
            each_s = each_s or median(cost.computing_s) / count
            overhead, found = shared_overhead(cost, count * each_s), cost.figures()
            figures[f"s_per_round.{count}"] = found["s_per_round"]
            figures[f"overhead_s_per_round.{count}"] = overhead
            figures[f"cpu_s_per_round.{count}"] = found["cpu_s_per_round"]
            rows.append(
                (
                    str(count),
                    f"{found['s_per_round']:.2f}",
                    f"{overhead:.2f}",
                    f"{1000 * overhead / count:.0f}",
                    f"{found['cpu_s_per_round']:.2f}",
                )
            )
            say(f"{count} silos: overhead {overhead:.2f} s")
    except ConsiloError as cause:
        print(cause, file=sys.stderr)
        return 1
    first, last = counts[0], counts[-1]
    ratios = {
        name: figures[f"{figure}.{last}"] / figures[f"{figure}.{first}"] * first / last
        for name, figure in (
            ("growth", "overhead_s_per_round"),
            ("cpu_growth", "cpu_s_per_round"),
        )
    }
    report = Report("scale", chosen.size, load, figures, ratios)
    report.show(as_json=chosen.json, table=columns(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
