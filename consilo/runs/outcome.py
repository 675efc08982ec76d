"""What a run says at its end; the same for the command line, a notebook and the run record."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from consilo.errors import ConfigInvalid, IncompatibleJob
from consilo.jobs.causes import REFUSALS
from consilo.kernel.loop import Exchange
from consilo.machine.files import write_atomic
from consilo.record.participation import Part
from consilo.wire.params import Params
from consilo.wire.parcel import Fault

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.figure import Figure

    from consilo.models.folder import Scored
    from consilo.models.scoring import Model

SiloStatus = Literal["trained", "answered", "left_out", "dropped", "refused", "not_drawn"]
RunStatus = Literal["complete", "degraded", "failed"]


def fresh(directory: Path | str) -> Path:
    """Return the absolute path of a directory that a result can be written to.

    Raises:
        ConfigInvalid: where it holds something already, or is a file.
    """
    place = Path(directory).resolve()
    if place.exists() and not place.is_dir():
        raise ConfigInvalid(str(place), ["it is a file; give a fresh directory"])
    if place.exists() and any(place.iterdir()):
        raise ConfigInvalid(str(place), ["it is not empty; give a fresh directory"])
    return place


@dataclass(frozen=True)
class SiloOutcome:
    """One silo's part in a run.

    Args:
        status: trained; left_out (contract); dropped (no answer); refused (its policy said no);
            answered (gave statistics, in a run that trains nothing); not_drawn (its turn never
            came).
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
        status: SiloStatus = "refused" if fault.code in REFUSALS else "dropped"
        if fault.code in ("contract", "source", "configuration"):
            status = "left_out"
        verdict = self.contract if contract is None else contract
        return replace(self, status=status, reason=fault.reason, contract=verdict)


class Silos(dict[str, SiloOutcome]):
    """Silo → its part in the run; a notebook shows it as a table."""

    @property
    def frame(self) -> pd.DataFrame:
        """One row a silo: status, reason, contract, rounds, examples, ε, and its figures."""
        import pandas as pd

        rows = [
            {
                "status": each.status,
                "reason": each.reason,
                "contract": each.contract,
                "rounds": len(each.rounds),
                "num_examples": each.num_examples,
                "epsilon": each.epsilon,
                **{f"{name} before": value for name, value in each.metrics_before.items()},
                **each.metrics,
            }
            for each in self.values()
        ]
        return pd.DataFrame(rows, index=pd.Index(list(self), name="silo"))

    def _repr_html_(self) -> str:
        return str(self.frame.to_html())


