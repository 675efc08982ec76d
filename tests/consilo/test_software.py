import pytest

from consilo.headers import WIRE_VERSIONS
from consilo.software import Software, changes, hardware, installed, unsupported


def test_what_runs_here_comes_back_as_it_was_and_is_not_behind_itself() -> None:
    ours = installed()
    assert Software.parse(ours.to_json()) == ours
    assert ours.behind(ours) == ()
    assert {"consilo", "python", "numpy"} <= set(ours.versions)


def test_what_is_behind_is_named_with_both_versions() -> None:
    new = Software((1, 2), {"consilo": "2.0", "python": "3.11.9", "torch": "2.13"})
    old = Software((1,), {"consilo": "1.0", "python": "3.11.9"})
    assert old.behind(new) == ("wire 1 (2)", "consilo 1.0 (2.0)")


def test_the_hardware_names_what_bits_depend_on() -> None:
    found = hardware()
    assert set(found) == {"cpu", "architecture", "capability"}
    assert all(found.values())
    assert changes(found, found) == []


def test_what_changed_is_named_with_what_it_was_and_the_unknown_is_let_be() -> None:
    before = {"cpu": "Old", "architecture": "x86_64", "gone": "1"}
    now = {"cpu": "New", "architecture": "x86_64", "came": "1"}
    assert changes(before, now) == ["cpu New (was Old)"]


def test_a_common_version_is_enough_and_without_one_the_older_side_is_named() -> None:
    assert unsupported(WIRE_VERSIONS[-1:]) == ""
    assert "at the coordinator" in unsupported([max(WIRE_VERSIONS) + 1])
    assert "at the silo" in unsupported([0])


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"wire": [], "versions": {}},
        {"wire": [True], "versions": {}},
        {"wire": [-1], "versions": {}},
        {"wire": [1], "versions": {"a": 1}},
        {"wire": [1], "versions": {"a": "x" * 100}},
        {"wire": [1], "versions": {"<b>": "1"}},
        {"wire": [1], "versions": {f"p{n}": "1" for n in range(100)}},
        {"wire": list(range(1, 100)), "versions": {}},
    ],
)
def test_a_manifest_from_elsewhere_is_checked(value: object) -> None:
    with pytest.raises(ValueError, match=r"manifest|wire|package|version"):
        Software.parse(value)
