"""Noisy histograms of released columns: counted once, paid once, kept, and shown as often as asked.

Gaussian mechanism: a row lies in at most one bin of each column, so that one row, added or removed,
changes all counts of m columns by an L2 norm of at most √m (`consilo.privacy.sums`). The bins come
from what the owner declares (range, codes) and never from the rows. What is made of the noisy
counts later costs nothing more.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from consilo.config import nearest, parse, read_yaml
from consilo.contracts.codes import code_key
from consilo.errors import ConfigInvalid, Refused
from consilo.jobs.job import UNSTATED
from consilo.kernel.roles import kept_number
from consilo.matching.columns.cards import Card, edges, width_of
from consilo.privacy.account import Account, Charge
from consilo.privacy.accounting import noise_multiplier
from consilo.privacy.noise import SecretStream
from consilo.privacy.sums import noisy_histogram
from silos.gate.audit import audit_log
from silos.gate.policy import Policy
from silos.kept.budget import budget_of
from silos.kept.histograms import Floats, bins_digest, keep_histograms
from silos.kept.metadata import shared_cards
from silos.silo import Silo
from silos.silo_config import SiloConfig

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

MOST_WRONG = 0.05
"""Share of the rows that the noise may be expected to move between bins. At more, histograms alone
found fewer than half of the columns of a split table (`benchmarks/feature_match.py`)."""


@dataclass(frozen=True)
class Offer:
    """What releasing the histograms of a data set costs, and what it brings.

    Args:
        data: the data set.
        columns: whose histograms.
        rows: how many rows would be counted.
        epsilon: the price, at ``delta``.
        delta: of the data set's account.
        sigma: noise multiplier.
        account: how it stands, and would stand.
        wrong: expected share of the rows in a wrong bin, for the widest histogram.
        rows_needed: from how many rows on it is `MOST_WRONG` or less.
    """

    data: str
    columns: tuple[Card, ...]
    rows: int
    epsilon: float
    delta: float
    sigma: float
    account: Account
    wrong: float
    rows_needed: int

    def require_use(self) -> None:
        """Raise `Refused` where the noise would drown the counts."""
        if self.wrong > MOST_WRONG:
            raise Refused(
                f"'{self.data}' has {self.rows} rows: at ε {self.epsilon:g} the noise would move "
                f"{self.wrong:.0%} of a histogram of {len(self.columns)} columns between its bins; "
                f"{MOST_WRONG:.0%} needs {self.rows_needed} rows. Release fewer columns, or accept "
                "a larger ε",
                code="group",
            )


def offer(
    directory: Path, data: str, *, epsilon: float, purpose: str = UNSTATED
) -> tuple[Offer, Silo]:
    """Return what the histograms of a data set's released columns would cost; nothing is spent.

    Raises:
        ConfigInvalid: where there is no such data set, or no released column can have one.
        Refused: where the policy does not let statistics leave, or keeps no budget for them.
    """
    silo = Silo.open(directory)
    config = _config(directory)
    if data not in config.data:
        guess = nearest(data, list(config.data))
        hint = f"did you mean '{guess}'?" if guess else f"silo.yaml has {', '.join(config.data)}"
        raise ConfigInvalid(str(directory / "silo.yaml"), [f"no data set '{data}'; {hint}"])
    columns = tuple(
        card for card in shared_cards(directory) if card.data == data and width_of(card)
    )
    if not columns:
        hint = "set share: true, and declare a range for numbers or codes for categories"
        raise ConfigInvalid(str(directory / "metadata.yaml"), [f"data.{data}: {hint}"])
    delta = _permitted(silo.policy, data, epsilon)
    rows = sum(block.num_rows for block in _blocks(silo, directory, data, columns[:1], purpose))
    least = silo.policy.statistic_floor
    if rows < least:
        raise Refused(
            f"this silo's policy lets 'statistic' leave for {least} rows or more only, '{data}' "
            f"has {rows}",
            code="group",
        )
    sigma = kept_number(
        silo.numbers,
        f"sigma histograms {epsilon!r} {delta!r}",
        lambda: noise_multiplier(
            target_epsilon=epsilon, delta=delta, sample_rate=1.0, steps=1, accountant="prv"
        ),
    )
    # Half the expected sum of |noise|: what leaves one bin arrives in another.
    widest = max(width_of(card) for card in columns)
    moved = widest * sigma * math.sqrt(len(columns)) * math.sqrt(2 / math.pi) / 2
    quote = Offer(
        data=data,
        columns=columns,
        rows=rows,
        epsilon=epsilon,
        delta=delta,
        sigma=sigma,
        account=silo.account.quote(data, [(sigma, 1.0, 1)]),
        wrong=min(1.0, moved / rows) if rows else 1.0,
        rows_needed=math.ceil(moved / MOST_WRONG),
    )
    return quote, silo


def release(
    directory: Path, asked: Offer, silo: Silo, *, purpose: str = UNSTATED
) -> dict[str, Floats]:
    """Count, add noise, pay, and keep the histograms; return the noisy counts by the column's name.

    The same columns of the same rows at the same price get the same answer and pay once.

    Raises:
        Refused: where there are too few rows for it to be of use.
        BudgetExhausted: where the data set's account cannot pay; nothing is kept.
    """
    asked.require_use()
    counts = {card.name: np.zeros(width_of(card)) for card in asked.columns}
    for block in _blocks(silo, directory, asked.data, asked.columns, purpose):
        for card in asked.columns:
            counts[card.name] += _counted(block.column(card.name), card)
    question = json.dumps(
        [asked.data, asked.epsilon, asked.delta, [[c.name, bins_digest(c)] for c in asked.columns]]
    )
    name = hashlib.sha256(question.encode()).hexdigest()
    run_id = f"histograms-{asked.data}"
    true = hashlib.sha256(b"".join(each.tobytes() for each in counts.values())).hexdigest()
    key = silo.secrets.secret(run_id)
    charge = Charge(
        run_id=run_id,
        step_id=f"{run_id}/{name}",
        mark=hmac.digest(key, f"{name}/{true}".encode(), "sha256")[:16].hex(),
        mechanism="gaussian_histogram",
        sigma=asked.sigma,
        sample_rate=1.0,
        steps=1,
        rows=asked.rows,
    )
    silo.account.reserve(asked.data, charge, lambda history: None)
    noisy = noisy_histogram(counts, asked.sigma, SecretStream(key, f"{name}/{true}"))
    audit_log(directory).append(
        "histograms",
        data=asked.data,
        columns=len(asked.columns),
        epsilon=asked.epsilon,
        delta=asked.delta,
        question=name,
    )
    keep_histograms(directory, asked.data, asked.columns, noisy, epsilon=asked.epsilon)
    silo.account.settle(charge.step_id)
    return noisy


def _permitted(policy: Policy, data: str, epsilon: float) -> float:
    """Return the δ of the data set's account."""
    if not policy.statistics_leave:
        raise Refused(
            "this silo's policy does not let 'statistic' leave in the clear, so histograms stay "
            "here; names, units and codes can be released without them",
            code="disclosure",
        )
    budget = budget_of(policy.privacy.budgets, data)
    if budget is None:
        raise Refused(
            f"this silo's policy keeps no privacy budget for '{data}'; set privacy.budgets",
            code="privacy",
        )
    limit = policy.privacy.max_epsilon
    if limit is not None and epsilon > limit:
        raise Refused(
            f"this silo's policy allows ε up to {limit:g} in one run, asked for is {epsilon:g}",
            code="privacy",
        )
    return budget.delta


