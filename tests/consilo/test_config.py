from typing import Annotated

import pytest
from pydantic import Field

from consilo.config import Config, nearest, parse, read_yaml
from consilo.errors import ConfigInvalid, JobInvalid


class Inner(Config):
    """A section."""

    rounds: int = 3
    rate: Annotated[float, Field(gt=0)] = 1.0


class Outer(Config):
    """A file."""

    name: str
    inner: Inner | None = None
    several: tuple[Inner, ...] = ()


def findings(value) -> tuple[str, ...]:
    with pytest.raises(ConfigInvalid) as caught:
        parse(Outer, value, where="x.yaml")
    return caught.value.findings


def test_a_good_value_parses_and_is_frozen():
    found = parse(Outer, {"name": "a", "inner": {"rounds": 5}}, where="x")
    assert found.inner == Inner(rounds=5)
    with pytest.raises(ValueError, match="frozen"):
        found.name = "b"


def test_every_fault_is_told_at_once_with_its_place():
    told = findings({"inner": {"rounds": "many", "rate": 0}, "several": [{"rate": -1}]})
    assert len(told) == 4
    for place in ("name: this key is required", "inner.rounds", "inner.rate", "several.0.rate"):
        assert any(each.startswith(place) for each in told), told


def test_an_unknown_key_suggests_the_nearest():
    (told,) = findings({"name": "a", "inner": {"round": 3}})
    assert told == "inner.round: unknown key; did you mean 'rounds'?"
    (told,) = findings({"name": "a", "inner": {"zzz": 3}})
    assert told == "inner.zzz: unknown key; known keys: rate, rounds"


@pytest.mark.parametrize(("value", "kind"), [(None, "nothing"), ([1], "list"), ("x", "str")])
def test_a_file_that_is_no_mapping_says_what_it_is(value, kind):
    assert findings(value) == (f"expected a mapping of keys to values, found {kind}",)


def test_a_missing_or_broken_file_is_a_finding(tmp_path):
    with pytest.raises(JobInvalid, match="does not exist"):
        read_yaml(tmp_path / "none.yaml", error=JobInvalid)
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        read_yaml(tmp_path)
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1, 2")
    with pytest.raises(ConfigInvalid, match="not valid YAML"):
        read_yaml(broken)
    broken.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigInvalid, match="UTF-8"):
        read_yaml(broken)


def test_yaml_makes_no_objects(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text("a: !!python/object/apply:os.getcwd []")
    with pytest.raises(ConfigInvalid, match="not valid YAML"):
        read_yaml(path)


def test_nearest_gives_up_on_what_is_far():
    assert nearest("epsilom", ["epsilon", "delta"]) == "epsilon"
    assert nearest("qqqq", ["epsilon", "delta"]) is None
