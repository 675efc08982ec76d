"""What a run says at its end; the same for the command line, a notebook and the run record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from consilo.kernel.loop import Exchange
from consilo.wire.params import Params
from consilo.wire.parcel import Fault

SiloStatus = Literal["trained", "answered", "left_out", "dropped", "refused"]
RunStatus = Literal["complete", "degraded", "failed"]
_REFUSALS = ("refused", "bundle_not_approved", "budget_exhausted")


@dataclass(frozen=True)
class SiloOutcome:
    """One silo's part in a run.

    Args:
        status: trained; left_out (contract); dropped (no answer); refused (its policy said no);
            answered (gave statistics, in a run that trains nothing).
        reason: why not, or what it missed; empty for plain success.
        contract: passed, failed or not_checked.
        rounds: the rounds whose update counted.
        num_examples: its training rows.
        epsilon: ε spent at the job's δ, by the job's accountant; None without privacy.
        epsilon_bound: the RDP bound on the same spend.
        metrics: the final model on its held-out rows.
        num_held_out: how many these are.
        metrics_before: the untrained model on the same rows.
    """

    status: SiloStatus = "dropped"
    reason: str = "not connected"
    contract: str = "not_checked"
    rounds: tuple[int, ...] = ()
    num_examples: int = 0
    epsilon: float | None = None
    epsilon_bound: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    num_held_out: int = 0
    metrics_before: Mapping[str, float] = field(default_factory=dict)

    def absent(self, fault: Fault, *, contract: str | None = None) -> SiloOutcome:
        """Return the outcome of a silo that gave no answer."""
        status: SiloStatus = "refused" if fault.code in _REFUSALS else "dropped"
        if fault.code in ("contract", "source", "configuration"):
            status = "left_out"
        verdict = self.contract if contract is None else contract
        return replace(self, status=status, reason=fault.reason, contract=verdict)


@dataclass(frozen=True)
class RunResult:
    """What a run says at its end.

    Args:
        run_id: the run.
        status: complete; degraded (a quorum held but somebody was missing, or the model is worse
            than a constant prediction); failed.
        reason: why it failed, who was missing or what is wrong; empty for complete.
        silos: silo → its part.
        metrics: of the final model over the held-out rows of all silos together; one that starts
            with ``silo_mean/`` is a mean over silos, weighted by their held-out rows.
        intervals: 95 % intervals of these metrics, where one is known.
        constant: what the best constant prediction has on the same rows, where known.
        confusion: rows by true and said class, with ``classes``; empty where it is not known.
        record: path of the run record.
        directory: where the run keeps its files.
        seconds: stage → wall seconds.
        exchanges: every silo's part in every step, with measured bytes.
        rounds: one report per round: figures by silo and over all.
        params: the global model as it stands, for a notebook; not in the summary.
        extra: what the pipeline adds: model, mlflow, prefect, baselines.
        notes: what else to know of it, such as a resume on other hardware.
    """

    run_id: str
    status: RunStatus
    reason: str
    silos: Mapping[str, SiloOutcome]
    metrics: Mapping[str, float]
    record: str
    directory: str
    seconds: Mapping[str, float]
    exchanges: tuple[Exchange, ...] = ()
    rounds: tuple[Mapping[str, Any], ...] = ()
    params: Params = field(default_factory=dict, repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    constant: Mapping[str, float] = field(default_factory=dict)
    confusion: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the summary as plain JSON values."""
        silos = {}
        for name, outcome in self.silos.items():
            value = asdict(outcome)
            value["rounds"] = list(outcome.rounds)
            silos[name] = value
        return {
            "run_id": self.run_id,
            "status": self.status,
            "reason": self.reason,
            "notes": list(self.notes),
            "silos": silos,
            "metrics": dict(self.metrics),
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "constant": dict(self.constant),
            "confusion": dict(self.confusion),
            "pooled_baseline": None,
            "local_baselines": None,
            "model": None,
            "mlflow": None,
            "prefect": None,
            "record": self.record,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            **self.extra,
        }
