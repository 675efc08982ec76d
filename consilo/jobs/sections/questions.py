"""What people ask of the rows of all silos: questions on the cells that a contract declares."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from consilo.config import Config, nearest
from consilo.contracts.contract import Contract
from consilo.contracts.rules import Name

Kind = Literal["counts", "histogram", "means", "quantiles", "correlations", "survival"]
QUARTERS = (0.25, 0.5, 0.75)
Point = Annotated[float, Field(gt=0, lt=1)]


class Question(Config):
    """One question; a silo is asked for the declared tables that its answer is made of.

    Args:
        ask: what.
        of: columns of the contract's ``analytics.bins``; for counts, of its ``groups``; empty is
            all of them, for means those that are numbers.
        by: of the contract's ``groups``: the answer in each group as well, and how they compare.
        at: for quantiles: which.
    """

    ask: Kind
    of: tuple[Name, ...] = Field((), description="columns that the contract declares; empty: all")
    by: tuple[Name, ...] = Field((), description="groups of the contract, to be compared")
    at: tuple[Point, ...] = Field(QUARTERS, description="which quantiles", min_length=1)

    def columns(self, contract: Contract) -> tuple[str, ...]:
        """Return which columns are asked about."""
        return self.of or self._declared(contract)

    def _declared(self, contract: Contract) -> tuple[str, ...]:
        if self.ask == "counts":
            return contract.groups
        bins = {} if contract.analytics is None else contract.analytics.bins
        only_numbers = self.ask in ("means", "quantiles")
        return tuple(name for name, ends in bins.items() if not only_numbers or ends != "values")

    def faults(self, contract: Contract) -> list[str]:
        """Return a sentence for each thing that is asked and not declared."""
        found = []
        declared = self._declared(contract)
        whole = self.ask in ("correlations", "survival")
        if whole and self.of:
            found.append(f"of: {self.ask} are of all that the contract declares; leave it out")
        where = "groups" if self.ask == "counts" else "analytics.bins"
        unknown = () if whole else [each for each in self.of if each not in declared]
        for name in unknown:
            guess = nearest(name, list(declared))
            hint = f"; did you mean '{guess}'?" if guess else ""
            what = "numbers in " if self.ask in ("means", "quantiles") else ""
            found.append(f"of: {contract.ref} does not declare '{name}' by {what}{where}{hint}")
        if not whole and not declared:
            found.append(
                f"ask: {contract.ref} declares no {where} that {self.ask} could be told on"
            )
        if self.ask == "correlations" and len(self._numbers(contract)) < 2:
            found.append(f"ask: correlations need two numbers in analytics.bins of {contract.ref}")
        survival = None if contract.analytics is None else contract.analytics.survival
        if self.ask == "survival" and survival is None:
            found.append(f"ask: {contract.ref} has no analytics.survival")
        if self.by and self.ask in ("counts", "correlations"):
            found.append(f"by: {self.ask} are not compared between groups; leave it out")
        for name in self.by:
            if name not in contract.groups:
                guess = nearest(name, list(contract.groups))
                hint = f"; did you mean '{guess}'?" if guess else ""
                found.append(
                    f"by: '{name}' is none of the groups of {contract.ref}, which are "
                    f"{', '.join(contract.groups) or 'none'}{hint}"
                )
        return found

    def tables(self, contract: Contract) -> tuple[str, ...]:
        """Return the names of the tables that an answer is made of."""
        if self.ask == "counts":
            return tuple(f"group/{each}" for each in self.columns(contract))
        if self.ask == "correlations":
            return ("correlation",)
        kind = "sums" if self.ask == "means" else "bins"
        plain = (
            ("time",)
            if self.ask == "survival"
            else tuple(f"{kind}/{each}" for each in self.columns(contract))
        )
        return plain + tuple(f"{name}/by/{group}" for name in plain for group in self.by)

    @staticmethod
    def _numbers(contract: Contract) -> tuple[str, ...]:
        bins = {} if contract.analytics is None else contract.analytics.bins
        return tuple(name for name, ends in bins.items() if ends != "values")


def _question(value: Any) -> Any:
    return {"ask": value} if isinstance(value, str) else value


Questions = tuple[
    Annotated[Question, BeforeValidator(_question, json_schema_input_type=str | Question)],
    ...,
]


def every_question(contract: Contract) -> tuple[Question, ...]:
    """Return all that a contract lets be asked, each by every group that it declares."""
    kinds: tuple[Kind, ...] = (
        "counts",
        "means",
        "quantiles",
        "histogram",
        "correlations",
        "survival",
    )
    found = []
    for kind in kinds:
        by = () if kind in ("counts", "correlations") else contract.groups
        question = Question(ask=kind, by=by)
        if not question.faults(contract):
            found.append(question)
    return tuple(found)