@dataclass(frozen=True)
class RunResult:
    """What a run says at its end.

    Args:
        run_id: the run.
        status: complete; degraded (a quorum held but somebody was missing, or the model is worse
            than a constant prediction); failed.
        reason: why it failed, who was missing or what is wrong; empty for complete.
        silos: silo → its part; ``silos.frame`` is a table of them.
        metrics: of the final model over the held-out rows of all silos together; one that starts
            with ``silo_mean/`` is a mean over silos, weighted by their held-out rows.
        intervals: 95 % intervals of these metrics, where one is known.
        constant: what the best constant prediction has on the same rows, where known.
        confusion: rows by true and said class, with ``classes``; empty where it is not known.
        record: path of the run record; empty where it went with a temporary directory.
        directory: where the run keeps its files; empty as `record` is.
        seconds: stage → wall seconds.
        exchanges: every silo's part in every step, with measured bytes.
        rounds: one report per round: figures by silo and over all.
        participation: one row a round and silo: what became of it, why, and at which cost.
        params: the global model as it stands, for a notebook; not in the summary.
        extra: what the pipeline adds: model, mlflow, prefect, baselines.
        notes: what else to know of it, such as a resume on other hardware.
        build: makes the trained model with all it takes to use it; None where the coordinator
            holds none.
        kept: name → content of files of a directory that has gone; `save` writes them.
    """

    run_id: str
    status: RunStatus
    reason: str
    silos: Silos
    metrics: Mapping[str, float]
    record: str
    directory: str
    seconds: Mapping[str, float]
    exchanges: tuple[Exchange, ...] = ()
    rounds: tuple[Mapping[str, Any], ...] = ()
    participation: tuple[Part, ...] = ()
    params: Params = field(default_factory=dict, repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    constant: Mapping[str, float] = field(default_factory=dict)
    confusion: Mapping[str, Any] = field(default_factory=dict)
    build: Callable[[], Scored] | None = field(default=None, repr=False, compare=False)
    kept: Mapping[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    @property
    def sentence(self) -> str:
        """How the run ended, in a sentence."""
        if self.status != "complete":
            return f"{self.status}: {self.reason}"
        numbers = sorted({each.round for each in self.participation})
        who = f"all {len(self.silos)} silos" if len(self.silos) > 1 else "the only silo"
        spared = any(each.outcome == "not_asked" for each in self.participation)
        rounds = f"each of {len(numbers)} rounds" if len(numbers) > 1 else "the only round"
        if not numbers:
            return f"complete: {who} answered"
        asked = ", where it was asked" if spared else ""
        if any(each.outcome == "not_drawn" for each in self.participation):
            return f"complete: in {rounds}, all took part who were drawn of {len(self.silos)} silos"
        return f"complete: {who} took part in {rounds}{asked}"

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row per number of rounds done, from 0, the untrained model, to the last.

        Its columns are the model's figures over all silos, as in MLflow, and ``loss`` (of the
        training), ``silos`` (whose update counted), ``epsilon`` (the largest), ``bytes_down`` and
        ``bytes_up`` of the round that led there.
        """
        import pandas as pd

        rows: dict[int, dict[str, Any]] = {}
        for report in self.rounds:
            number = int(report["round"])
            rows.setdefault(number - 1, {}).update(report.get("metrics") or {})
            moved = [each for each in self.exchanges if each.round == number]
            parts = report.get("silos") or {}
            spent = [each.get("epsilon") for each in parts.values()]
            rows.setdefault(number, {}).update(
                loss=report.get("loss"),
                silos=len(parts),
                epsilon=max((each for each in spent if each is not None), default=None),
                bytes_down=sum(each.bytes_down for each in moved),
                bytes_up=sum(each.bytes_up for each in moved),
            )
        if rows:
            rows[max(rows)].update(self.metrics)
        numbers = sorted(rows)
        return pd.DataFrame([rows[n] for n in numbers], index=pd.Index(numbers, name="rounds"))

    @cached_property
    def model(self) -> torch.nn.Module:
        """The trained network, in evaluation mode; its inputs are encoded and standardised.

        Raises:
            IncompatibleJob: where the coordinator holds no model.
        """
        return self._scored().learner.model.eval()

    def predict(
        self, frame: pd.DataFrame, *, invalid: Literal["refuse", "flag"] = "refuse"
    ) -> pd.DataFrame:
        """Return the trained model's predictions for rows with the contract's columns.

        What answers is the model as `save` writes it, so encoding and scale are inside.

        Args:
            frame: the contract's feature columns; others are not looked at.
            invalid: what becomes of rows outside of the contract; see `consilo.models.scoring`.

        Raises:
            OutsideContract: a `ValueError`, where rows are outside, unless they are flagged.
            IncompatibleJob: where the coordinator holds no model.
        """
        return self._scoring.predict(frame, invalid=invalid)

    def plot(self) -> Figure:
        """Return the learning curves: each figure over the rounds, all silos thick, each thin.

        Raises:
            ConfigInvalid: where matplotlib is not installed.
        """
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            raise ConfigInvalid(
                "result.plot", ["matplotlib is not installed; pip install matplotlib"]
            ) from None
        from consilo.runs.curves import learning_curves

        silos = {name: each.metrics for name, each in self.silos.items()}
        return learning_curves(self.rounds, self.metrics, silos)

    def save(self, directory: Path | str) -> dict[str, str]:
        """Write model, summary, history, silos and run record to a fresh directory.

        Args:
            directory: made here; ``model/`` in it needs nothing of Consilo.

        Returns:
            What is there: name → path. What this run does not have is not in it.

        Raises:
            ConfigInvalid: where the directory holds something already.
        """
        from consilo.models.folder import write_model

        place = fresh(directory)
        place.mkdir(parents=True, exist_ok=True)
        written = {"summary": place / "summary.json"}
        if self.build is not None:
            written["model"] = place / "model"
            written["model"].mkdir()
            write_model(self._scored(), written["model"])
        if self.rounds:
            written["history"] = place / "history.csv"
            self.history.to_csv(written["history"])
        if self.participation:
            import pandas as pd

            written["participation"] = place / "participation.csv"
            rows = [each.to_json() for each in self.participation]
            pd.DataFrame(rows).to_csv(written["participation"], index=False)
        written["silos"] = place / "silos.csv"
        self.silos.frame.to_csv(written["silos"])
        files = dict(self.kept)
        if self.record:
            files[Path(self.record).name] = Path(self.record).read_bytes()
        for name, content in files.items():
            written[Path(name).stem] = place / name
            write_atomic(place / name, content, mode=0o644)
        told = {name: str(path) for name, path in written.items()}
        summary = {**self.to_json(), **{name: told.get(name) for name in ("model", "record")}}
        write_atomic(written["summary"], json.dumps(summary, indent=1).encode(), mode=0o644)
        return told

    def _scored(self) -> Scored:
        if self.build is None:
            raise IncompatibleJob(
                f"run {self.run_id} left no model at the coordinator: it failed, trains none, or "
                "its model's parts stay in the silos, which a job of kind 'scoring' asks"
            )
        return self.build()

    @cached_property
    def _scoring(self) -> Model:
        from consilo.models.folder import write_model
        from consilo.models.scoring import Model

        with tempfile.TemporaryDirectory(prefix="consilo-model-") as made:
            write_model(self._scored(), Path(made))
            return Model(made)

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
            "sentence": self.sentence,
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
            "record": self.record or None,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            **self.extra,
        }
