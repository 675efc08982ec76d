"""A private step in a real silo, struck by strace at its n-th system call of a kind: killed there,
or told that the disk is full or broken.

Run as a script, so that nothing has computed before it forks: it prints one JSON object a strike.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import strace
from forked import in_child
from killed_steps import _joined, _split, kinds, made, opened, prepared, question

from consilo.kernel.headers import ReplyHeader
from consilo.protocols.dispatch import answerer
from consilo.wire.payload import digest


def answers(place: Path, parcel, times: int) -> list[list[str]]:
    """Return what a process of the silo answers: status, reason, hash of header and of body."""
    answer = answerer(opened(place))
    found = []
    for _ in range(times):
        reply = answer(parcel)
        header = ReplyHeader.decode(reply.header)
        found.append([header.status, header.reason, digest(reply.header), digest(reply.body)])
    return found


def struck(place: Path, parcel, call: str, how: str) -> tuple[bool, list[list[str]]]:
    """Let a process answer while strace is at it; return whether it was killed, and its answer."""
    said = place / "said.json"

    def work() -> None:
        said.write_text(json.dumps(answers(place, parcel, 1)))

    killed, _ = strace.struck(work, call, how)
    found = json.loads(said.read_text()) if said.exists() and not killed else []
    return killed, found


def main(home: Path, call: str, stride: int) -> None:
    base, asked = home / "base", home / "asked"
    made(base)
    assert in_child(lambda: prepared(base)) == 0
    assert in_child(lambda: asked.write_bytes(_joined(question(base)))) == 0
    parcel = _split(asked.read_bytes())
    again = home / "again.json"

    def after(place: Path) -> dict[str, object]:
        def work() -> None:
            again.write_text(json.dumps(answers(place, parcel, 2)))

        assert in_child(work) == 0
        return {"again": json.loads(again.read_text()), "entries": kinds(place)}

    whole = shutil.copytree(base, home / "whole")
    print(json.dumps(after(whole)), flush=True)
    for how in ("signal=KILL", "error=ENOSPC", "error=EIO"):
        number, met = 1, True
        while met:
            place = shutil.copytree(base, home / "struck")
            killed, first = struck(place, parcel, call, f"{how}:when={number}")
            if how == "signal=KILL":
                met, most = killed, number
            else:
                met = number + stride < most
            told = {"how": how, "number": number, "killed": killed, "first": first}
            print(json.dumps({**told, **after(place)}), flush=True)
            shutil.rmtree(place)
            number += stride


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
