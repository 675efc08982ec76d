"""Mistakes that are planted in the software of a simulated federation: each must be noticed."""

from __future__ import annotations

from sim_faults import COORDINATOR


class _LateAccount:
    """Books a step once its answer is kept, and not before a row is used."""

    def __init__(self, account):
        self._account = account
        self._late = {}

    def reserve(self, account, charge, admit):
        self._late[charge.step_id] = (account, charge, admit)
        return [charge.row]

    def settle(self, step_id):
        if step_id in self._late:
            self._account.reserve(*self._late.pop(step_id))
        self._account.settle(step_id)


class _ShortMemory:
    """Remembers no answer."""

    def remembered(self, step_id):
        return None

    def remember(self, step_id, reply):
        pass


def log_not_synced(machine):
    """A line of the audit log is written, and not synced before the answer leaves."""
    machine.disk.unsynced = ("audit.jsonl",)


def memory_not_synced(machine):
    """An answer is committed to a database whose commits a loss of power takes back."""
    machine.disk.unsynced = ("state.db",)


def record_not_synced(machine):
    """A line of the run record is written, and not synced before it counts."""
    if machine.name == COORDINATOR:
        machine.disk.unsynced = ("record.jsonl",)


def spends_after_the_reply(machine):
    """ε is reserved after the answer is kept."""
    if machine.host is not None:
        machine.host.account = _LateAccount(machine.host.account)


def answers_anew(machine):
    """A question asked again is answered again, with other bytes."""
    if machine.host is not None:
        machine.host.memory = _ShortMemory()


PLANTS = {
    each.__name__: each
    for each in (
        log_not_synced,
        memory_not_synced,
        record_not_synced,
        spends_after_the_reply,
        answers_anew,
    )
}
