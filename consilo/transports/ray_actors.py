"""Many silos over a Ray cluster, with the extra ``ray``: simulation that outgrows one machine.

Every silo belongs to one actor, a Ray process on any node that holds what its silos remember;
actors run the same function that the workers of `consilo.transports.pool` run. Ray's plain tasks
would have no memory: privacy spent and answers given would need a store that all nodes share.
Flower's simulation engine also runs on Ray, but brings its own server loop, message format and
client state, so that a job would not run the same bytes as in a deployment; here kernel, dispatch,
guard and wire format are the ones of every other transport.

The silos' directory travels through Ray's object store, once per node, as does the body of a
request. Replies are taken in the order asked and at most `_AHEAD` per actor are early. An actor
that dies is not replaced: its silos' memory is gone, and from then on they answer ``crashed``.
A job's own modules must lie at the same path on every node.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from consilo.errors import ConfigInvalid
from consilo.machine.environment import quieten
from consilo.wire.parcel import Answer, Arrival, Fault, Parcel

_AHEAD = 4
_START_S = 300.0


class RayTransport:
    """Asks silos through actors on a Ray cluster.

    Args:
        silos: their names.
        opener: ``module:function``; called once in each actor with its copy of ``directory``, it
            returns the function that gives a silo's answer function by its name.
        directory: what the silos are made from; copied to each actor.
        workers: how many actors; None takes one per CPU of the cluster.
        address: of a running cluster; None takes ``RAY_ADDRESS``, and without it starts one on
            this machine, which `close` ends.

    Raises:
        ConfigInvalid: where Ray is not installed.
    """

    def __init__(
        self,
        silos: Sequence[str],
        opener: str,
        directory: Path,
        *,
        workers: int | None = None,
        address: str | None = None,
    ) -> None:
        quieten()  # before Ray is imported: it reports its use otherwise
        try:
            import ray
        except ImportError:
            raise ConfigInvalid(
                "engine 'ray'", ["Ray is not installed; pip install 'consilo[ray]'"]
            ) from None
        self._ray: Any = ray
        self._silos = tuple(sorted(silos))
        self._owns = not ray.is_initialized()
        if self._owns:
            where = address or os.environ.get("RAY_ADDRESS")
            options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
            if where is None:
                options |= {"include_dashboard": False, "num_cpus": workers}
            ray.init(address=where, **options)
        try:
            number = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
            number = min(number, max(1, len(self._silos)))
            files = {
                each.relative_to(directory).as_posix(): each.read_bytes()
                for each in sorted(directory.rglob("*"))
                if each.is_file() and not each.name.endswith(("-wal", "-shm"))
            }
            copied = ray.put(files)
            kind = ray.remote(num_cpus=1, max_restarts=0)(_Actor)
            self._actors = [kind.remote(opener, copied) for _ in range(number)]
            ray.get([each.ready.remote() for each in self._actors], timeout=_START_S)
        except BaseException:
            self.close()
            raise
        self._home = {name: self._actors[place % number] for place, name in enumerate(self._silos)}

    def online(self) -> tuple[str, ...]:
        """Return every silo's name, sorted."""
        return self._silos

    def exchange(self, parcels: Mapping[str, Parcel], *, deadline_s: float) -> Iterator[Arrival]:
        """Yield each silo's answer in the order asked; see `consilo.wire.parcel.Transport`."""
        waiting: deque[tuple[str, Any]] = deque()
        left = iter(parcels.items())
        last: bytes | None = None
        body: Any = None
        while True:
            while len(waiting) < _AHEAD * len(self._actors):
                following = next(left, None)
                if following is None:
                    break
                name, parcel = following
                if name not in self._home:
                    waiting.append((name, None))
                    continue
                if parcel.body is not last:
                    last, body = parcel.body, self._ray.put(parcel.body)
                answer = self._home[name].answer.remote(name, parcel.header, body)
                waiting.append((name, answer))
            if not waiting:
                return
            yield self._arrival(*waiting.popleft(), deadline_s)

    def close(self) -> None:
        """End the actors, and the cluster where this transport started it; safe to call twice."""
        for actor in self.__dict__.pop("_actors", ()):
            with contextlib.suppress(Exception):
                self._ray.kill(actor)
        if self._owns and self._ray.is_initialized():
            self._ray.shutdown()

    def _arrival(self, name: str, answer: Any, deadline_s: float) -> Arrival:
        if answer is None:
            fault = Fault("unreachable", "no such silo on this transport")
            return Arrival(name, None, fault, 0.0)
        late = Fault("deadline", f"no answer within {deadline_s:.0f} s")
        try:
            # Up to `_AHEAD` questions are before this one in its actor's queue.
            header, body, seconds = self._ray.get(answer, timeout=deadline_s * (_AHEAD + 1))
        except self._ray.exceptions.GetTimeoutError:
            return Arrival(name, None, late, deadline_s)
        except self._ray.exceptions.RayError:
            return Arrival(name, None, Fault("crashed", "the silo's process died"), 0.0)
        if seconds > deadline_s:
            return Arrival(name, None, late, seconds)
        return Arrival(name, Parcel(header, body), None, seconds)


class _Actor:
    """Answers for its silos, over its own copy of their directory."""

    def __init__(self, opener: str, files: Mapping[str, bytes]) -> None:
        quieten()
        from consilo.machine.forks import load

        self._folder = tempfile.TemporaryDirectory(prefix="consilo-ray-")
        place = Path(self._folder.name)
        for name, content in files.items():
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
            path.write_bytes(content)
        self._answer_of: Callable[[str], Answer] = load(opener)(str(place))

    def ready(self) -> bool:
        """Return once the silos can be asked."""
        return True

    def answer(self, name: str, header: bytes, body: bytes) -> tuple[bytes, bytes, float]:
        """Return the reply's header and body, and the seconds that it took."""
        started = time.perf_counter()
        reply = self._answer_of(name)(Parcel(header, body))
        return reply.header, reply.body, time.perf_counter() - started
