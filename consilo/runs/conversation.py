"""One conversation with silos: wait for them, ask, write down what they signed, tell them the end.

Everything that asks silos is one: a run with its stages, a match, a single question about costs or
columns. What differs is the protocol that is asked, and whether a record is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consilo.errors import ConsiloError
from consilo.kernel.federation import Federation
from consilo.kernel.loop import Exchange, Kernel, Party
from consilo.kernel.pace import FILE as PACE
from consilo.kernel.pace import Pace
from consilo.kernel.updates import Updates
from consilo.machine.environment import login
from consilo.protocols.conclude import CONCLUDE_S, Conclude
from consilo.record.chain import in_utc
from consilo.record.heads import SiloHeads
from consilo.record.run_record import RunRecord
from consilo.wire.parcel import not_connected

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from consilo.contracts.contract import Contract
    from consilo.jobs.job import Job
    from consilo.kernel.protocol import Protocol
    from consilo.kernel.steps import Checkpoint, Publish
    from consilo.wire.parcel import Transport

_POLL_S = 0.2


class Conversation:
    """Silos that are asked together under one id.

    Args:
        job: travels to each silo once.
        contract: travels with it.
        transport: how the silos are reached.
        silos: everybody who may be asked, connected or not.
        run_id: unique.
        key: signs requests and record.
        parties: silo → how it signs and what it speaks; a silo that is not in it is simulated, and
            neither side signs.
        absent: silo → why it is not asked at all, such as ``suspended``.
        bundle: SHA-256 of the code that silos execute; empty in process.
        publish: told of every `Publish` of a protocol.
        now: seconds since 1970, by which requests and the record are dated.
        standing: silo → why it may not take part at this moment; empty where it may.
        runs: the folder in which each run has its own: what answers took is learnt over them.
    """

    def __init__(
        self,
        job: Job,
        contract: Contract,
        transport: Transport,
        *,
        silos: Sequence[str],
        run_id: str,
        key: Ed25519PrivateKey,
        parties: Mapping[str, Party] | None = None,
        absent: Mapping[str, str] | None = None,
        bundle: str = "",
        publish: Callable[[Publish], None] = lambda _: None,
        now: Callable[[], float] = time.time,
        standing: Callable[[str], str] = lambda silo: "",
        runs: Path | None = None,
    ) -> None:
        self.silos = tuple(sorted(silos))
        self.run_id = run_id
        self.contract = contract
        self.absent = {n: why for n, why in (absent or {}).items() if n in self.silos}
        self.parties = {n: each for n, each in (parties or {}).items() if n in self.silos}
        self._standing = standing
        self.exchanges: list[Exchange] = []
        self.record: RunRecord | None = None
        self._transport = transport
        self._key = key
        self._bundle = bundle
        self._publish = publish
        self._now = now
        self._recorded = 0
        self._pace = Pace(None if runs is None else runs / PACE)
        self.take(job, self.silos)

    def take(self, job: Job, silos: Sequence[str]) -> None:
        """Go on about another job, with these silos only."""
        self.updates = Updates(judges=job.judges_updates)
        self.job = job
        left = {name: not_connected(why) for name, why in self.absent.items()}
        self.fed = Federation(
            tuple(silos),
            job,
            self.contract,
            self.online,
            left=left,
            standing=self._standing,
        )
        self._kernel = Kernel(
            self._transport,
            run_id=self.run_id,
            job=job,
            contract=self.contract,
            observe=self.exchanges.append,
            publish=self._publish,
            key=self._key,
            bundle=self._bundle,
            parties=self.parties,
            head=lambda: "" if self.record is None else self.record.head,
            newest=lambda name: None if self._heads is None else self._heads.newest(name),
            owner=lambda: 0 if self.record is None else self.record.owner,
            now=self._now,
            pace=self._pace,
            updates=self.updates,
        )

    @property
    def manifest(self) -> str:
        """The digest of what the silos are told that this is."""
        return self._kernel.manifest.digest

    @property
    def _heads(self) -> SiloHeads | None:
        """What silos said last in any run whose folder lies beside this one's."""
        return None if self.record is None else SiloHeads(self.record.path.parent.parent)

    def online(self) -> tuple[str, ...]:
        """Return who may be asked and is connected."""
        here = set(self._transport.online())
        return tuple(n for n in self.silos if n in here and n not in self.absent)

    def wait(
        self,
        *,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> tuple[str, ...]:
        """Return who is connected: everybody, or those who came within ``seconds``."""
        end = clock() + seconds
        while True:
            here = self.online()
            if len(here) + len(self.absent) >= len(self.silos) or clock() >= end:
                return here
            sleep(_POLL_S)

    def keep_record(self, path: Path, **opening: Any) -> RunRecord:
        """Begin a record that opens with what everybody is told, and with ``opening``."""
        self.record = RunRecord(path, self._key, now=lambda: in_utc(self._now()))
        self.record.add("opened", **self.opening(), started_by=login(), **opening)
        return self.record

    def opening(self) -> dict[str, Any]:
        """Return what is asked, of whom, and by which keys they sign."""
        return {
            "run_id": self.run_id,
            "job": self.job.to_json(),
            "job_digest": self.job.digest,
            "contract": self.contract.ref,
            "contract_digest": self.contract.digest,
            "bundle": self._bundle,
            "silos": list(self.silos),
            "manifest": self.manifest,
            "signing_keys": {name: each.signing_key for name, each in self.parties.items()},
        }

    def ask(self, name: str, protocol: Protocol[Any]) -> Any:
        """Run a protocol to its end and return its result; may be called from several threads.

        Args:
            name: the protocol's, as the silos know it.
            protocol: its coordinator half.
        """
        return self._kernel.run(name, protocol, self.fed)

    def drive(
        self, name: str, protocol: Protocol[Any], state: Any
    ) -> Generator[Checkpoint, None, Any]:
        """Run a protocol from a state; yield at every checkpoint, return the final state."""
        return self._kernel.drive(name, protocol, self.fed, state)

    def note_replies(self) -> None:
        """Write the signed headers of all replies since the last time into the record."""
        new, self._recorded = self.exchanges[self._recorded :], len(self.exchanges)
        signed = [asdict(each.reply) for each in new if each.reply and each.reply.signature]
        if signed and self.record is not None:
            self.record.add("replies", headers=signed)
            if self._heads is not None:
                self._heads.note(signed)

    def conclude(self, status: str, *, wait_s: float = CONCLUDE_S) -> None:
        """Tell the silos that sign that this was all; who cannot be reached has missed it.

        They erase their keys and whatever they keep of the run, and answer nothing more for it.

        Args:
            status: how it ended.
            wait_s: how long their answers are waited for.
        """
        try:
            told = [n for n in self.online() if n in self.parties and self.parties[n].wire >= 2]
            if told:
                self.ask("conclude", Conclude(told, status, deadline_s=wait_s))
        except ConsiloError as cause:
            if self.record is not None:
                self.record.add("not_concluded", reason=type(cause).__name__)
        self.note_replies()
        self._pace.save()
