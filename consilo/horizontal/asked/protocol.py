"""Tables of all rows on the cells that the contract declares; both halves.

Exact, a silo tells one fixed set of tables, put together until no piece of rows is small
(`consilo.horizontal.asked.release`), and by one declaration only (`silos.gate.declarations`). With
``privacy.statistics_epsilon`` it tells them with noise, which it keys by a lasting secret, the rows
and what is asked: the same question about the same rows has the same answer and is paid once,
whichever run asks it.

All rows are meant that the job's purpose may use: nothing is held out, and no feature has to be
there.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Generator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from consilo.errors import Refused
from consilo.horizontal.asked.axes import Axes
from consilo.horizontal.asked.pooled import Part, Pooled
from consilo.horizontal.asked.release import (
    Cut,
    exact,
    noisy,
    table_names,
    templates,
    told_templates,
)
from consilo.horizontal.holdout import PURPOSE, subjects_of
from consilo.horizontal.learning import admit, statistics_noise
from consilo.horizontal.statistics import private_statistics
from consilo.horizontal.subjects import Subjects
from consilo.jobs.analytics import Analytics
from consilo.jobs.job import Job
from consilo.kernel.federation import Federation
from consilo.kernel.protocol import Protocol
from consilo.kernel.steps import Ask, Step
from consilo.kernel.verbs import Disclosure, FromRows, count, number, tensors, verb
from consilo.kernel.view import Message, SiloView
from consilo.privacy.account import Charge
from consilo.privacy.noise import SecretStream
from consilo.privacy.unit import named
from consilo.wire.payload import digest

STATISTIC = Disclosure.STATISTIC
NOISY = FromRows.STATISTICS
_SECRET = "declared tables"


class DeclaredTables(Protocol[None]):
    """Tables that the contract declares, as many of them as the job's questions need."""

    runs_job_code = False
    only_by_its_job = True
    by_declaration: ClassVar[bool] = True
    rows: ClassVar[Literal["all"]] = "all"

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    @classmethod
    def from_job(cls, job: Job) -> DeclaredTables:
        """Return the protocol; a silo goes by the names that a message asks for."""
        return cls(())

    def coordinate(self, fed: Federation, state: None) -> Generator[Step, Any, Pooled]:
        """Ask every silo for the tables."""
        axes = Axes.of(fed.contract)
        asked = {"tables": templates(axes, self.names), "told": told_templates(axes)}
        answers = yield Ask(fed.cohort(), "tables", asked, quorum=fed.job.cohort_quorum)
        parts = {
            name: Part(
                int(reply.fields["rows"]),
                reply.fields["tables"],
                reply.fields["told"],
                float(reply.fields["noise"]),
            )
            for name, reply in answers.replies.items()
        }
        return Pooled(axes, parts)

    @verb(
        "tables",
        replies={
            "tables": tensors(STATISTIC, like="tables", rows=NOISY),
            "told": tensors(STATISTIC, like="told", rows=NOISY),
            "noise": number(STATISTIC, rows=FromRows.NONE),
            "rows": count(STATISTIC, rows=FromRows.NONE),
        },
    )
    def silo_tables(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Return the tables asked for of this silo's rows, exactly or with noise."""
        axes = Axes.of(silo.contract)
        names = _known(axes, message.payload)
        frame = silo.rows.frame(silo.contract, purpose=silo.job.purpose)
        weights, number_of = None, len(frame)
        if silo.job.hides_subjects:
            if not private_statistics(silo):
                raise Refused(
                    "exact statistics tell of single rows, and this job hides subjects: give "
                    "privacy.statistics_epsilon",
                    code="privacy",
                )
            if silo.contract.subject is None:
                raise Refused(
                    "the contract names no subject, which is to be hidden", code="privacy"
                )
            key = silo.secrets.lasting(PURPOSE)
            subjects = Subjects.of(subjects_of(frame, silo.contract, key))
            weights, number_of = subjects.weights, subjects.count
        silo.require_floor(STATISTIC, number_of)
        cut = Cut.of(axes, frame, weights)
        if private_statistics(silo):
            sigma, stream = _paid(silo, cut, names, number_of)
            tables, std = noisy(cut, names, sigma, stream)
            return {"tables": tables, "told": _whole(axes), "noise": std, "rows": number_of}
        least = silo.permitted.floors.get(STATISTIC, 1)
        tables, told = exact(cut, names, least)
        return {"tables": tables, "told": told, "noise": 0.0, "rows": number_of}


def _known(axes: Axes, payload: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the tables asked for, sorted; raise `Refused` for one of no contract."""
    tables = payload.get("tables")
    if not isinstance(tables, Mapping) or not tables:
        raise Refused("no table is asked for", code="verb")
    unknown = sorted(set(tables) - set(table_names(axes)))
    if unknown:
        raise Refused("a table is asked for that the contract does not declare", code="verb")
    return tuple(sorted(tables))


def _whole(axes: Axes) -> dict[str, Any]:
    """Return how cells are put together where each is told, noisy: not at all."""
    return {
        name: np.ones(1, np.int64) if len(each) == 1 else np.arange(len(each), dtype=np.int64)
        for name, each in told_templates(axes).items()
    }


def _paid(
    silo: SiloView, cut: Cut, names: tuple[str, ...], number_of: int
) -> tuple[float, SecretStream]:
    """Reserve what the tables cost, once for these rows; return noise multiplier and stream.

    Raises:
        BudgetExhausted: where the job's ε or the data set's account cannot pay.
    """
    privacy = silo.job.privacy
    assert privacy is not None
    sigma = statistics_noise(silo.kept_number, privacy)
    fingerprint = cut.fingerprint
    if privacy.reproducible:
        silo.reserve(
            "gaussian_tables",
            sigma=sigma,
            sample_rate=1.0,
            steps=1,
            rows=number_of,
            fingerprint=fingerprint,
            admit=lambda history: admit(history, privacy),
        )
        return sigma, silo.noise(fingerprint)
    # Purpose and data set are in it through the rows: `fingerprint` is of these.
    asked = digest([cut.axes.contract.digest, list(names), repr(sigma), privacy.unit])
    key = silo.secrets.lasting(_SECRET)
    mark = hmac.digest(key, f"ledger/{asked}/{fingerprint}".encode(), hashlib.sha256)[:16].hex()
    step_id = hashlib.sha256(f"tables/{asked}".encode()).hexdigest()
    charge = Charge(
        silo.header.run_id,
        step_id,
        named(mark, privacy.unit),
        named("gaussian_tables", privacy.unit),
        sigma,
        1.0,
        1,
        number_of,
    )
    account = silo.rows.dataset(silo.contract)
    silo.account.reserve(account, charge, lambda history: admit(history, privacy))
    silo.account.settle(step_id)
    return sigma, SecretStream(key, f"noise/{asked}/{fingerprint}")


def tables_of(job: Analytics, axes: Axes) -> tuple[str, ...]:
    """Return the names of the tables that a job's questions need, sorted."""
    return tuple(sorted({name for each in job.questions for name in each.tables(axes.contract)}))
