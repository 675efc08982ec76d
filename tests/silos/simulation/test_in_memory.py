"""The silo that ships for trying things out: as good as a real one to whatever asks it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import clinic
import clinic_silo
import numpy as np
import pytest

from consilo.errors import Refused, SchemaDrift
from consilo.kernel import roles
from consilo.matching.columns.roles import RELEASED, ReleasedColumns
from consilo.matching.roles import MATCHES, Matches
from consilo.vertical.roles import PARTS, ModelParts
from consilo.wire.piecewise import Parts
from silos.silo import Silo
from silos.simulation.in_memory import InMemorySilo
from silos.simulation.simulated import SimulatedSilo

ROLES: dict[str, type[Any]] = {
    "gate": roles.Gate,
    "memory": roles.Memory,
    "rows": roles.Rows,
    "account": roles.PrivacyAccount,
    "numbers": roles.Numbers,
    "secrets": roles.Secrets,
    "letters": roles.Letters,
    "run_state": roles.RunState,
    MATCHES.name: Matches,
    PARTS.name: ModelParts,
    RELEASED.name: ReleasedColumns,
}


def methods(role: type[Any]) -> set[str]:
    return {each for each in vars(role) if not each.startswith("_")}


def asked(method: Callable[..., Any]) -> list[tuple[str, Any]]:
    """How a method is called, whatever its defaults."""
    found = [(each.name, each.kind) for each in inspect.signature(method).parameters.values()]
    return found[1:] if found and found[0][0] == "self" else found


def real(tmp_path: Path) -> Silo:
    return clinic_silo.make(tmp_path / "north")


def simulated(tmp_path: Path) -> SimulatedSilo:
    return SimulatedSilo("north", 0, 1, cast(Any, SimpleNamespace(search_path=())))


def in_memory(tmp_path: Path) -> InMemorySilo:
    return InMemorySilo("north", clinic.frame(3))


@pytest.mark.parametrize("make", [real, simulated, in_memory])
def test_every_role_is_there_and_called_alike_everywhere(
    make: Callable[[Path], Any], tmp_path: Path
) -> None:
    """A benchmark's own silo had no `seal` and took no contract in `permit`: it ran no more."""
    silo = make(tmp_path)
    for name, role in ROLES.items():
        for method in methods(role):
            offered = getattr(getattr(silo, name), method)
            assert asked(offered) == asked(getattr(role, method)), (name, method)


def test_roles_are_small_and_no_two_have_a_method_of_one_name() -> None:
    """So that a small silo may be all of them itself."""
    every = [each for role in ROLES.values() for each in methods(role)]
    assert len(every) == len(set(every))
    assert all(1 <= len(methods(role)) <= 5 for role in ROLES.values())
    attributes = set(vars(roles.SiloHost)) | {MATCHES.name, PARTS.name, RELEASED.name}
    assert set(ROLES) == {each for each in attributes if each in ROLES}
    assert not set(every) & attributes


def test_a_role_that_a_silo_lacks_is_refused() -> None:
    with pytest.raises(Refused, match="has no 'matches'"):
        MATCHES.of(cast(Any, SimpleNamespace()))


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
