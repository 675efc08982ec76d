"""The silo's node: takes messages from the coordinator and lets the silo answer them.

``python -I -m silos.node --dir SILO_DIR`` runs until SIGTERM or Ctrl-C. Two processes: this one
talks to the SuperLink and never imports what a message brings; `silos.node.warm` holds torch and
the learner and forks one child per message. The bundle's hash is checked here, against what the
operator has approved, before a byte of the bundle is fetched.

```
SILO_DIR/
  node.yaml       who we are and where the coordinator is (`NodeConfig`)
  silo.key …      its keys and certificate (`silos.membership.enrol`)
  bundles.yaml    which code may run (`silos.gate.bundles`)
  bundles/packed/ bundles, as they came
  flwr/           FLWR_HOME
```
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import operator
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Self

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    retry_if_result,
    wait_exponential_jitter,
)

from consilo.errors import (
    ConfigInvalid,
    ConsiloError,
    PolicyInvalid,
    Refused,
    ServiceFailed,
    TransportError,
)
from consilo.machine.environment import QUIET, is_plain
from consilo.machine.files import tidy
from consilo.machine.forks import spawn
from consilo.machine.logs import turn_over_own
from consilo.machine.reaper import become_subreaper, descendants
from consilo.membership.keys import load_silo_key
from consilo.printable import PrintableFormatter, printable_lines
from consilo.wire.parcel import Fault, Parcel
from silos.gate.bundles import forget_unpacked, require_approved
from silos.gate.policy import Limits, Policy
from silos.membership import enrol
from silos.membership.leaving import alone
from silos.node.lines import TICK, Event, Keeper, Line, stay_known
from silos.node.warm import Files, read_parcel
from silos.node_config import NodeConfig

if TYPE_CHECKING:
    from consilo.transports.flower.fleet import FleetLink, Request

log = logging.getLogger("consilo.node")

_PRELOAD_S = 180.0
_LOG_EVERY_S = 60.0
_WALL = ("silos.node.wall", "silos.node.worker")
ANSWERER = "silos.silo:answerer"
"""Opens the silo and answers a message behind its guard: `silos.silo.answerer`."""
_ACTIVATE_LONGEST_S = 10.0
_BACK_OFF = wait_exponential_jitter(exp_base=1.5, max=_ACTIVATE_LONGEST_S)
"""A second, half as much again each time, and up to a second by chance."""
STRUCK_OFF_EXIT = 3
"""The exit code of a node whose silo was removed: starting it again changes nothing."""

_OUTCOMES = {
    "crashed": Fault("crashed", "the silo's process ended without an answer"),
    "memory": Fault("crashed", "the silo's process was ended at its memory limit"),
    "time": Fault("crashed", "the silo's process was ended at its time limit"),
}


class Warm:
    """The warm process, as the node sees it.

    Args:
        folder: the silo's.
        config: what to load, and the limits of a message.
        alone: nothing else runs below this process, so whatever is left there is ours to end.
        answerer: ``module:function`` that opens the silo and answers.
    """

    def __init__(
        self,
        folder: Path,
        config: NodeConfig,
        *,
        alone: bool = False,
        answerer: str = ANSWERER,
    ) -> None:
        self._alone = alone
        self._answerer = answerer
        self._folder = folder
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._kept: tuple[Limits, str] = (Limits(), "required")
        self._kept_at = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until everything is imported.

        Must be called on the main thread: the kernel ties the child's life to the thread.

        Raises:
            ServiceFailed: where the preload fails.
        """
        modules = [*self._config.preload, *_WALL, self._answerer.partition(":")[0]]
        self._process, self._channel = spawn(
            "silos.node.warm",
            modules,
            {"--parent": str(os.getpid())},
            folder=self._folder,
            home=self._folder / "flwr",
            plain=True,
        )
        self._channel.settimeout(_PRELOAD_S)
        if self._hear() != "ready":
            self.stop()
            raise ServiceFailed(
                "the silo's warm process did not come up; see the lines above. "
                f"It imports {', '.join(modules)}"
            )
        self._channel.settimeout(None)

    def answer(self, parcel: Parcel, bundle: Path) -> Parcel | Fault:
        """Let a fresh child answer one parcel; a large body goes and comes in a `Spool`."""
        if self._process is None or self._process.poll() is not None:
            self.stop()
            self.start()
        assert self._channel is not None
        limits, sandbox = self._policy()
        job = {
            "silo": str(self._folder),
            "bundle": str(bundle),
            "answerer": self._answerer,
            "memory_limit_mib": limits.memory_mib,
            "wall_limit_s": limits.wall_s,
            "sandbox": sandbox,
        }
        question, reply, environment = Files.of(parcel), Files.of(), self._environment()
        try:
            try:
                descriptors = [*question.descriptors, *reply.descriptors, environment]
                socket.send_fds(self._channel, [json.dumps(job).encode()], descriptors)
                outcome = self._hear()
            except OSError:
                outcome = None
            if outcome != "done":
                return _OUTCOMES.get(outcome or "crashed", _OUTCOMES["crashed"])
            try:
                return read_parcel(reply, mapped=False)
            except ValueError:
                return _OUTCOMES["crashed"]
        finally:
            question.close()
            reply.close()
            os.close(environment)

    def _environment(self) -> int:
        """Return a file with what of our environment the guard alone gets: passwords, say."""
        withheld = {name: each for name, each in os.environ.items() if not is_plain(name)}
        file = os.memfd_create("environment")
        with os.fdopen(os.dup(file), "wb") as writer:
            writer.write(json.dumps(withheld).encode())
        return file

    def _policy(self) -> tuple[Limits, str]:
        """Return the policy's limits of a message, and its word on the sandbox.

        Read again where the file has changed.
        """
        path = self._folder / "policy.yaml"
        try:
            at = path.stat().st_mtime_ns
            if at != self._kept_at:
                policy = Policy.load(path)
                self._kept, self._kept_at = (policy.limits, policy.sandbox), at
        except (FileNotFoundError, PolicyInvalid):  # without a valid policy, the child refuses
            return Limits(), "required"
        return self._kept

    def _hear(self) -> str | None:
        assert self._channel is not None
        try:
            text = self._channel.recv(65536)
        except (TimeoutError, OSError):
            return None
        return str(json.loads(text)["outcome"]) if text else None

    def stop(self) -> None:
        """End it and every child of it."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            below = descendants(self._process.pid)
            try:
                self._process.wait(1.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
            # Orphans come to us: we are their subreaper.
            left = set(descendants(os.getpid()))
            _end(left if self._alone else left & set(below))


class Node:
    """Answers one message after the other."""

    def __init__(self, folder: Path, config: NodeConfig, answerer: str = ANSWERER) -> None:
        self._folder = folder
        self._config = config
        self._answerer = answerer
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._lines: list[Line] = []
        self._log_at = 0.0
        self._new_key_at = 0.0

    def run(self) -> None:
        """Serve until the process is asked to stop.

        Raises:
            NotAuthorised: where the coordinator has removed this silo.
        """
        if not (self._folder / "ca.crt").is_file():
            raise ConfigInvalid(
                str(self._folder / "ca.crt"),
                ["the CA certificate does not exist; 'consilo silo init INVITATION' fetches it"],
            )
        forget_unpacked(self._folder)
        tidy(self._folder)
        enrol.promote(self._folder)
        state = stay_known(self._folder, greet=True)
        keeper = Keeper(self._folder, self._config, self._events)
        with Warm(self._folder, self._config, alone=True, answerer=self._answerer) as warm:
            warm.start()
            try:
                self._go_online(state)
                keeper.start()
                while True:
                    self._handle(warm, *self._events.get())
            finally:
                keeper.stop()
                for line in self._lines:
                    line.close()

    def _handle(self, warm: Warm, line: Line | None, event: Request | Exception | str) -> None:
        from consilo.transports.flower.calls import NotAuthorised

        if isinstance(event, str):
            self._note(event)
        elif line is None or line not in self._lines:
            return  # of a connection that is closed already
        elif isinstance(event, TransportError):
            log.warning("the connection ended: %s", event)
            self._lines.remove(line)
            line.close()
            if not self._lines:
                self._go_online(stay_known(self._folder))
        elif isinstance(event, Exception):
            raise event
        else:
            try:
                self._serve(line.link, warm, event)
            except NotAuthorised:
                log.info("run %d has ended; its message is dropped", event.run_id)
            except TransportError as cause:
                log.warning("run %d: a message is lost: %s", event.run_id, cause)
            finally:
                line.done()

    def _turn_log_over(self) -> None:
        """Look once a minute whether the file that we write to has grown too large."""
        if time.monotonic() < self._log_at:
            return
        self._log_at = time.monotonic() + _LOG_EVERY_S
        try:
            turn_over_own()
        except OSError as cause:
            log.warning("the log has grown large and cannot be turned over: %s", cause)

    def _note(self, word: str) -> None:
        """Act on what the keeper says."""
        if word == TICK:
            self._turn_log_over()
        if word == enrol.CERTIFICATE and len(self._lines) == 1:
            self._lines[0].link.show(self._folder / enrol.CERTIFICATE)
            log.info("a renewed certificate is shown from now on")
        elif word == TICK and len(self._lines) == 1:
            self._try_new_key()
        elif word == enrol.AUTHORITY:
            for line in self._lines:
                line.link.trust(self._folder / enrol.AUTHORITY)
            log.info("the coordinator has announced a certificate authority; it is trusted too")
        elif word == TICK and len(self._lines) == 2:
            old, new = self._lines
            if min(old.silent_s, new.online_s) > self._config.drain_s:
                self._lines.remove(old)
                old.close()
                enrol.promote(self._folder)
                log.info("the old key is no longer served")

    def _try_new_key(self) -> None:
        """Go online with a new key too, if there is one; the old one is served meanwhile."""
        new = self._folder / enrol.NEXT_CERTIFICATE
        if not new.exists() or time.monotonic() < self._new_key_at:
            return
        try:
            line = self._connect(enrol.NEXT_KEY, enrol.NEXT_CERTIFICATE)
        except TransportError as cause:
            self._new_key_at = time.monotonic() + _ACTIVATE_LONGEST_S
            log.warning("the new key is not online yet: %s", cause)
            return
        self._lines.append(line)
        log.info("a new key is online; the old one is served until it is silent")

    def _connect(self, key: str, certificate: str) -> Line:
        """Go online with a key.

        Raises:
            TransportError: where that is not possible now.
        """
        from consilo.transports.flower.fleet import FleetLink

        link = FleetLink(
            self._config.superlink,
            self._folder / enrol.AUTHORITY,
            load_silo_key(self._folder / key),
            self._folder / certificate,
        )
        try:
            node_id = link.activate()
        except BaseException:
            link.close()
            raise
        log.info("%s is online as node %d", self._config.name, node_id)
        return Line(link, self._events)

    def _go_online(self, state: str) -> None:
        """Open a connection with the silo's key, once the coordinator lets us."""
        from consilo.transports.flower.calls import NotAuthorised

        standings = itertools.chain([state], iter(lambda: stay_known(self._folder), None))

        def is_admitted() -> bool:
            if next(standings) == "removed":
                raise NotAuthorised(
                    f"the coordinator at {self._config.superlink} has removed this silo"
                )
            return (self._folder / enrol.CERTIFICATE).exists()

        Retrying(
            retry=retry_if_result(operator.not_),
            wait=_BACK_OFF,
            before_sleep=_tell("not admitted yet; asking again in %.0f s"),
        )(is_admitted)
        enrol.promote(self._folder)
        self._lines.append(self._open())

    def _open(self) -> Line:
        """Go online; try again while the coordinator is away or believes that we still are."""
        from consilo.transports.flower.calls import NotAuthorised

        cause: BaseException | None = None
        for attempt in Retrying(
            retry=retry_if_exception_type(TransportError),
            wait=_BACK_OFF,
            before_sleep=_tell(
                "not online yet, next try in %.0f s: %s (not gone yet: another process has this "
                "silo's key, or its machine was lost less than 20 s ago)"
            ),
        ):
            if isinstance(cause, NotAuthorised) and stay_known(self._folder) == "removed":
                raise cause
            with attempt:
                return self._connect(enrol.KEY, enrol.CERTIFICATE)
            cause = attempt.retry_state.outcome and attempt.retry_state.outcome.exception()
        raise AssertionError("the tries end by an exception")

    def _serve(self, link: FleetLink, warm: Warm, request: Request) -> None:
        started = time.monotonic()
        result = self._answer(link, warm, request)
        seconds = time.monotonic() - started
        link.answer(request, result, seconds=seconds)
        verdict = f"fault {result.code}" if isinstance(result, Fault) else "answered"
        log.info("run %d: %s in %.3f s", request.run_id, verdict, seconds)

    def _answer(self, link: FleetLink, warm: Warm, request: Request) -> Parcel | Fault:
        try:
            bundle = self._bundle(link, request)
        except Refused as cause:
            log.warning("%s", cause)
            return Fault("bundle_not_approved", str(cause))
        except ConfigInvalid as cause:  # fail closed; what is wrong with the file stays here
            log.error("%s", cause)
            return Fault("bundle_not_approved", "the silo's list of approved bundles is invalid")
        parcel = link.fetch(request)
        if isinstance(parcel, Fault):
            return parcel
        return warm.answer(parcel, bundle)

    def _bundle(self, link: FleetLink, request: Request) -> Path:
        """Return the packed code of the run, if the operator has approved its hash."""
        return require_approved(self._folder, request.bundle_hash, lambda: link.bundle(request))


