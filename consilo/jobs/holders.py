"""Who holds which columns of a joint table, and what each silo must keep of its contract.

Each feature column is held by one silo, the target by the label silo.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from consilo.config import Config
from consilo.contracts.contract import Contract
from consilo.contracts.rules import twice
from consilo.errors import IncompatibleJob
from consilo.jobs.match import HANDLE
from consilo.silo_name import SiloName


class Holders(Config):
    """Who holds what: the part of ``protocol.args`` that every vertical protocol has."""

    match: str = Field(pattern=HANDLE, description="handle of the match, the same in all silos")
    label_silo: SiloName = Field(description="who holds the target; it learns the result")
    columns: dict[SiloName, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(
        min_length=2, description="silo → the feature columns that it holds"
    )
    missing_blocks: Literal["refuse", "leave_out"] = Field(
        "refuse",
        description="what a feature silo that is missing when a run begins does to it; leave_out: "
        "the model is trained without its columns",
    )

    release_top: bool = Field(
        False,
        description="let the label silo's part go to the model registry, where its policy lets "
        "updates leave; otherwise the registry holds references only",
    )

    @model_validator(mode="after")
    def _each_column_once(self) -> Self:
        held = [name for names in self.columns.values() for name in names]
        if twice(held):
            raise ValueError(f"columns: held twice: {', '.join(sorted(twice(held)))}")
        if self.label_silo not in self.columns:
            raise ValueError(
                f"label_silo: '{self.label_silo}' holds no columns; expected one of "
                f"{', '.join(self.columns)}"
            )
        return self

    @property
    def members(self) -> tuple[str, ...]:
        """Every silo of the job, sorted."""
        return tuple(sorted(self.columns))

    @property
    def feature_silos(self) -> tuple[str, ...]:
        """The silos without the target, sorted."""
        return tuple(name for name in self.members if name != self.label_silo)

    @property
    def parties(self) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """The label silo, the feature silos, and everybody."""
        return self.label_silo, self.feature_silos, self.members

    def require_fit(self, contract: Contract) -> None:
        """Raise `IncompatibleJob` unless every feature of the contract is held by a silo."""
        held = {name for names in self.columns.values() for name in names}
        faults = [f"'{name}' is no feature" for name in sorted(held - set(contract.features))]
        if self.missing_blocks == "refuse":
            faults += [f"nobody holds '{name}'" for name in contract.features if name not in held]
        if faults:
            raise IncompatibleJob(
                f"protocol.args.columns do not fit {contract.ref}: {'; '.join(faults[:5])}"
            )

    def part(self, contract: Contract, silo: str) -> Contract:
        """Return the part of a contract that one silo must keep.

        Columns of other silos are ignored, not left out: a mapping to the whole contract fits.
        Targets and ids are the label silo's: an id names the rows of its scores. Rules about
        columns of other silos are left out; a rule about several is too, unless the silo holds all
        of them.
        """
        if silo not in self.columns:
            raise IncompatibleJob(f"protocol.args.columns: silo '{silo}' holds nothing")
        names = set(self.columns[silo])
        if silo == self.label_silo:
            names |= set(contract.targets)
            names |= {n for n, each in contract.columns.items() if each.role == "id"}
        rules = contract.rules
        fresh = rules.freshness
        kept = rules.model_copy(
            update={
                "unique": tuple(each for each in rules.unique if set(each.columns) <= names),
                "class_balance": rules.class_balance if silo == self.label_silo else None,
                "freshness": fresh if fresh and fresh.column in names else None,
                "cross_column": tuple(
                    each
                    for each in rules.cross_column
                    if {each.left, each.right if isinstance(each.right, str) else each.left}
                    <= names
                ),
            }
        )
        others = set(contract.columns) - names
        return _ignoring(contract, others).model_copy(update={"rules": kept})


def without_target(contract: Contract) -> Contract:
    """Return a contract without its targets: what rows keep that are to be scored."""
    rules = contract.rules.model_copy(update={"class_balance": None})
    return _ignoring(contract, set(contract.targets)).model_copy(update={"rules": rules})


def _ignoring(contract: Contract, names: Set[str]) -> Contract:
    """Return a contract whose canonical table has no columns of these names."""
    columns = {
        name: each.model_copy(update={"role": "ignore"}) if name in names else each
        for name, each in contract.columns.items()
    }
    return contract.model_copy(update={"columns": columns})
