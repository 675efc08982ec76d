"""Entity matching between two silos on this machine, beside plain openmined-psi in one process.

Each silo is a process of its own over its own directory, with policy, audit log, sealed envelopes
and kept state, as in a federation; this process is the coordinator between them. Half of the people
of one silo are in the other. The rows are canonical before the clock starts.

    psi_100k_s                 seconds from the first message to the match in both silos
    psi_1m_s                   the same for a million rows in each
    psi_100k_bytes_per_element, psi_1m_bytes_per_element
                               bytes that the silos sent, per row of either
    psi_100k_peak_mib, psi_1m_peak_mib
                               peak resident memory of the larger silo's process, over the whole run
    openmined_100k_s           plain openmined-psi, both sides in one process, raw, nothing sent
    psi_100k_cpu_s, psi_1m_cpu_s, openmined_100k_cpu_s
                               CPU of both silos, or of openmined's process: what a machine that is
                               busy with other things leaves as it is
    psi_100k_vs_openmined      how many times faster than that, in the same run
    psi_100k_cpu_vs_openmined  how much less CPU
"""

from __future__ import annotations

import multiprocessing as mp
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import yaml
from report import Report, load_now, options, say, sized

from consilo.machine.environment import quieten

CONTRACT = """
name: people
version: 1
columns:
  number: {type: string, role: id}
"""
POLICY = """
allow: [{jobs: ["*"]}]
disclosures: {sealed: yes, match: yes, statistic: yes}
matching: {min_set_size: 100, min_intersection: 10}
"""
SILOS = ("bank", "telecom")


def numbers(count: int, start: int) -> list[str]:
    """Return identifiers: ``count`` of them from ``start`` on."""
    return [f"{n:012d}" for n in range(start, start + count)]


