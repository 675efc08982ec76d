"""Code of an approved bundle could read the silo's keys, reach out, and rewrite the policy.

Now it runs locked in, in a process that was forked before anything of the silo was opened; the
hostile model below tries all that while it is trained, and what became of it leaves as its metrics.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import clinic
import numpy as np
import pytest
import warm_silo

from consilo.kernel.verbs import Disclosure
from consilo.metrics import metrics_of, tally
from consilo.transports.flower.bundle import build_bundle
from silos.gate.policy import TEMPLATE

HOSTILE = """
import ctypes
import gc
import os
import socket
import subprocess
import sys
import threading

import torch
from torch import nn

SILO = {silo!r}
ONLY = {only!r}
TRIES = {{}}


def attempt(name):
    def note(function):
        if not ONLY or name in ONLY:
            TRIES[name] = function
        return function

    return note


for _name in ("silo.key", "signing.key", "rows.csv", "policy.yaml", "audit.jsonl", "silo.yaml"):
    attempt("read " + _name)(lambda _name=_name: open(os.path.join(SILO, _name), "rb").read())
attempt("list silo")(lambda: os.listdir(SILO))
attempt("list secrets")(lambda: os.listdir(os.path.join(SILO, "secrets")))
attempt("write policy")(lambda: open(os.path.join(SILO, "policy.yaml"), "a").write("# mine"))
attempt("write beside")(lambda: open({beside!r}, "w").write("mine"))
attempt("delete")(lambda: os.unlink(os.path.join(SILO, "policy.yaml")))
attempt("rename")(lambda: os.rename(os.path.join(SILO, "silo.key"), {beside!r}))
attempt("chmod")(lambda: os.chmod(os.path.join(SILO, "silo.key"), 0o666))
attempt("link")(lambda: os.symlink("/etc/passwd", {beside!r}))
attempt("passwd")(lambda: open("/etc/passwd").read())
attempt("password")(lambda: os.environ["CLINIC_DB_PASSWORD"])
attempt("own environment")(lambda: open("/proc/self/environ").read())
attempt("parent environment")(lambda: open(f"/proc/{{os.getppid()}}/environ").read())
attempt("parent memory")(lambda: open(f"/proc/{{os.getppid()}}/mem", "rb").read(1))
attempt("parent descriptors")(lambda: os.listdir(f"/proc/{{os.getppid()}}/fd"))
attempt("tcp")(lambda: socket.socket())
attempt("udp")(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
attempt("unix")(lambda: socket.socketpair())
attempt("exec")(lambda: os.execv("/bin/true", ["true"]))
attempt("subprocess")(lambda: subprocess.run(["/bin/true"], check=True))
attempt("fork")(lambda: os.fork() or os._exit(0))
attempt("kill")(lambda: os.kill(os.getppid(), 0))
attempt("kill group")(lambda: os.killpg(0, 0))


def _call(*arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "failed")


attempt("ptrace")(lambda: _call(101, 16, os.getppid(), 0, 0))
attempt("process_vm_readv")(lambda: _call(310, os.getppid(), 0, 0, 0, 0, 0))
attempt("io_uring")(lambda: _call(425, 8, ctypes.create_string_buffer(120)))
attempt("bpf")(lambda: _call(321, 0, ctypes.create_string_buffer(120), 120))
attempt("unshare")(lambda: _call(272, 0x10000000))
attempt("keyctl")(lambda: _call(250, 0, -3, 1))
attempt("add_key")(lambda: _call(248, b"user", b"x", b"y", 1, -3))
attempt("clone3")(lambda: _call(435, ctypes.create_string_buffer(88), 88))
attempt("pidfd_open")(lambda: _call(434, os.getppid(), 0))
attempt("pidfd_getfd")(lambda: _call(438, 3, 0, 0))
attempt("dumpable")(lambda: _call(157, 4, 1, 0, 0, 0))
attempt("limits of others")(lambda: _call(302, os.getppid(), 7, None, bytes(16)))
attempt("userfaultfd")(lambda: _call(323, 0))
attempt("mount")(lambda: _call(165, 0, 0, 0, 0, 0))
attempt("raise limits")(lambda: __import__("resource").setrlimit(4, (1 << 20, 1 << 20)))


def results():
    found = {{}}
    for name, function in TRIES.items():
        try:
            function()
            found[name] = 1.0
        except BaseException:
            found[name] = 0.0
    found["descriptors"] = float(sum(_is_open(n) for n in range(3, 1024)))
    found["threads work"] = float(_threads())
    kinds = {{type(each).__name__ for each in gc.get_objects()}}
    found["silos in gc"] = float(bool(kinds & {{"Silo", "Guard", "Identity", "Ledger"}}))
    return found


def _is_open(number):
    try:
        os.fstat(number)
        return True
    except OSError:
        return False


def _threads():
    seen = []
    thread = threading.Thread(target=lambda: seen.append(1))
    thread.start()
    thread.join()
    return len(seen)


class Net(nn.Module):
    def __init__(self, num_inputs, num_outputs):
        super().__init__()
        self.layer = nn.Linear(num_inputs, num_outputs)

    def forward(self, features):
        return self.layer(features)

    def metrics(self, outputs, targets):
        return results()
"""
CLASSES = (Disclosure.METRIC, Disclosure.STATISTIC, Disclosure.UPDATE)


COUNTED = {"descriptors": 1.0, "threads work": 1.0, "silos in gc": 0.0}
JOB = clinic.job(model="hostile:Net")


def tried(folder: Path, policy: str, *only: str) -> dict[str, float]:
    """What a hostile model reports of its tries, made while it was trained in a silo's node."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLINIC_DB_PASSWORD", "hunter2")
        silo = warm_silo.make(folder / "north", policy=policy)
        text = HOSTILE.format(silo=str(silo), beside=str(folder / "MINE"), only=only)
        bundle = warm_silo.approved(
            silo, build_bundle({"hostile.py": text.encode()}, disclosures=CLASSES)
        )
        with warm_silo.warm(silo) as process:
            process.start()
            reply, fields = warm_silo.ask(process, bundle, JOB, payload=payload())
    assert reply.status == "ok", reply.reason
    return dict(fields["metrics"])


def payload():
    sizes = warm_silo.parameters()["linear.weight"].shape
    zero = {"layer.weight": np.zeros(sizes, "f4"), "layer.bias": np.zeros(sizes[0], "f4")}
    return {"params": zero, "scale": None}


def test_a_hostile_model_gets_nothing_by_any_way(tmp_path: Path) -> None:
    """It has one descriptor, the way to the guard, and no object of the silo is in its memory."""
    found = tried(tmp_path, TEMPLATE)
    assert {name: found.pop(name) for name in COUNTED} == COUNTED
    honest = set(metrics_of(tally("binary", np.array([1.0, -1.0]), np.array([1, 0]))))
    assert len(found.keys() - honest) > 40
    assert {name for name, value in found.items() if value} <= honest
    silo = tmp_path / "north"
    assert (silo / "policy.yaml").read_text() == TEMPLATE
    assert (silo / "silo.key").read_text() == warm_silo.NODE_KEY
    assert not (tmp_path / "MINE").exists()


def test_the_same_model_gets_at_it_where_the_operator_has_no_wall(tmp_path: Path) -> None:
    """What the tries are worth: without the sandbox they succeed."""
    wanted = ("read silo.key", "password", "write policy", "tcp", "fork", "list silo", "chmod")
    found = tried(tmp_path, TEMPLATE.replace("sandbox: required", "sandbox: off"), *wanted)
    assert {name: found[name] for name in wanted} == dict.fromkeys(wanted, 1.0)
    assert "# mine" in (tmp_path / "north" / "policy.yaml").read_text()


def test_where_no_process_can_be_locked_in_no_code_of_a_bundle_runs(tmp_path: Path) -> None:
    """A silo's directory among what the code may read is such a place, too."""
    with tempfile.TemporaryDirectory(dir=sys.prefix, prefix="silo-") as place:
        silo = warm_silo.make(Path(place) / "north")
        ran = tmp_path / "RAN"
        text = f"open({str(ran)!r}, 'w')\nfrom torch import nn\nclass Net(nn.Linear): pass\n"
        bundle = warm_silo.approved(
            silo, build_bundle({"hostile.py": text.encode()}, disclosures=CLASSES)
        )
        plain = warm_silo.approved(silo, build_bundle())
        with warm_silo.warm(silo) as process:
            process.start()
            reply, _ = warm_silo.ask(process, bundle, JOB, payload=payload())
            honest, _ = warm_silo.ask(process, plain, clinic.job(), run="other")
    assert (reply.status, reply.code) == ("fault", "refused")
    assert "locked in" in reply.reason
    assert not ran.exists()
    assert honest.status == "ok"
