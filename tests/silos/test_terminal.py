"""The questions that a person is asked on a terminal, answered on a real one."""

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import clinic
import pytest

CONSILO = Path(sys.executable).parent / "consilo"


class Terminal:
    """A command on a terminal of its own, and all that it showed."""

    def __init__(self, arguments, folder):
        self._ours, theirs = pty.openpty()
        self.shown = ""
        self.process = subprocess.Popen(
            [str(CONSILO), *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=folder,
            env={**os.environ, "TERM": "dumb", "COLUMNS": "120"},
            start_new_session=True,
        )
        os.close(theirs)

    def answer(self, question, text):
        self.read(until=question)
        os.write(self._ours, f"{text}\n".encode())

    def read(self, until=None, seconds=60):
        start, deadline = len(self.shown), time.monotonic() + seconds
        while time.monotonic() < deadline:
            if until is not None and until in self.shown[start:]:
                return
            if select.select([self._ours], [], [], 0.2)[0]:
                try:
                    more = os.read(self._ours, 65536)
                except OSError:  # the other end is closed
                    more = b""
                if not more:
                    break
                self.shown += more.decode()
        if until is not None:
            raise AssertionError(f"'{until}' was not asked:\n{self.shown}")

    def end(self):
        self.read()
        os.close(self._ours)
        return self.process.wait(30)


@pytest.fixture
def silo(tmp_path):
    (tmp_path / "silo.yaml").write_text("name: north\ndata: {old: {type: csv, path: rows.csv}}\n")
    (tmp_path / "clinic.yaml").write_text(clinic.CONTRACT)
    clinic.frame(40).to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path


def test_data_add_asks_for_what_it_needs_and_confirms(silo):
    terminal = Terminal(["silo", "data", "add"], silo)
    terminal.answer("What is the data set called", "patients")
    terminal.answer("Where are the rows", "csv")
    terminal.answer("File or folder", "rows.csv")
    terminal.answer("Propose a mapping to which contract", "clinic@1")
    terminal.answer("Have you read", "y")
    assert terminal.end() == 0
    assert "confirmed" in terminal.shown
    assert "patients" in (silo / "silo.yaml").read_text()
    checked = Terminal(["silo", "check", "clinic@1"], silo)
    assert checked.end() == 0, checked.shown


def test_what_is_not_confirmed_is_not_used(silo):
    given = ["silo", "data", "add", "patients", "--csv", "rows.csv", "--contract", "clinic@1"]
    terminal = Terminal(given, silo)
    terminal.answer("Have you read", "")
    assert terminal.end() == 0
    assert "confirmed" not in terminal.shown.split("Have you read")[1]
    checked = Terminal(["silo", "check", "clinic@1"], silo)
    assert checked.end() == 1, checked.shown
    assert "confirm" in checked.shown