def make_silo(folder: Path, name: str, count: int, start: int) -> Path:
    """Write a silo's directory with ``count`` people."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from consilo.contracts.contract import Contract
    from silos.proposals import onboard

    place = folder / name
    place.mkdir()
    pq.write_table(pa.table({"number": numbers(count, start)}), place / "rows.parquet")
    source = {"people": {"type": "parquet", "path": "rows.parquet"}}
    (place / "silo.yaml").write_text(yaml.safe_dump({"name": name, "data": source}))
    (place / "policy.yaml").write_text(POLICY)
    contract = Contract.parse(yaml.safe_load(CONTRACT), where="here")
    onboard.confirm(place, contract, contract.digest)
    return place


def serve(place: Path, coordinator: str, partners: Mapping[str, str], pipe: Connection) -> None:
    """Be a silo: answer what comes through the pipe until it is told to end."""
    quieten()
    from consilo.contracts.contract import Contract
    from consilo.protocols.dispatch import answerer
    from consilo.wire.parcel import Parcel
    from silos.gate.partners import Partner
    from silos.silo import Silo

    known = {name: Partner(signing_key=key) for name, key in partners.items()}
    silo = Silo.open(place, signing_keys=[coordinator], partners=known)
    contract = Contract.parse(yaml.safe_load(CONTRACT), where="here")
    silo.rows.frame(contract)
    answer = answerer(silo)
    before = time.process_time()
    pipe.send(None)
    while (asked := pipe.recv()) is not None:
        reply = answer(Parcel(*asked))
        pipe.send((bytes(reply.header), bytes(reply.body)))
    used = resource.getrusage(resource.RUSAGE_SELF)
    pipe.send((used.ru_maxrss / 1024, time.process_time() - before))


class Pipes:
    """A transport to silos in child processes; all are asked at once."""

    def __init__(self, pipes: Mapping[str, Connection]) -> None:
        self._pipes = dict(pipes)

    def online(self) -> tuple[str, ...]:
        """Return everybody."""
        return tuple(self._pipes)

    def exchange(self, parcels: Mapping[str, Any], *, deadline_s: float) -> Iterator[Any]:
        """Send to all, yield as they answer."""
        from consilo.wire.parcel import Arrival, Parcel

        started = time.perf_counter()
        for name, parcel in parcels.items():
            self._pipes[name].send((bytes(parcel.header), bytes(parcel.body)))
        names = {self._pipes[name]: name for name in parcels}
        while names:
            for pipe in wait(list(names)):
                assert isinstance(pipe, Connection)
                parcel = Parcel(*pipe.recv())
                yield Arrival(names.pop(pipe), parcel, None, time.perf_counter() - started)

    def close(self) -> None:
        """Do nothing: whoever made the pipes ends the silos."""


def ours(count: int) -> dict[str, float]:
    """Match ``count`` people with ``count`` others, half of them the same."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from consilo.contracts.contract import Contract
    from consilo.jobs.job import Job
    from consilo.kernel.loop import Party
    from consilo.membership.keys import load_or_create_signing_key
    from consilo.runs.match import run_match
    from consilo.wire.signing import public_hex
    from silos.kept.matches import read_match

    key = Ed25519PrivateKey.generate()
    job = Job.from_json(
        {
            "name": "benchmark",
            "contract": "people@1",
            "kind": "match",
            "match": {"recipe": {"keys": [{"parts": [{"column": "number", "steps": ["trim"]}]}]}},
        }
    )
    context = mp.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="psi-") as named:
        folder = Path(named)
        places = {n: make_silo(folder, n, count, i * count // 2) for i, n in enumerate(SILOS)}
        public = {
            name: public_hex(load_or_create_signing_key(place / "signing.key"))
            for name, place in places.items()
        }
        pipes, children = {}, []
        for name, place in places.items():
            mine, theirs = context.Pipe()
            others = {other: each for other, each in public.items() if other != name}
            child = context.Process(target=serve, args=(place, public_hex(key), others, theirs))
            child.start()
            children.append(child)
            pipes[name] = mine
        for pipe in pipes.values():
            pipe.recv()
        started = time.perf_counter()
        told = run_match(
            job,
            Contract.parse(yaml.safe_load(CONTRACT), where="here"),
            Pipes(pipes),
            silos=SILOS,
            directory=folder / "runs",
            run_id="benchmark",
            key=key,
            parties={name: Party(each) for name, each in public.items()},
        )
        seconds = time.perf_counter() - started
        for pipe in pipes.values():
            pipe.send(None)
        used = [pipe.recv() for pipe in pipes.values()]
        for child in children:
            child.join()
        if told["status"] != "complete":
            raise SystemExit(f"not matched: {told['reason']}")
        rows = [read_match(place, "benchmark").rows for place in places.values()]
        if len(rows[0]) != count - count // 2 or (rows[0] - rows[1] != count // 2).any():
            raise SystemExit("the match is wrong")
    return {
        "s": seconds,
        "bytes_per_element": sum(told["bytes_up"].values()) / (2 * count),
        "peak_mib": max(peak for peak, _ in used),
        "cpu_s": sum(cpu for _, cpu in used),
    }


def openmined(count: int) -> tuple[float, float]:
    """Return the seconds and CPU seconds of openmined-psi for the same sets, in this process."""
    import private_set_intersection.python as psi

    one, other = numbers(count, 0), numbers(count, count // 2)
    started, before = time.perf_counter(), time.process_time()
    client, server = psi.client.CreateWithNewKey(True), psi.server.CreateWithNewKey(True)
    setup = server.CreateSetupMessage(0.0, count, other, psi.DataStructure.RAW)
    response = server.ProcessRequest(client.CreateRequest(one))
    found = client.GetIntersection(setup, response)
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - before
    if len(found) != count - count // 2:
        raise SystemExit("openmined-psi found another number")
    return seconds, cpu_s


def main() -> int:
    """Measure and report."""
    parser = options(__doc__)
    parser.add_argument("--only-100k", action="store_true", help="leave the million out")
    given = parser.parse_args()
    quieten()
    load = load_now()
    small, large = sized(given, full=(100_000, 1_000_000), quick=(5_000, 20_000), smoke=(200, None))
    left_out: dict[str, str] = {}
    say(f"openmined-psi, {small} each …")
    plain, plain_cpu = openmined(small)
    say(f"ours, {small} each …")
    hundred = ours(small)
    figures = {f"psi_100k_{name}": each for name, each in hundred.items()} | {
        "openmined_100k_s": plain,
        "openmined_100k_cpu_s": plain_cpu,
    }
    if given.only_100k or large is None:
        why = "--only-100k" if given.only_100k else "the same again, with more rows"
        left_out = {f"psi_1m_{name}": why for name in hundred}
    else:
        say(f"ours, {large} each …")
        figures |= {f"psi_1m_{name}": each for name, each in ours(large).items()}
    ratios = {
        "psi_100k_vs_openmined": plain / hundred["s"],
        "psi_100k_cpu_vs_openmined": plain_cpu / hundred["cpu_s"],
    }
    Report("psi", given.size, load, figures, ratios, left_out).show(as_json=given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
