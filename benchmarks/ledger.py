"""CPU time of one reservation and one settlement, by the number of rows in the account.

Kinds are unlike (noise, rate) pairs: one a run in practice, here one for 20 rows or one in all.

    reserve_ms_ROWS_rows_KINDS_kinds    a reservation, held against budget and window
    settle_ms_ROWS_rows_KINDS_kinds     a settlement
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from report import Report, load_now, options, sized

from consilo.privacy.account import Charge
from silos.budget import Budget
from silos.ledger import Ledger

BUDGET = Budget(epsilon=1e4, delta=1e-5, window_days=365, total_epsilon=1e5)


def main() -> int:
    """Run the benchmark."""
    chosen = options(__doc__).parse_args()
    load, figures = load_now(), {}
    for rows in sized(chosen, full=(10, 1_000, 10_000), quick=(10, 1_000), smoke=(10,)):
        for kinds in sorted({1, max(1, rows // 20)}):
            with tempfile.TemporaryDirectory() as folder:
                reserve, settle = _measured(Path(folder) / "ledger.db", rows, kinds)
            name = f"{rows}_rows_{kinds}_kinds"
            figures[f"reserve_ms_{name}"], figures[f"settle_ms_{name}"] = reserve, settle
    Report("ledger", chosen.size, load, figures).show(as_json=chosen.json)
    return 0


def _measured(path: Path, rows: int, kinds: int) -> tuple[float, float]:
    ledger = Ledger(path)
    with ledger._open() as database:  # one transaction, not one a row
        database.execute("BEGIN IMMEDIATE")
        for number in range(rows):
            sigma = 2.0 + 0.001 * (number % kinds)
            charge = _charge(f"run {number // 20}", str(number), sigma)
            ledger._append(database, "reserved", "data", charge)
        database.execute("COMMIT")
    ledger.reserve("data", _charge("new", "first", 2.0), BUDGET)  # keeps the moments
    new = [_charge("new", f"new {number}", 2.0) for number in range(20)]
    reserve = _milliseconds(lambda charge: ledger.reserve("data", charge, BUDGET), new)
    return reserve, _milliseconds(lambda charge: ledger.settle(charge.step_id), new)


def _charge(run: str, step: str, sigma: float) -> Charge:
    return Charge(run, step, "mark", "dp_sgd", sigma, 1.0, 4, 100)


def _milliseconds(work: Callable[[Charge], object], charges: list[Charge]) -> float:
    started = time.process_time()
    for each in charges:
        work(each)
    return (time.process_time() - started) / len(charges) * 1e3


if __name__ == "__main__":
    sys.exit(main())