def _tell(text: str) -> Callable[[RetryCallState], None]:
    """Return what logs a pause, and the trouble before it if there was any."""

    def tell(state: RetryCallState) -> None:
        trouble = state.outcome and state.outcome.exception()
        log.warning(text, state.upcoming_sleep, *([trouble] if trouble else []))

    return tell


def run_node(folder: Path, *, answerer: str = ANSWERER) -> int:
    """Run the node of the silo in ``folder`` until SIGTERM or Ctrl-C; return the exit code.

    Args:
        folder: the silo's.
        answerer: what answers in place of the silo's own guard, to try a federation with a silo
            that does not keep to the rules; no file says so, and the log does.

    Raises:
        ConsiloError: where it cannot run.
    """
    folder = folder.resolve()
    config = NodeConfig.load(folder)
    if answerer != ANSWERER:
        log.warning(
            "started with --answerer %s, which answers in place of this silo's guard: NOTHING THAT "
            "ITS POLICY SAYS HOLDS. Only trials and rehearsals are started so",
            answerer,
        )
    os.environ.update(QUIET)
    os.environ["FLWR_HOME"] = str(folder / "flwr")
    become_subreaper()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop)
    try:
        with alone(folder):
            Node(folder, config, answerer).run()
    except TransportError as cause:
        log.error("%s", cause)
        return STRUCK_OFF_EXIT
    return 0


def _end(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _stop(number: int, frame: FrameType | None) -> None:
    for other in (signal.SIGTERM, signal.SIGINT):
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(0)


def main(arguments: list[str] | None = None) -> int:
    """Run the node from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -I -m silos.node", description="Run the node of one silo."
    )
    parser.add_argument("--dir", type=Path, required=True, help="the silo's folder")
    parser.add_argument(
        "--answerer",
        default=ANSWERER,
        metavar="MODULE:FUNCTION",
        help="for trials only: what answers in place of the silo's guard",
    )
    options = parser.parse_args(arguments)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        return run_node(options.dir, answerer=options.answerer)
    except ConsiloError as cause:
        sys.stderr.write(f"{printable_lines(str(cause))}\n")
        return 1
