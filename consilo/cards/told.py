"""What a run's record tells of its model, by one line or several; nothing is made up here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from consilo.errors import ConfigInvalid

Entry = Mapping[str, Any]
Body = Mapping[str, Any]

_MADE = "horizontal"


class Told:
    """A closed record, read for a card.

    Args:
        record: entries of a record that verifies, as `consilo.record.chain.read` returns them.

    Raises:
        ConfigInvalid: where the record is of a run that left no model.
    """

    def __init__(self, record: Sequence[Entry]) -> None:
        self.record = record
        opened, closed = record[0], record[-1]
        if opened["kind"] != "opened" or closed["kind"] != "closed":
            raise ConfigInvalid("record", ["expected a run's record, from 'opened' to 'closed'"])
        self.opened: Body = opened["body"]
        self.closed: Body = closed["body"]
        self.began: str = opened["time"]
        self.ended: str = closed["time"]
        self.head: str = closed["hash"]
        if not self.model.get("params"):
            raise ConfigInvalid(
                f"run {self.run_id}",
                [
                    f"it ended as {self.status} and left no model; a card is drawn of a model: "
                    "take a run of a job that trains one, and that did not fail"
                ],
            )

    @property
    def run_id(self) -> str:
        """The run."""
        return str(self.opened["run_id"])

    @property
    def status(self) -> str:
        """How it ended: complete or degraded."""
        return str(self.closed["status"])

    @property
    def reason(self) -> str:
        """Why it is degraded; empty for a complete run."""
        return str(self.closed.get("reason") or "")

    @cached_property
    def job(self) -> Body:
        """The job as it was asked in the end, narrowed where silos were missing."""
        return dict((self.last("narrowed") or self.opened)["job"])

    @property
    def kind(self) -> str:
        """The job's kind; a record does not say the usual one."""
        return str(self.job.get("kind", _MADE))

    @property
    def stated(self) -> Body:
        """What the author of the job stated for the card."""
        return self.opened.get("card") or {}

    @property
    def privacy(self) -> Body | None:
        """The job's section ``privacy``; None without differential privacy."""
        return self.job.get("privacy")

    @property
    def purpose(self) -> str:
        """The purpose by which silos allowed the run; empty where the job names none."""
        return str(self.job.get("purpose") or "")

    @cached_property
    def model(self) -> Body:
        """The line about the model: ``params`` and, of one that was registered, ``model``."""
        return self.last("model") or {}

    @property
    def registered(self) -> Body:
        """The registered version as the record has it; empty where it was not registered."""
        return self.model.get("model") or {}

    @cached_property
    def evaluated(self) -> Body:
        """The line about the finished model's figures; empty where there is none."""
        return self.last("evaluated") or {}

    @cached_property
    def rounds(self) -> dict[int, Body]:
        """Round → its line; of a round that was done again, the last one."""
        found = {int(each["round"]): each for each in self.all("round")}
        return dict(sorted(found.items()))

    @property
    def silos(self) -> dict[str, Body]:
        """Silo → its part in the run, sorted by name."""
        return dict(sorted((self.closed.get("silos") or {}).items()))

    @property
    def trained(self) -> list[str]:
        """The silos with a round whose update counted."""
        return [name for name, each in self.silos.items() if each.get("rounds")]

    @property
    def signing_keys(self) -> dict[str, str]:
        """Silo → its public key, Ed25519 in hexadecimal, of those that sign."""
        return dict(sorted((self.opened.get("signing_keys") or {}).items()))

    @cached_property
    def weights(self) -> dict[str, float]:
        """Silo → its mean weight over the rounds in which it had one."""
        found: dict[str, list[float]] = {}
        for each in self.rounds.values():
            for part in each.get("participation", ()):
                if part.get("weight") is not None:
                    found.setdefault(part["silo"], []).append(float(part["weight"]))
        return {name: sum(each) / len(each) for name, each in sorted(found.items())}

    @cached_property
    def verdicts(self) -> dict[str, Body]:
        """Silo → the last line about its contract check."""
        return {str(each["silo"]): each for each in self.all("contract")}

    @property
    def column_rules(self) -> dict[str, tuple[int, int]]:
        """Silo → how many rules its rows were held to, and how many of them they broke."""
        found = {}
        for name, each in sorted(self.verdicts.items()):
            findings = each.get("findings") or ()
            broken = sum(1 for one in findings if one.get("verdict") == "fail")
            found[name] = (len(findings), broken)
        return found

    @property
    def held_out(self) -> dict[str, int]:
        """Silo → rows that judged the model; empty where the record has no number by silo."""
        rows = self.evaluated.get("rows")
        return dict(sorted(rows.items())) if isinstance(rows, Mapping) else {}

    @property
    def num_held_out(self) -> int | None:
        """Rows that judged the model over all silos; None where the record does not say."""
        return sum(self.held_out.values()) if self.held_out else None

    @property
    def spent(self) -> dict[str, float]:
        """Silo → ε that the run cost it, of those that the record has one of."""
        return {
            name: float(each["epsilon"])
            for name, each in self.silos.items()
            if each.get("epsilon") is not None
        }

    def all(self, kind: str) -> list[Body]:
        """Return the bodies of all lines of a kind, in their order."""
        return [each["body"] for each in self.record if each["kind"] == kind]

    def last(self, kind: str) -> Body | None:
        """Return the body of the last line of a kind; None where there is none."""
        found = self.all(kind)
        return found[-1] if found else None
