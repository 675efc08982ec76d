import subprocess
import sys

import pytest

from silos.rows.memory import LIMIT_MIB, available_bytes

PROGRAM = """
import resource, psutil
from silos.rows.memory import available_bytes
free = available_bytes()
assert 0 < free <= psutil.virtual_memory().total
resource.setrlimit(resource.RLIMIT_{limit}, (3 << 30, 3 << 30))
left = available_bytes()
assert left < 3 << 30, left
taken = bytearray(200 << 20)
assert available_bytes() <= left - (150 << 20)
"""


def test_what_the_node_allows_a_message_is_not_exceeded(monkeypatch):
    monkeypatch.setenv(LIMIT_MIB, "7")
    assert available_bytes() == 7 << 20
    monkeypatch.delenv(LIMIT_MIB)
    assert available_bytes() > 7 << 20


@pytest.mark.parametrize("limit", ["DATA", "AS"])
def test_the_limits_of_the_process_count(limit):
    program = PROGRAM.format(limit=limit)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