def _blocks(silo: Silo, directory: Path, data: str, columns: Sequence[Card], purpose: str) -> Any:
    """Yield the rows that a purpose may use, of these columns at least, text as written."""
    from silos.rows.consent import ConsentBook
    from silos.rows.sources import kept_rows

    config = _config(directory)
    source = config.data[data].resolve(directory)
    names = [card.name for card in columns]
    keep = None
    if data in config.consent:
        spec = config.consent[data].resolve(directory)
        book = ConsentBook(data, spec, source, directory / "cache")
        keep = book.filter(purpose, now=silo.rows.now())
    wanted = list(dict.fromkeys([*names, *(keep.columns if keep is not None else ())]))
    unknown = [name for name in names if name not in source.columns()]
    if unknown:
        raise ConfigInvalid(
            str(directory / "metadata.yaml"), [f"data.{data}.{unknown[0]}: no such column"]
        )
    return kept_rows(source.blocks(wanted, text=wanted), keep)


def _counted(column: pa.ChunkedArray, card: Card) -> Floats:
    import pandas as pd

    values = pd.Series(column.to_pandas()).dropna()
    if card.range is None:
        place = {code_key(code): index for index, code in enumerate(card.codes)}
        bins = values.map(code_key).map(place).dropna().to_numpy(dtype=np.int64)
    else:
        read = _numbers(values, card.name)
        ends = edges(card.range)
        bins = np.searchsorted(ends[1:-1], read, side="right")
    return np.bincount(bins, minlength=width_of(card)).astype(np.float64)


def _numbers(values: pd.Series[Any], name: str) -> Floats:
    """Return the values that read as numbers, with a decimal point or else a decimal comma."""
    import pandas as pd

    best = np.empty(0)
    point = values.astype("str")
    comma = point.str.replace(".", "").str.replace(",", ".")
    for text in (point, comma):
        told = pd.to_numeric(text, errors="coerce")
        numbers = told.dropna().to_numpy(dtype=np.float64)
        best = numbers if len(numbers) > len(best) else best
    if len(best) * 2 < len(values):
        raise ConfigInvalid("metadata.yaml", [f"{name}: most values are no numbers; mend its type"])
    return best[np.isfinite(best)]


def _config(directory: Path) -> SiloConfig:
    path = directory / "silo.yaml"
    return parse(SiloConfig, read_yaml(path), where=str(path))
