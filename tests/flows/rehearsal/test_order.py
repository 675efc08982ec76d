"""Answers are let out in the order in which they came in another run, each in its round."""

from __future__ import annotations

import threading
import time

import pytest

from flows.rehearsal.order import Order, Round

FIRST = Round((("north", 1), ("east", 1)), frozenset(), frozenset({"south"}))
SECOND = Round((("south", 1), ("north", 2)), frozenset({"east"}), frozenset())


def test_a_line_of_a_record_says_who_was_asked_and_what_came() -> None:
    told = {
        "round": 3,
        "arrivals": [["south", 1], ["north", 3]],
        "stale": {"west": {"late": 2, "epsilon": None}},
        "faults": {"east": "unreachable"},
        "late": ["coast"],
    }
    found = Round.of(told)
    assert found.answers == (("west", 1), ("south", 1), ("north", 3))
    assert found.failed == {"east"}
    assert found.asked == {"west", "south", "north", "coast"}


def test_answers_come_in_their_order_whoever_is_ready_first() -> None:
    number, out = 1, []
    order = Order({1: FIRST, 2: SECOND}, lambda: number)
    assert order.here == {"north", "east", "south"}

    def answer(silo: str, asked: int) -> None:
        with order.turn(silo, asked) as came:
            assert came
            out.append((silo, asked))

    asked = [("south", 1), ("east", 1), ("north", 1)]
    threads = [threading.Thread(target=answer, args=each) for each in asked]
    for each in threads:
        each.start()
    threads[1].join(60.0)
    assert out == [("north", 1), ("east", 1)]
    time.sleep(0.05)
    assert len(out) == 2  # what came in the second round waits for it
    number = 2
    assert order.here == {"south", "north"}
    threads[0].join(60.0)
    assert out[-1] == ("south", 1)
    number = 3
    assert order.here is None


def test_an_answer_that_never_came_does_not_come_again() -> None:
    order = Order({1: FIRST}, lambda: 1)
    with order.turn("south", 1) as came:
        assert not came


@pytest.mark.parametrize("silo", ["north", "east"])
def test_who_failed_and_answered_in_one_round_has_answered(silo: str) -> None:
    told = {"round": 1, "arrivals": [[silo, 1]], "faults": {silo: "deadline"}}
    assert Round.of(told).failed == frozenset()
