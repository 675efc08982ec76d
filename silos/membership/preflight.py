"""Is a silo ready to join? Each point is looked at by itself; what fails says what to do.

Nothing of the rows is shown or sent: the coordinator gets one unsigned question that anybody may
ask, for its CA certificate.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from consilo.errors import ConsiloError, InvalidInput, PolicyInvalid, Refused
from consilo.machine import sandbox
from silos.gate.guard import SKEW_S, CoordinatorConfig
from silos.kept.sketches import STATE, Sketches, state_folder

if TYPE_CHECKING:
    from consilo.contracts.contract import Contract

Verdict = Literal["ok", "warning", "failed"]

_SECRETS = ("*.key", "*.key.next", "state.db*", "ledger.db*", "votes.db*", "audit.jsonl",
            "secrets/**/*", "replies/**/*", "cache/**/*", "mappings/*", "mapping.yaml")  # fmt: skip
_CONNECT_S = 10.0
_DISK_BYTES = 2 << 30
_NODE_BYTES = 1 << 30
"""What a node with its imports holds; a message comes on top."""
_SOON_DAYS = 14


@dataclass(frozen=True)
class Point:
    """One thing that was looked at.

    Args:
        name: short, stable.
        verdict: ``failed`` keeps the silo from joining, ``warning`` does not.
        found: what was found, in words that may be shown to anybody.
        to_do: what to do; empty where nothing is.
    """

    name: str
    verdict: Verdict
    found: str
    to_do: str = ""


def preflight(
    directory: Path, *, now: datetime, uid: int, purpose: str = "", job: Path | None = None
) -> list[Point]:
    """Look at everything that joining needs; return all points, whatever fails.

    Args:
        directory: the silo's.
        now: the present time of this machine.
        uid: who will run the node.
        purpose: whose rows the contracts are checked on, where consents are kept.
        job: a vertical job's file; of its contract, only what the silo holds in it is checked.
    """
    looks: list[Callable[[], Iterator[Point]]] = [
        lambda: _user(directory, uid),
        lambda: _permissions(directory, uid),
        lambda: _write_access(directory),
        _versions,
        lambda: _sandbox(directory),
        lambda: _disk(directory),
        lambda: _memory(directory),
        lambda: _policy(directory, now),
        lambda: _membership(directory, now),
        lambda: _coordinator(directory, now),
        lambda: _data(directory, purpose, job),
    ]
    points: list[Point] = []
    for look in looks:
        points += look()
    return points


def _user(directory: Path, uid: int) -> Iterator[Point]:
    if uid == 0:
        hint = "run the node as an ordinary user; infra/systemd has a unit that does"
        yield Point("user", "failed", "this is root", hint)
    elif directory.stat().st_uid != uid:
        hint = f"give it to the node's user: chown -R {uid} {directory}"
        yield Point("user", "failed", "the directory belongs to another user", hint)
    else:
        yield Point("user", "ok", "an ordinary user, who owns the directory")


def _permissions(directory: Path, uid: int) -> Iterator[Point]:
    secrets = {path for pattern in _SECRETS for path in directory.glob(pattern)}
    opened = sorted(
        str(path.relative_to(directory))
        for path in secrets
        if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o077
    )
    if stat.S_IMODE(directory.stat().st_mode) & 0o077:
        hint = f"chmod 700 {directory}"
        yield Point("directory", "failed", "others may look into the silo's directory", hint)
    else:
        yield Point("directory", "ok", "for its owner only")
    if opened:
        shown = ", ".join(opened[:5])
        hint = f"chmod go= {' '.join(opened[:5])}, then ask who has read them"
        yield Point("secrets", "failed", f"others may read {shown}", hint)
    else:
        yield Point("secrets", "ok", f"{len(secrets)} files and folders, for their owner only")


def _write_access(directory: Path) -> Iterator[Point]:
    try:
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".preflight-") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as cause:
        reason = os.strerror(cause.errno or 0).lower()
        hint = f"make {directory} writable for the node's user"
        yield Point("write", "failed", f"the directory cannot be written to: {reason}", hint)
    else:
        yield Point("write", "ok", "the directory can be written to")
    try:
        with Sketches(state_folder()).alone():
            pass
    except Refused:
        hint = f"set {STATE} to a folder of the node's user; private runs are refused without one"
        yield Point("state", "warning", "what silos of this user share cannot be written to", hint)


def _sandbox(directory: Path) -> Iterator[Point]:
    """Say whether code of a bundle can be locked in here, and whether the policy wants that."""
    from silos.gate.policy import Policy

    why = sandbox.fault(hidden=directory)
    hint = (
        "give the node a kernel with Landlock (Linux 5.13 or later, landlock in /sys/kernel/"
        "security/lsm), a service or container that lets it use Landlock and seccomp, and a "
        "directory outside of where Python is installed"
    )
    try:
        is_off = Policy.load(directory / "policy.yaml").sandbox == "off"
    except PolicyInvalid:
        is_off = False  # what is wrong with the policy is a point of its own
    if is_off:
        off = "code of a bundle would run with all that the node's user may do (sandbox: off)"
        yield Point("sandbox", "warning", off, "say 'sandbox: required' in policy.yaml")
    elif why:
        said = f"code of a bundle cannot be locked in, so none runs: {why}"
        yield Point("sandbox", "warning", said, hint)
    else:
        yield Point("sandbox", "ok", "code of a bundle runs locked in, by Landlock and seccomp")


def _versions() -> Iterator[Point]:
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    wrong = []
    for line in requires("consilo") or []:
        wanted = Requirement(line)
        if wanted.name == "consilo" or (
            wanted.marker is not None and not wanted.marker.evaluate({"extra": "silo"})
        ):
            continue
        try:
            installed = version(wanted.name)
        except PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
            continue
        if not wanted.specifier.contains(installed, prereleases=True):
            wrong.append(f"{wanted.name} is {installed}, not {wanted.specifier}")
    mine = f"consilo {version('consilo')}, Python {sys.version_info.major}.{sys.version_info.minor}"
    if wrong:
        hint = "pip install 'consilo[silo]' into this environment again"
        yield Point("versions", "failed", f"{mine}; {', '.join(wrong)}", hint)
    else:
        yield Point("versions", "ok", mine)


def _disk(directory: Path) -> Iterator[Point]:
    free = shutil.disk_usage(directory).free
    state = f"{free / 2**30:.1f} GiB free"
    if free < _DISK_BYTES:
        hint = f"free some: cache and models want {_DISK_BYTES >> 30} GiB or more"
        yield Point("disk", "failed", state, hint)
    else:
        yield Point("disk", "ok", state)


def _memory(directory: Path) -> Iterator[Point]:
    from silos.gate.policy import Policy
    from silos.rows.memory import available_bytes

    limit = 0
    with contextlib.suppress(ConsiloError):
        limit = Policy.load(directory / "policy.yaml").limits.memory_mib << 20
    free = available_bytes()
    state = f"{free / 2**30:.1f} GiB free"
    if free < _NODE_BYTES:
        yield Point("memory", "failed", state, "a node alone wants 1 GiB; free some")
    elif free < _NODE_BYTES + limit:
        hint = "lower limits.memory_mib in policy.yaml, or free some"
        state += f"; a message may take {limit / 2**30:.1f} GiB besides the node's own"
        yield Point("memory", "warning", state, hint)
    else:
        yield Point("memory", "ok", state)


def _policy(directory: Path, now: datetime) -> Iterator[Point]:
    from silos.gate.policy import Policy

    path = directory / "policy.yaml"
    if not path.exists():
        hint = f"consilo silo policy --job FILE --dir {directory} writes what a job needs"
        yield Point("policy", "failed", "there is none: everything is refused", hint)
        return
    try:
        policy = Policy.load(path)
    except ConsiloError as cause:
        yield Point("policy", "failed", _first_line(cause), "mend policy.yaml")
        return
    today = now.astimezone(UTC).date()
    if policy.expires is not None and policy.expires < today:
        hint = "read it again, then set a later date under expires"
        yield Point("policy", "failed", f"it expired on {policy.expires}", hint)
    elif policy.expires is not None and (policy.expires - today).days <= _SOON_DAYS:
        yield Point("policy", "warning", f"it expires on {policy.expires}", "read it again in time")
    elif not policy.allow:
        yield Point("policy", "failed", "it allows no job", "list under 'allow' what may run")
    else:
        yield Point("policy", "ok", "in force")


def _membership(directory: Path, now: datetime) -> Iterator[Point]:
    from cryptography import x509

    path = directory / "membership.crt"
    if not path.exists():
        hint = "once the coordinator's operator has admitted you, run consilo silo init again"
        verdict: Verdict = "failed"
        state = "no certificate yet"
        if not (directory / "coordinator.yaml").exists():
            hint = "consilo silo init INVITATION"
            state = "this silo has joined no federation"
        yield Point("membership", verdict, state, hint)
        return
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    ends = certificate.not_valid_after_utc
    days = (ends - now).total_seconds() / 86400
    hint = f"consilo silo renew --dir {directory}"
    if days <= 0:
        yield Point("membership", "failed", f"the certificate ended on {ends.date()}", hint)
    elif days <= _SOON_DAYS:
        yield Point("membership", "warning", f"the certificate ends on {ends.date()}", hint)
    else:
        yield Point("membership", "ok", f"certificate until {ends.date()}")


def _coordinator(directory: Path, now: datetime) -> Iterator[Point]:
    address = ""
    with contextlib.suppress(ConsiloError):
        address = CoordinatorConfig.load(directory).address
    if not address:
        hint = "consilo silo init INVITATION"
        yield Point("reachable", "failed", "no coordinator is pinned", hint)
        return
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S):
            pass
    except (OSError, ValueError) as cause:
        hint = "is the coordinator up? do firewall and proxy let this machine out to it?"
        reason = f"no connection to {address}: {type(cause).__name__}"
        yield Point("reachable", "failed", reason, hint)
        return
    yield Point("reachable", "ok", f"{address} takes connections")
    try:
        before = datetime.now(UTC)
        date = _date_of(address, directory / "ca.crt")
        passed = datetime.now(UTC) - before
    except Exception as cause:
        hint = "ask the coordinator's operator; does a proxy on the way open TLS?"
        reason = f"{address} does not prove to be the pinned coordinator ({type(cause).__name__})"
        yield Point("tls", "failed", reason, hint)
        return
    yield Point("tls", "ok", "the coordinator is the one that was pinned")
    # The header has whole seconds, and the answer took a while.
    skew = max(0.0, abs((date - now).total_seconds()) - passed.total_seconds() - 1.0)
    distance = f"{skew:.0f} s away from the coordinator's"
    if skew > SKEW_S:
        yield Point("clock", "failed", distance, "set the clock: timedatectl set-ntp true")
    elif skew > SKEW_S / 10:
        yield Point("clock", "warning", distance, "set the clock: timedatectl set-ntp true")
    else:
        yield Point("clock", "ok", distance)


def _date_of(address: str, authority: Path) -> datetime:
    """Return the time that the coordinator states, over TLS with the pinned authority."""
    import httpx

    from consilo.membership.calls import PREFIX

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority.read_text(encoding="ascii"))
    with httpx.Client(verify=context, trust_env=False, timeout=_CONNECT_S) as client:
        answer = client.get(f"https://{address}{PREFIX}ca")
    return parsedate_to_datetime(answer.headers["date"])


def _data(directory: Path, purpose: str, job: Path | None) -> Iterator[Point]:
    from consilo.contracts.contract import Contract
    from consilo.jobs.job import UNSTATED
    from silos.proposals.onboard import mappings
    from silos.silo import Silo

    if not (directory / "silo.yaml").exists():
        hint = "consilo silo data add NAME --csv FILE --contract NAME@VERSION"
        yield Point("data", "failed", "no data set is connected", hint)
        return
    try:
        silo = Silo.open(directory)
        known = mappings(directory)
    except ConsiloError as cause:
        file = Path(cause.where).name if isinstance(cause, InvalidInput) else "silo.yaml"
        yield Point("data", "failed", _first_line(cause), f"mend {file}")
        return
    yield Point("data", "ok", "silo.yaml can be read")
    mapped = [each for several in known.values() for each in several]
    if not mapped:
        hint = "consilo silo data add NAME --contract NAME@VERSION"
        yield Point("contract", "warning", "no data set is mapped to a contract", hint)
    for each in mapped:
        ref = str(each["contract"])
        try:
            contract = _part(Contract.load(ref, search=(Path.cwd(), directory)), job, silo.name)
            report = silo.rows.check(contract, purpose=purpose or UNSTATED)
        except ConsiloError as cause:
            hint = f"consilo silo check {ref} --dir {directory}"
            yield Point(f"contract {ref}", "failed", _first_line(cause), hint)
            continue
        if report.passed:
            yield Point(f"contract {ref}", "ok", report.reason())
        else:
            hint = f"consilo silo check {ref} --dir {directory} says which rows"
            if job is None and {each.rule for each in report.failures} == {"present"}:
                hint += "; where other silos hold these columns, give the vertical job by --job"
            yield Point(f"contract {ref}", "failed", report.reason(), hint)


def _part(contract: Contract, job: Path | None, silo: str) -> Contract:
    """Return what of a contract a silo must keep, where a job cuts that very contract."""
    from consilo.contracts.contract import Contract
    from consilo.jobs.job import Job

    if job is None:
        return contract
    asked = Job.load(job)
    cut = Contract.load(asked.contract, search=(job.resolve().parent, Path.cwd()))
    return asked.part(contract, silo) if cut.ref == contract.ref else contract


def _first_line(cause: ConsiloError) -> str:
    lines = str(cause).splitlines()
    return lines[0] if len(lines) < 2 else f"{lines[0]}{lines[1].replace('  - ', ' ', 1)}"
