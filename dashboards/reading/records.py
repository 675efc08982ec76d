"""All runs of a coordinator's directory, each read again only when its record has changed."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consilo.errors import ConfigInvalid, RecordTampered
from consilo.machine.leases import is_held
from consilo.membership.keys import public_key_hex
from consilo.record.run_record import verify
from dashboards.reading.story import Brief, Story, brief_of, read_story
from flows.services.owning import OWNER
from flows.telling.live import FILE as LIVE

Mark = tuple[int, int, int, int]
"""Of a file: inode, size, time of the last change of its content, and of anything about it."""
_MOST_STORIES = 16
_KEYS = ("record.key.pub", "record.old.key.pub", "record.next.key.pub")


@dataclass(frozen=True)
class Checked:
    """What the verifier said of a record.

    Args:
        is_whole: whether every line fits and the signature is the coordinator's.
        words: what was found, for people.
    """

    is_whole: bool
    words: str


class Records:
    """The runs below a coordinator's directory; usable from several threads.

    Args:
        home: the coordinator's directory.
    """

    def __init__(self, home: Path) -> None:
        self._runs = home / "runs"
        self._keys = home / "keys"
        self._lock = threading.RLock()
        self._briefs: dict[str, tuple[Mark, Brief]] = {}
        self._stories: OrderedDict[str, tuple[Mark, Story]] = OrderedDict()
        self._checked: dict[str, tuple[Mark, Checked]] = {}

    def briefs(self) -> list[Brief]:
        """Return every run in short, the one that began last first."""
        found: dict[str, tuple[Mark, Brief]] = {}
        with self._lock:
            for record in self._runs.glob("*/record.jsonl"):
                try:
                    mark = mark_of(record)
                    known = self._briefs.get(record.parent.name)
                    if known is None or known[0] != mark:
                        known = (mark, brief_of(self._story(record, mark)))
                except FileNotFoundError:  # taken away since it was listed
                    continue
                found[record.parent.name] = known
            self._briefs = found
        return sorted((each for _, each in found.values()), key=_newest, reverse=True)

    def brief(self, name: str) -> Brief | None:
        """Return one run in short; None where there is none of this name."""
        return next((each for each in self.briefs() if each.name == name), None)

    def story(self, name: str) -> Story | None:
        """Return one run whole; None where there is none of this name."""
        record = self._record(name)
        if record is None:
            return None
        try:
            with self._lock:
                return self._story(record, mark_of(record))
        except FileNotFoundError:
            return None

    def is_owned(self, name: str) -> bool:
        """Return whether a process goes on with a run at this moment."""
        record = self._record(name)
        return record is not None and is_held(record.with_name(OWNER))

    def live(self, name: str) -> dict[str, Any]:
        """Return what a run is at in this moment, as it says; nothing where it does not say."""
        record = self._record(name)
        if record is None:
            return {}
        try:
            told = json.loads(record.with_name(LIVE).read_bytes())
        except (OSError, ValueError):
            return {}
        return told if isinstance(told, dict) and isinstance(told.get("silos"), dict) else {}

    def checked(self, name: str) -> Checked | None:
        """Return what the verifier says of a record, asked now unless the file is as it was.

        None where there is no record of this name, or it is not closed yet.
        """
        record, story = self._record(name), self.story(name)
        if record is None or story is None or not story.is_over:
            return None
        mark = mark_of(record)
        known = self._checked.get(name)
        if known is None or known[0] != mark:
            known = (mark, self._verify(record))
            self._checked[name] = known
        return known[1]

    def known_check(self, name: str) -> Checked | None:
        """Return what the verifier has said of a record as it is now; None where it was not asked.

        For lists, which do not wait for it.
        """
        record, known = self._record(name), self._checked.get(name)
        if record is None or known is None or known[0] != mark_of(record):
            return None
        return known[1]

    def _verify(self, record: Path) -> Checked:
        try:
            closing = verify(record)
        except RecordTampered as cause:
            return Checked(False, str(cause))
        except OSError as cause:
            return Checked(False, f"cannot be read: {type(cause).__name__}")
        own = str(closing["public_key"])
        if own not in self._own_keys():
            return Checked(False, f"signed by {own[:12]}…, which is no key of this coordinator")
        return Checked(True, f"{closing['entries']} lines, signed by {own[:12]}…")

    def _own_keys(self) -> Sequence[str]:
        found = []
        for name in _KEYS:
            try:
                found.append(public_key_hex(self._keys / name))
            except (FileNotFoundError, ConfigInvalid, ValueError):
                continue
        return found

    def _record(self, name: str) -> Path | None:
        """Return the record of a run; a name that is none, such as a way out of it, has none."""
        if not name or Path(name).name != name or name.startswith("."):
            return None
        record = self._runs / name / "record.jsonl"
        return record if record.is_file() else None

    def _story(self, record: Path, mark: Mark) -> Story:
        name = record.parent.name
        known = self._stories.get(name)
        if known is None or known[0] != mark:
            known = (mark, read_story(record))
            self._stories[name] = known
        self._stories.move_to_end(name)
        while len(self._stories) > _MOST_STORIES:
            self._stories.popitem(last=False)
        return known[1]


def mark_of(path: Path) -> Mark:
    """Return what tells a file from what it was."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _newest(brief: Brief) -> tuple[str, str]:
    return brief.began, brief.name
