"""What a node's main thread hears: requests from its connections, and news of its membership.

A *line* is one connection to the SuperLink, with one key, and the thread that receives there. A
node has one; two while a new key replaces the old one. The *keeper* is a thread that keeps the silo
known: it fetches the list of members, renews the certificate in time and sees new files. Both only
put events into a queue; the main thread alone serves, one request after the other.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Union

from consilo.errors import ConfigInvalid, Refused, TransportError
from silos.membership import enrol
from silos.node_config import NodeConfig

if TYPE_CHECKING:
    from consilo.transports.flower.fleet import FleetLink, Request

log = logging.getLogger("consilo.node")

TICK = "tick"
_LOOK_S = 1.0
_RENEW_BELOW = 1 / 3
"""A certificate is renewed once less than this part of its life is left."""

Event = tuple[Union["Line", None], Union["Request", Exception, str]]
"""Whose, and what: a request or an error of a line; a word of the keeper, who has no line."""


class Line:
    """A connection that is online, and the thread that receives there.

    Args:
        link: the connection.
        events: gets each request, and the error that ends the connection.
    """

    def __init__(self, link: FleetLink, events: queue.SimpleQueue[Event]) -> None:
        self.link = link
        self._since = self._served = time.monotonic()
        self._events = events
        self._free = threading.Semaphore(0)
        self._closed = False
        threading.Thread(target=self._receive, name="receive", daemon=True).start()

    @property
    def online_s(self) -> float:
        """How long it has been online."""
        return time.monotonic() - self._since

    @property
    def silent_s(self) -> float:
        """How long ago it went online, or dealt with its last request."""
        return time.monotonic() - self._served

    def done(self) -> None:
        """Say that the last request has been dealt with: the next one may come."""
        self._served = time.monotonic()
        self._free.release()

    def close(self) -> None:
        """Go offline."""
        self._closed = True
        self._free.release()
        self.link.close()

    def _receive(self) -> None:
        while not self._closed:
            try:
                request = self.link.receive()
            except Exception as cause:  # the main thread decides what becomes of it
                if not self._closed:
                    self._events.put((self, cause))
                return
            if request is not None and not self._closed:
                self._events.put((self, request))
                self._free.acquire()


class Keeper:
    """Looks at the silo's directory every second and asks the coordinator now and then.

    Args:
        folder: the silo's.
        config: how often to ask.
        events: gets the name of a certificate's file that holds something else now, and `TICK`
            every second.
    """

    def __init__(self, folder: Path, config: NodeConfig, events: queue.SimpleQueue[Event]) -> None:
        self._folder = folder
        self._config = config
        self._events = events
        self._stopped = threading.Event()
        self._contents = self._now()
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End soon."""
        self._stopped.set()

    def _keep(self) -> None:
        asked = time.monotonic()
        while not self._stopped.wait(_LOOK_S):
            before, self._contents = self._contents, self._now()
            for name, content in self._contents.items():
                if content and content != before[name]:
                    self._events.put((None, name))
            self._events.put((None, TICK))
            if time.monotonic() - asked > self._config.refresh_s:
                stay_known(self._folder)
                asked = time.monotonic()

    def _now(self) -> dict[str, bytes]:
        """Return what the files hold; written again with the same content, they are no news."""
        found = {}
        for name in (enrol.CERTIFICATE, enrol.AUTHORITY):
            try:
                found[name] = (self._folder / name).read_bytes()
            except FileNotFoundError:
                found[name] = b""
        return found


def stay_known(folder: Path, *, greet: bool = False) -> str:
    """Take in the list of members, and renew a certificate that nears its end.

    Args:
        folder: the silo's.
        greet: state our software too.

    Returns:
        The state that the coordinator states; ``removed``; empty where it cannot be asked now.
    """
    try:
        standing = enrol.hello(folder) if greet else enrol.refresh(folder)
        if standing.state == "admitted" and enrol.life_left(folder) < _RENEW_BELOW:
            standing = enrol.renew(folder)
            log.info("the certificate was renewed; it ends on %s", standing.valid_until)
    except Refused as cause:
        log.warning("%s", cause)
        return "removed" if cause.code == "removed" else ""
    except (TransportError, ConfigInvalid) as cause:
        log.warning("the coordinator cannot be asked about membership: %s", cause)
        return ""
    for each in standing.news:
        log.warning("%s", each)
    return standing.state
