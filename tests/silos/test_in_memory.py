"""The silo that ships for trying things out: as good as a real one to whatever asks it."""

from __future__ import annotations

import inspect
from typing import Any

import clinic
import numpy as np
import pytest

from consilo.errors import Refused, SchemaDrift
from consilo.parts import Parts
from consilo.silo import SiloHost
from silos.in_memory import InMemorySilo
from silos.silo import Silo
from silos.simulated import SimulatedSilo

OFFERED = sorted(each for each in dir(SiloHost) if not each.startswith("_") and each != "name")


def asked(kind: type[Any], method: str) -> list[tuple[str, Any]]:
    """How a method is called, whatever its defaults."""
    parameters = inspect.signature(getattr(kind, method)).parameters.values()
    return [(each.name, each.kind) for each in parameters]


@pytest.mark.parametrize("kind", [Silo, SimulatedSilo, InMemorySilo])
def test_what_a_silo_offers_is_called_alike_everywhere(kind: type[Any]) -> None:
    """A benchmark's own silo had no `seal` and took no contract in `permit`: it ran no more."""
    assert len(OFFERED) > 20
    assert {each: asked(kind, each) for each in OFFERED} == {
        each: asked(SiloHost, each) for each in OFFERED
    }


def test_prepared_arrays_stand_for_the_rows() -> None:
    silo = InMemorySilo("north", prepared={"x": np.ones(3)})
    found = silo.encoded(clinic.contract(), "key", lambda: pytest.fail("was encoded"))
    np.testing.assert_array_equal(found["x"], np.ones(3))
    for ask in (silo.check, silo.frame):
        with pytest.raises(SchemaDrift, match="no table"):
            ask(clinic.contract())


def test_arrays_are_encoded_once_and_cannot_be_written_to() -> None:
    silo, ones = InMemorySilo("north", clinic.frame(3)), np.ones(2)
    built = {"x": ones, "y": Parts((2,), ones.dtype, lambda: iter([ones]))}
    found = silo.encoded(clinic.contract(), "key", lambda: built)
    assert silo.encoded(clinic.contract(), "key", lambda: pytest.fail("was built twice")) == found
    for each in found.values():
        with pytest.raises(ValueError, match="read-only"):
            each[0] = 2.0
    ones[0] = 1.0  # whoever made the arrays may still write to them


def test_a_run_that_has_ended_leaves_nothing_for_its_messages() -> None:
    silo = InMemorySilo("north", clinic.frame(3))
    silo.keep("r1", "name", b"one")
    silo.keep("r2", "name", b"two")
    silo.conclude("r1")
    assert (silo.kept("r1", "name"), silo.kept("r2", "name")) == (None, b"two")


def test_relays_are_signed_by_the_silo_that_is_named() -> None:
    silo = InMemorySilo("north", clinic.frame(3))
    signed = silo.sign_relay({"key": "k"})
    assert silo.is_partner_relay("north", {"key": "k"}, signed)
    assert not silo.is_partner_relay("south", {"key": "k"}, signed)


def test_a_silo_that_refuses_refuses_to_be_matched_too() -> None:
    silo: Any = InMemorySilo("north", clinic.frame(3), refusal="not today")
    for ask in (lambda: silo.permit(None, None, None, None), lambda: silo.begin_match(None)):
        with pytest.raises(Refused, match="not today"):
            ask()
    assert silo.questions == []
