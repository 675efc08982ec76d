"""What kinds of jobs share whose silos hold different columns of the same people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from consilo.config import parse
from consilo.contracts.contract import Contract
from consilo.errors import JobInvalid
from consilo.jobs.holders import Holders
from consilo.jobs.model_job import ModelJob


class JointJob(ModelJob):
    """A job over a joint table, whose columns lie in several silos and whose rows were matched."""

    kind_since: ClassVar[int] = 2
    rows: ClassVar[Literal["part", "matched"]] = "matched"

    @model_validator(mode="after")
    def _rows_are_the_unit(self) -> Self:
        if self.hides_subjects:
            raise ValueError(
                "privacy.unit: 'subject' is for horizontal and analytics jobs; over a joint table "
                "one row of each silo is hidden: give unit 'record', and one row to each subject"
            )
        return self

    @property
    def holders(self) -> Holders:
        """Who holds what.

        Raises:
            JobInvalid: where the job does not say it.
        """
        args = self.protocol.args
        given = {key: value for key, value in args.items() if key in Holders.model_fields}
        return parse(Holders, given, where=f"{self.name}, protocol.args", error=JobInvalid)

    def asked(self, silos: Iterable[str]) -> tuple[str, ...]:
        """Return who holds columns, registered or not: without one of them nothing is whole."""
        return self.holders.members

    def part(self, contract: Contract, silo: str) -> Contract:
        """Return what one silo must keep of the joint contract."""
        return self.holders.part(contract, silo)

    def to_match(self) -> Self:
        """Return the job with the hub, the handle and the quorum of the match that it needs."""
        if self.match is None:
            return self
        holders = self.holders
        needed = holders.members if holders.missing_blocks == "refuse" else (holders.label_silo,)
        return self.changed(
            match={
                "hub": self.match.hub or holders.label_silo,
                "handle": self.match.handle or holders.match,
            },
            quorum={"min_silos": max(len(needed), 2), "mandatory": list(needed)},
        )

    @classmethod
    def lacking(cls) -> str:
        """Return what a job lacks that is over no joint table."""
        return "it does not say which silo holds which columns"
