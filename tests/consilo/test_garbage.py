"""A program of ours looks for garbage seldom; a library of ours leaves that to its program."""

import subprocess
import sys

PROGRAM = """
import gc, sys
usual = gc.get_threshold()
from consilo.cli import main
import consilo, silos
assert gc.get_threshold() == usual
sys.argv = ["consilo", "--help"]
try:
    main()
except SystemExit:
    pass
assert gc.get_threshold()[0] > 10 * usual[0]
"""


def test_only_a_command_changes_how_often_garbage_is_looked_for():
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60, capture_output=True)
