"""Valid jobs with something in them changed, left out or called otherwise; a seam for tests."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

OTHERS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.floats(-1, 3),
    st.sampled_from([2**63, 1e18, 1e-18]),
    st.sampled_from(
        ["", "yes", "1e3", "mean", "adam", "sgd", "fedavg", "own:f1", "own:nothing", "a:b", "ill"]
    ),
    st.just([]),
    st.just({}),
    st.just([1, "a"]),
    st.just({"a": {"b": 1}}),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of everything in nested mappings and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, each in items:
        found.append((*path, key))
        if isinstance(each, dict | list):
            found += places(each, (*path, key))
    return found


@st.composite
def mutated(draw: st.DrawFn, valid: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a valid job with one or two things in it changed, left out or called otherwise."""
    job: dict[str, Any] = copy.deepcopy(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(1, 2))):
        *before, last = draw(st.sampled_from(places(job)))
        owner: Any = job
        for key in before:
            owner = owner[key]
        way = draw(st.sampled_from(["change", "drop", "rename"]))
        if way == "change" or isinstance(owner, list):
            owner[last] = copy.deepcopy(draw(OTHERS))
        else:
            kept = owner.pop(last)
            if way == "rename":
                owner[draw(st.sampled_from([f"{last}s", last[1:], "args", "lr", "mu"]))] = kept
    return job
