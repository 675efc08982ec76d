"""A transport whose silos answer when they are told to; a seam for tests of arrivals."""

import threading
import time

from consilo.errors import CoordinatorUnreachable
from consilo.kernel.headers import Header
from consilo.record.run_record import read
from consilo.wire.parcel import Arrival, Fault


class Paced:
    """A transport whose silos answer training after a while: seconds, or when a script says so."""

    def __init__(self, inner, seconds=None, *, script=None, cut=None, faults=()):
        self.inner, self.seconds, self.cut = inner, seconds or {}, cut
        self.script, self.faults = script, set(faults)
        self.turn, self.asked = threading.Condition(), []

    def online(self):
        return self.inner.online()

    def close(self):
        self.inner.close()

    def exchange(self, parcels, *, deadline_s):
        for silo, parcel in parcels.items():
            head = Header.decode(parcel.header)
            if head.verb != "train":
                yield from self.inner.exchange({silo: parcel}, deadline_s=deadline_s)
                continue
            self.asked.append((silo, head.round, head.step_id))
            if self.cut is not None and len(self.asked) > self.cut:
                raise CoordinatorUnreachable("nobody answers at the SuperLink's address")
            (arrival,) = self.inner.exchange({silo: parcel}, deadline_s=deadline_s)
            if self.script is None:
                time.sleep(self.seconds.get(silo, 0.0))
            else:
                self._await_turn(silo, head.round)
            if (silo, head.round) in self.faults:
                arrival = Arrival(silo, None, Fault("unreachable", "gone"), 0.0)
            yield arrival

    def _await_turn(self, silo, number):
        with self.turn:
            self.turn.wait_for(lambda: self.script[:1] == [[silo, number]], timeout=20)
            assert self.script[:1] == [[silo, number]], (silo, number, self.script[:3])

    def follow(self, run):
        """Let each answer of the script come once the run has noted the one before it."""
        noted = run.exchanges

        class Noted(list):
            def append(_, exchange):
                super().append(exchange)
                if exchange.verb == "train" and self.script:
                    self._taken(*self.script[0])

        run._talk.exchanges = Noted(noted)
        run._talk._kernel._observe = run._talk.exchanges.append

    def _taken(self, silo, number):
        with self.turn:
            if self.script and self.script[0] == [silo, number]:
                self.script.pop(0)
                self.turn.notify_all()


def arrivals(directory):
    """Return round → who came, and in which round each was asked, as a run's record has it."""
    entries = [each["body"] for each in read(directory / "record.jsonl") if each["kind"] == "round"]
    return {each["round"]: each["arrivals"] for each in entries}
