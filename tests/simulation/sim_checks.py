"""What must hold when a run has ended, whatever went wrong in it."""

from __future__ import annotations

import functools

import numpy as np
from sim_faults import COORDINATOR, Scenario
from sim_tiny import SIZE, moved
from sim_world import KEY, RUN, Violation, World

from consilo.errors import RecordTampered
from consilo.record import chain, crosscheck
from consilo.record.run_record import verify
from consilo.wire import params as tree


def check_end(world: World, ending: str) -> str:
    """Raise `Violation` where something does not hold; return the run's status in its record."""
    folder = world.machines[COORDINATOR].disk.root / "runs" / RUN
    try:
        closing = verify(folder / "record.jsonl", KEY.public_key().public_bytes_raw())
        entries = chain.read(folder / "record.jsonl")
    except (RecordTampered, OSError) as cause:
        raise Violation(f"the run ended ({ending}) without a whole record: {cause}") from cause
    status = str(closing["status"])
    if status != "complete" and not closing["reason"]:
        raise Violation(f"the run is {status}, and its record does not say why")
    if world.scenario.waits and closing["reason"].startswith("QuorumLost"):
        raise Violation(f"the run gave up waiting for silos that came back: {closing['reason']}")
    _compare(world, entries)
    if status != "failed":
        _replay(world, entries, status)
    _nothing_left(world)
    for name, told in world.concluded.items():
        if told != status:
            raise Violation(f"{name} was told that the run is {told}; its record says {status}")
    for each in world.silos:
        world.hold(world.machines[each])
    return status


def _compare(world: World, entries) -> None:
    """Hold the record against each silo's log."""
    for name in world.silos:
        audit = chain.verify_open(world.machines[name].disk.root / "audit.jsonl")
        if any(each["body"].get("code") == "forgotten" for each in audit):
            raise Violation(f"{name}: is thought to have forgotten what it said, and has not")
        for finding in crosscheck.compare(entries, audit, name):
            # An answer may be lost on its way, or with a process that had not counted it yet.
            if "has no such reply" not in finding:
                raise Violation(f"{name}: {finding}")


def _replay(world: World, entries, status: str) -> None:
    """Do the recorded rounds again, from what the silos computed; the models must be the same."""
    rounds = {e["body"]["round"]: e["body"] for e in entries if e["kind"] == "round"}
    if sorted(rounds) != list(range(1, world.scenario.rounds + 1)):
        raise Violation(f"the record has the rounds {sorted(rounds)} of {world.scenario.rounds}")
    told = {(each.silo, each.step_id) for each in crosscheck.signed_replies(entries)}
    left_out = {
        e["body"]["silo"] for e in entries if e["kind"] == "contract" and e["body"]["reason"]
    }
    params, everybody = np.zeros(SIZE), True
    for number, body in sorted(rounds.items()):
        deltas = []
        for name in world.silos:
            if name in body["silos"]:
                answer = world.computed.get((name, number, params.tobytes().hex()))
                if answer is None:
                    raise Violation(f"round {number}: {name} counts, and was never asked this")
                if (name, world.steps[name, number, params.tobytes().hex()]) not in told:
                    raise Violation(f"round {number}: {name} counts, its reply is not recorded")
                deltas.append(np.frombuffer(answer))
            elif name not in body["faults"] and name not in left_out:
                raise Violation(f"round {number}: {name} is missing, and the record says no why")
            else:
                everybody = False
        params = moved(params, deltas)
        if tree.digest({"w": params}) != body["params"]:
            raise Violation(f"round {number}: the model is not what its silos' answers make")
    if status == "complete" and not everybody:
        raise Violation("the run is complete, and not everybody was in each round")
    if everybody and tree.digest({"w": params}) != twin(world.scenario):
        raise Violation("everybody was in each round, and the model is not the undisturbed twin's")


def _nothing_left(world: World) -> None:
    """Nothing may be there that nobody will ever look at again."""
    for name, machine in world.machines.items():
        begun = [] if name in (*world.concluded, COORDINATOR) else ["runs"]
        left = [
            each
            for each in machine.disk.root.rglob(".*")
            if each.is_file() and each.relative_to(machine.disk.root).parts[0] not in begun
        ]
        if left:
            raise Violation(f"{name}: {left[0].name} belongs to nobody")
        if name in world.concluded and (kept := [*(machine.disk.root / "runs").glob("*/*")]):
            raise Violation(f"{name}: has said that the run ended, and keeps {kept[0].name}")


@functools.cache
def twin(scenario: Scenario) -> str:
    """Return the digest of the model where nothing goes wrong."""
    world = World(0, scenario, [])
    try:
        world.run()
        folder = world.machines[COORDINATOR].disk.root / "runs" / RUN
        last = [e for e in chain.read(folder / "record.jsonl") if e["kind"] == "round"][-1]
        return str(last["body"]["params"])
    finally:
        world.close()
