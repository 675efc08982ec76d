"""A former release in a process of its own; parcels go through its pipes, a JSON line each."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

from consilo.wire.parcel import Parcel

RELEASES = Path(__file__).parents[1] / "frozen"

SILO = """
import base64, json, sys
from pathlib import Path
from consilo.parcel import Parcel
from silos.silo import answerer

answer = answerer(Path(sys.argv[1]))
for line in sys.stdin:
    header, body = (base64.b64decode(each) for each in json.loads(line))
    reply = answer(Parcel(header, body))
    said = [base64.b64encode(each).decode() for each in (reply.header, bytes(reply.body))]
    print(json.dumps(said), flush=True)
"""

COORDINATOR = """
import base64, json, sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from consilo.contract import Contract
from consilo.job import Job
from consilo.parcel import Parcel
from consilo.run import Run, run_all
from consilo.transports.local import LocalTransport

order = json.loads(sys.stdin.readline())
out, sys.stdout = sys.stdout, sys.stderr

def asked(silo):
    def answer(parcel):
        said = [base64.b64encode(each).decode() for each in (parcel.header, bytes(parcel.body))]
        out.write(json.dumps([silo, *said]) + "\\n")
        out.flush()
        return Parcel(*(base64.b64decode(each) for each in json.loads(sys.stdin.readline())))
    return answer

signing = {}  # from wire version 2 on
if order.get("signing_keys"):
    from consilo.kernel import Party
    signing["parties"] = {name: Party(key) for name, key in order["signing_keys"].items()}
key = order.get("key")
run = Run(
    Job.from_json(order["job"]), Contract.from_json(order["contract"]),
    LocalTransport({name: asked(name) for name in order["silos"]}),
    silos=tuple(order["silos"]), directory=Path(sys.argv[1]), run_id="old",
    key=Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key)) if key
    else Ed25519PrivateKey.generate(),
    **signing,
)
result = run_all(run)
out.write(json.dumps({"status": result.status, "reason": result.reason}) + "\\n")
"""


class Frozen:
    """One process of a former release.

    Args:
        release: such as ``wire-2``.
        program: `SILO` or `COORDINATOR`.
        directory: the silo's, or the run's.
    """

    def __init__(self, release: str, program: str, directory: Path) -> None:
        # First on the path, so that nothing of today's code is imported.
        environment = {**os.environ, "PYTHONPATH": str(RELEASES / f"{release}.zip")}
        with (directory / "frozen.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program, str(directory)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=directory,
                text=True,
            )

    def write(self, value: object) -> None:
        """Send one line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()

    def read(self) -> object:
        """Wait for one line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the former release's process has ended; see frozen.log"
        return json.loads(line)

    def answer(self, parcel: Parcel) -> Parcel:
        """Let a former silo answer."""
        self.write(encoded(parcel))
        return decoded(self.read())

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait(30)


def encoded(parcel: Parcel) -> list[str]:
    """Return a parcel as plain texts."""
    return [base64.b64encode(each).decode() for each in (parcel.header, bytes(parcel.body))]


def decoded(value: object) -> Parcel:
    """Return the parcel that `encoded` wrote."""
    assert isinstance(value, list)
    return Parcel(*(base64.b64decode(each) for each in value))
