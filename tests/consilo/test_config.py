from typing import Annotated, Literal

import pytest
from pydantic import Field, RootModel

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


class Circle(Config):
    """One kind."""

    kind: Literal["circle", "disc"] = "circle"
    radius: float


class Square(Config):
    """Another."""

    kind: Literal["square"] = "square"
    width: float
    inside: dict[str, "Shape"] = Field(default_factory=dict)


Shape = Annotated[Circle | Square, Field(discriminator="kind")]
Square.model_rebuild()


class Drawing(Config):
    """A file with things of several kinds."""

    shapes: dict[str, Shape]
    frame: Shape | None = None
    best: Shape = Circle(radius=1)


class Alone(RootModel[Shape]):
    """A file that is of one kind or another."""


def findings(value, model=Outer) -> tuple[str, ...]:
    with pytest.raises(ConfigInvalid) as caught:
        parse(model, value, where="x.yaml")
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


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({"kind": "circle", "radius": 1, "colour": 2}, ".colour: unknown key; known keys: kind, r"),
        ({"kind": "circle", "radious": 1, "radius": 1}, ".radious: unknown key; did you mean 'rad"),
        ({"kind": "disc", "radius": 1, "width": 1}, ".width: not an option of kind disc, but of k"),
        ({"kind": "square"}, ".width: this key is required and missing"),
        ({"kind": "sqare"}, ".kind: expected one of circle, disc, square (found 'sqare'); did you"),
        ({"radius": "SECRET"}, ".kind: this key is required and missing"),
        ("SECRET", ": expected a mapping of keys to values, found a text"),
        (
            {"kind": "square", "width": 1, "inside": {"disc": {"kind": "square", "width": "a"}}},
            ".inside.disc.width: expected a number",
        ),
        (
            {"kind": "square", "width": 1, "inside": {"square": {"kind": "disc", "size": 1}}},
            ".inside.square.radius: this key is required and missing",
        ),
    ],
)
def test_a_fault_in_one_of_several_kinds_is_told_as_it_stands_in_the_file(shape, said):
    round_thing = {"kind": "circle", "radius": 1}
    drawings = {
        # A name that is a kind's too is a name all the same.
        "shapes.square": {"shapes": {"square": shape}},
        "frame": {"shapes": {}, "frame": shape},
        "best": {"shapes": {"circle": round_thing}, "best": shape},
    }
    for place, value in drawings.items():
        assert findings(value, Drawing)[0].startswith(f"{place}{said}")
    if isinstance(shape, dict):
        assert findings(shape, Alone)[0].startswith(said.removeprefix("."))
    assert "SECRET" not in str([findings(value, Drawing) for value in drawings.values()])


@pytest.mark.parametrize(("value", "kind"), [(None, "nothing"), ([1], "a list"), ("x", "a text")])
def test_a_file_that_is_no_mapping_says_what_it_is(value, kind):
    assert findings(value) == (f"expected a mapping of keys to values, found {kind}",)


def test_a_missing_or_broken_file_is_a_finding(tmp_path):
    with pytest.raises(JobInvalid, match="does not exist"):
        read_yaml(tmp_path / "none.yaml", error=JobInvalid)
    with pytest.raises(ConfigInvalid, match="this is a directory"):
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
    with pytest.raises(ConfigInvalid, match=r"a: line 1: the tag .* is not read"):
        read_yaml(path)


def test_nearest_gives_up_on_what_is_far():
    assert nearest("epsilom", ["epsilon", "delta"]) == "epsilon"
    assert nearest("qqqq", ["epsilon", "delta"]) is None
