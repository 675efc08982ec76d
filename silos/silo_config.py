"""`silo.yaml`: the silo's name, its data sets, and where the consents of their subjects are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from consilo.config import Config, nearest
from consilo.errors import ConfigInvalid
from consilo.silo_name import DataName, SiloName
from silos.rows.consent import Consent
from silos.rows.sources import Source


def require_directory(directory: Path) -> None:
    """Raise `ConfigInvalid` where there is no directory, which could be a silo's."""
    if not directory.is_dir():
        raise ConfigInvalid(str(directory), ["no silo here: give its directory with --dir"])


class SiloConfig(Config):
    """``silo.yaml``. Paths are relative to the silo's directory.

    Args:
        name: as the coordinator knows it.
        data: name → where the rows of that data set are. A mapping says which one it is for; the
            privacy ledger is kept by these names, so a data set keeps its own.
        consent: name → where the consents of that data set's subjects are; without it, the
            organisation answers for all rows.
    """

    name: SiloName
    data: dict[DataName, Source] = Field(min_length=1)
    consent: dict[DataName, Consent] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _one_form(cls, value: Any) -> Any:
        if isinstance(value, dict) and "source" in value:
            raise ValueError(
                "source: a silo now names its data sets; put what stands under 'source' under a "
                "name of its own: {data: {patients: {type: …}}}"
            )
        return value

    @model_validator(mode="after")
    def _consents_are_for_data_sets(self) -> Self:
        for name in self.consent:
            if name not in self.data:
                guess = nearest(name, list(self.data)) or next(iter(self.data))
                raise ValueError(f"consent: no data set is called '{name}'; is it '{guess}'?")
        return self
