"""A silo that is small enough to be all of its roles itself."""

from __future__ import annotations

from typing import Self

from silos.simulation.plain_votes import PlainVotes


class AllRoles(PlainVotes):
    """Whose attributes for the roles of `consilo.kernel.roles` and of the algorithms are itself."""

    @property
    def code_classes(self) -> None:
        """None: the program that calls us has brought a job's own modules."""

    @property
    def gate(self) -> Self:
        """What is let in and out."""
        return self

    @property
    def memory(self) -> Self:
        """Answers by step."""
        return self

    @property
    def rows(self) -> Self:
        """The canonical rows."""
        return self

    @property
    def account(self) -> Self:
        """What they have cost."""
        return self

    @property
    def numbers(self) -> Self:
        """What is dear to compute."""
        return self

    @property
    def secrets(self) -> Self:
        """What keys noise."""
        return self

    @property
    def letters(self) -> Self:
        """The silo's signature, and its partners'."""
        return self

    @property
    def run_state(self) -> Self:
        """What messages of a run keep for the next."""
        return self

    @property
    def matches(self) -> Self:
        """Halves of matches."""
        return self

    @property
    def parts(self) -> Self:
        """Parts of models."""
        return self

    @property
    def votes(self) -> Self:
        """By which rules it votes."""
        return self

    @property
    def released(self) -> Self:
        """What was released of columns."""
        return self
