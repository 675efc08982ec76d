"""What people are told, once an event: written down first, sent then, again until it has arrived.

``HOME/notices/KEY.json`` is one event; its name follows from the event, so that whoever finds the
same again writes nothing. Prefect's automations cannot do this (3.7.7): they know flow runs, and no
keys that expire, aliases that moved or runs that nobody owns; they tell nothing while Prefect is
away, and do not try again what did not arrive; and passwords would lie in Prefect's database,
beside the key that they are encrypted with. So the process of ``consilo up`` sends, every quarter
of a minute, to the mail server and the address that `consilo.membership.notify` names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from consilo.errors import ConfigInvalid
from consilo.machine.files import make_directory, remove, write_atomic
from consilo.membership.notify import Email, Notify, Webhook
from flows.watching.notice import Notice
from flows.watching.ways import NotArrived, send

FOLDER = "notices"
_SINCE = "since"
_KEPT = timedelta(days=30)
_FIRST_S, _MOST_S = 30.0, 3600.0


class Outbox:
    """The notices of a coordinator's directory.

    Args:
        home: the directory.
        now: with a time zone.
        way: sends one notice by one way; raises `NotArrived`.
    """

    def __init__(
        self,
        home: Path,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        way: Callable[[Email | Webhook, Path, Notice], None] = send,
    ) -> None:
        self._home = home
        self._folder = home / FOLDER
        self._now = now
        self._way = way

    def take(self, notices: Iterable[Notice]) -> int:
        """Write down what is new, durably; return how much that is.

        What happened before the directory was first looked at, or more than 30 days ago, is not.
        """
        if not self._folder.is_dir():
            make_directory(self._folder, mode=0o700)
        mark = self._folder / _SINCE
        if not mark.exists():
            write_atomic(mark, self._now().isoformat().encode(), mode=0o600)
        since = max(datetime.fromisoformat(mark.read_text()), self._now() - _KEPT)
        new = 0
        for each in notices:
            path = self._folder / f"{each.digest}.json"
            if path.exists() or datetime.fromisoformat(each.at) < since:
                continue
            self._write(path, {**asdict(each), "sent": {}, "tries": 0, "next": ""})
            new += 1
        return new

    def deliver(self, notify: Notify) -> list[str]:
        """Send what has not arrived by each way; return what went wrong, without any secret.

        A message that arrived before it could be noted is sent again, under the same id.
        """
        wrong: list[str] = []
        for path in sorted(self._folder.glob("*.json")):
            value = json.loads(path.read_text(encoding="utf-8"))
            if self._lapses(path, value) or value["kind"] not in notify.kinds:
                continue
            left = [name for name in notify.ways if name not in value["sent"]]
            if not left or (value["next"] and self._at(value["next"]) > self._now()):
                continue
            fields = {key: value[key] for key in Notice.__dataclass_fields__}
            for name in left:
                try:
                    self._way(notify.ways[name], self._home, Notice(**fields))
                except (NotArrived, ConfigInvalid) as cause:
                    wrong.append(f"a notice did not arrive by {name}: {cause}")
                else:
                    value["sent"][name] = self._now().isoformat()
                    self._write(path, value)
            if len(value["sent"]) < len(notify.ways):
                value["tries"] += 1
                wait = min(_FIRST_S * 2.0 ** min(value["tries"], 10), _MOST_S)
                value["next"] = (self._now() + timedelta(seconds=wait)).isoformat()
                self._write(path, value)
        return wrong

    def _lapses(self, path: Path, value: Mapping[str, Any]) -> bool:
        """Forget what `take` would not take any more; whether or not it has arrived."""
        if self._at(value["at"]) >= self._now() - _KEPT:
            return False
        remove(path)
        return True

    @staticmethod
    def _at(told: str) -> datetime:
        return datetime.fromisoformat(told)

    @staticmethod
    def _write(path: Path, value: Mapping[str, Any]) -> None:
        write_atomic(path, json.dumps(value, indent=1).encode(), mode=0o600)
