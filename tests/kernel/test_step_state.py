"""A silo's state by step: a repeat sees what was before; a second answer may be refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilo.errors import Refused
from consilo.kernel.step_state import StepState


class Drawer(dict):
    def kept(self, name):
        return self.get(name)

    def keep(self, name, content):
        self[name] = content

    def forget(self, name):
        self.pop(name, None)


def at(drawer, *place, mark="1", once=False):
    return StepState(drawer, "net", place=place, mark=mark * 32, once=once)


def told(drawer, *place, **settings):
    found = at(drawer, *place, **settings).before()
    return None if found is None else found["after"]


def do(drawer, *place, **settings):
    at(drawer, *place, **settings).keep({"after": list(place)})


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 4)), min_size=1, unique=True))
def test_each_step_sees_what_the_one_before_left_also_when_it_is_asked_again(places):
    drawer, last = Drawer(), None
    for place in sorted(places):
        for _ in range(2):
            assert told(drawer, *place) == last
            do(drawer, *place)
            assert len(drawer) <= 3
        last = list(place)


@given(st.integers(1, 6), st.integers(1, 6))
def test_a_round_can_be_begun_anew_from_where_it_began(done, again):
    """Its last steps are forgotten by then, and the first of it were long ago."""
    drawer = Drawer()
    do(drawer, 1, 0)
    for once in (False, True):
        for step in range(done):
            do(drawer, 2, step, once=once)
        for step in range(min(done, again)):
            assert told(drawer, 2, step, once=once) == ([1, 0] if step == 0 else [2, step - 1])
            do(drawer, 2, step, once=once)


def test_a_silo_that_missed_rounds_goes_on_from_where_it_stood():
    drawer = Drawer()
    do(drawer, 1, 0)
    assert told(drawer, 7, 0) == [1, 0]


def test_a_round_that_is_over_is_not_done_again():
    drawer = Drawer()
    do(drawer, 1, 0)
    do(drawer, 2, 0)
    with pytest.raises(Refused, match="in a round that is over"):
        told(drawer, 1, 0)
    with pytest.raises(Refused, match="in a round that is over"):
        do(drawer, 1, 0)


def test_a_step_in_the_middle_is_not_answered_from_an_older_state():
    drawer = Drawer()
    for step in range(5):
        do(drawer, 1, step)
    with pytest.raises(Refused, match="no longer holds what it knew before step 2 of round 1"):
        told(drawer, 1, 2)


def test_another_message_about_a_step_counts_or_is_refused():
    drawer = Drawer()
    do(drawer, 1, 0)
    do(drawer, 1, 0, mark="2")
    do(drawer, 2, 0, once=True)
    do(drawer, 2, 1, once=True)
    do(drawer, 2, 0, once=True)
    for step in (0, 1):
        with pytest.raises(Refused, match=f"has done step {step} of round 2 of this run already"):
            do(drawer, 2, step, mark="2", once=True)


def test_names_do_not_mix():
    drawer = Drawer()
    do(drawer, 1, 0)
    assert StepState(drawer, "other", place=(2, 0), mark="1" * 32).before() is None
