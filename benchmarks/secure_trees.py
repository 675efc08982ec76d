"""Boosted trees whose gradients the feature silos cannot read, beside the plain kind.

Two silos of ten columns each, over their own directories, with policy, audit log, signatures,
sealed envelopes and kept state, as in a federation; both answer in this process, one after the
other. Three models grow at once, as they do unless a job says otherwise: that of all rows, one with
a fold held out, and its control with shuffled rows. Trees of depth 4 with 32 bins.

    secure_ROWS_s, plain_ROWS_s      a tree, both silos' work one after the other
    secure_ROWS_label_s, secure_ROWS_feature_s
                                     of which the label silo's, and the feature silo's
    secure_ROWS_mib                  all envelopes of a tree, up
    auc_apart                        largest difference of a held-out AUC between the two kinds

    python benchmarks/secure_trees.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from report import Report, columns, load_now, options, say, sized

from consilo.machine.environment import quieten

SILOS = ("bank", "shop")
LABEL_SILO, RUN = "bank", "benchmark"
SIZES, TREES, NUM_COLUMNS = (1000, 5000, 30_000), 1, 10
POLICY = """
allow: [{jobs: ["*"]}]
disclosures: {sealed: yes, statistic: yes, metric: yes, embedding: yes, update: yes, label: yes}
"""


def held() -> dict[str, tuple[str, ...]]:
    """Return silo → names of its columns."""
    return {silo: tuple(f"{silo}_{at}" for at in range(NUM_COLUMNS)) for silo in SILOS}


def table_of(rows: int) -> pd.DataFrame:
    """Return rows whose label hangs on columns of both silos."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(rows, 2 * NUM_COLUMNS))
    score = values[:, 0] + values[:, 10] + 2 * (values[:, 11] > 0) * (values[:, 3] > 0)
    names = [name for each in held().values() for name in each]
    label = (score + rng.logistic(size=rows) > 0.5).astype(np.int64)
    return pd.DataFrame(values, columns=names).assign(y=label)


def grown(table: pd.DataFrame, histograms: str) -> tuple[dict[str, float], Any]:
    """Grow the trees between two silos; return the metrics and the rounds' exchanges."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from consilo.contracts.contract import Contract
    from consilo.jobs.job import Job
    from consilo.jobs.match import Match
    from consilo.kernel.loop import Party
    from consilo.membership.keys import load_or_create_signing_key
    from consilo.protocols.dispatch import answerer
    from consilo.runs.vertical import VerticalRun
    from consilo.transports.local import LocalTransport
    from consilo.wire.signing import public_hex
    from silos.gate.partners import Partner
    from silos.silo import Silo

    features = {name: {"type": "float"} for each in held().values() for name in each}
    target = {"type": "integer", "role": "target", "allowed": [0, 1]}
    whole = {"name": "table", "version": 1, "columns": {**features, "y": target}}
    contract, key = Contract.parse(whole, where="here"), Ed25519PrivateKey.generate()
    args = {
        "match": "table",
        "label_silo": LABEL_SILO,
        "columns": {silo: list(each) for silo, each in held().items()},
        "depth": 4,
        "max_bins": 32,
        "judged_folds": 1,
        "histograms": histograms,
    }
    job = {
        "name": "table",
        "kind": "vertical",
        "contract": "table@1",
        "protocol": {"name": "vertical_trees", "rounds": TREES, "args": args},
    }
    with tempfile.TemporaryDirectory(prefix="trees-") as named:
        places = {silo: Path(named) / silo for silo in SILOS}
        for silo, place in places.items():
            place.mkdir()
            mine = [*held()[silo], "y"] if silo == LABEL_SILO else list(held()[silo])
            table[mine].to_parquet(place / "rows.parquet")
            source = {"table": {"type": "parquet", "path": "rows.parquet"}}
            (place / "silo.yaml").write_text(yaml.safe_dump({"name": silo, "data": source}))
            (place / "policy.yaml").write_text(POLICY)
            said = f"contract: {contract.ref}\nagreed: {contract.digest}\n"
            (place / "mapping.yaml").write_text(said)
        public = {
            silo: public_hex(load_or_create_signing_key(place / "signing.key"))
            for silo, place in places.items()
        }
        now, answers = datetime.now(UTC), {}
        for silo, place in places.items():
            others = {name: each for name, each in public.items() if name != silo}
            partners = {name: Partner(signing_key=each) for name, each in others.items()}
            host = Silo.open(place, signing_keys=[public_hex(key)], partners=partners)
            rows, until = np.arange(len(table), dtype=np.int64), now + timedelta(days=1)
            said = ("recipe", contract.ref, "table", "unstated", now, until)
            host.matches.keep_match(Match("table", rows, tuple(others), *said))
            answers[silo] = answerer(host)
        run = VerticalRun(
            Job.from_json(job),
            contract,
            LocalTransport(answers),
            silos=SILOS,
            directory=Path(named) / "runs",
            run_id=RUN,
            key=key,
            parties={silo: Party(each) for silo, each in public.items()},
        )
        run.wait_for_silos(seconds=0)
        for silo in SILOS:
            run.check(silo)
        run.admit()
        run.match()
        first = len(run.exchanges)
        while run.rounds_left:
            run.train_round()
        exchanges = run.exchanges[first:]
        metrics = run.evaluate()
        run.close()
    return dict(metrics), exchanges


def main() -> int:
    """Measure and report."""
    given = options(__doc__).parse_args()
    quieten()
    load = load_now()
    figures: dict[str, float] = {"auc_apart": 0.0}
    lines = [("rows", "plain, s", "secure, s", "label silo", "feature silo", "MiB")]
    for rows in sized(given, full=SIZES, quick=(200,), smoke=(60,)):
        table, aucs = table_of(rows), {}
        for kind in ("plain", "secure"):
            say(f"{kind}, {len(table)} rows …")
            started = time.perf_counter()
            metrics, exchanges = grown(table, kind)
            say(f"  {time.perf_counter() - started:.0f} s with set-up")
            aucs[kind] = {name: each for name, each in metrics.items() if "roc_auc" in name}
            spent = {
                silo: sum(each.silo_seconds for each in exchanges if each.silo == silo) / TREES
                for silo in SILOS
            }
            figures[f"{kind}_{rows}_s"] = sum(spent.values())
        figures[f"secure_{rows}_label_s"] = spent[LABEL_SILO]
        figures[f"secure_{rows}_feature_s"] = spent["shop"]
        figures[f"secure_{rows}_mib"] = sum(each.bytes_up for each in exchanges) / TREES / 2**20
        apart = max(abs(aucs["plain"][name] - each) for name, each in aucs["secure"].items())
        figures["auc_apart"] = max(figures["auc_apart"], apart)
        parts = ("plain_{}_s", "secure_{}_s", "secure_{}_label_s", "secure_{}_feature_s")
        shown = [f"{figures[each.format(rows)]:.2f}" for each in parts]
        lines.append((str(len(table)), *shown, f"{figures[f'secure_{rows}_mib']:.1f}"))
    table_text = columns(lines) + f"\nAUC apart by {figures['auc_apart']:.1e} at most"
    Report("secure_trees", given.size, load, figures).show(as_json=given.json, table=table_text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
