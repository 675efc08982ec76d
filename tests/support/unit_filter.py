"""The system calls that a systemd unit lets through, laid upon a process as systemd does it.

Groups are those of the systemd that is here (``systemd-analyze syscall-filter``), numbers those of
libseccomp, which systemd itself uses. What ``RestrictNamespaces=yes`` adds of it is laid on too.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import subprocess

_ALLOW, _ERRNO, _MASKED_EQ = 0x7FFF0000, 0x00050000, 7
_NAMESPACES = (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)


def groups() -> dict[str, list[str]]:
    """Return group → its members, which may be groups, as this machine's systemd has them."""
    told = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found: dict[str, list[str]] = {}
    members: list[str] = []
    for line in told.splitlines():
        name = line.strip()
        if line.startswith("@"):
            members = found.setdefault(name, [])
        elif line.startswith("#"):  # calls in no group come last
            members = []
        elif name and not name.startswith("#"):
            members.append(name)
    return found


def let_through(unit: str) -> set[str]:
    """Return the names of the calls that a unit's lines ``SystemCallFilter=`` let through."""
    known = groups()

    def calls(names: list[str]) -> set[str]:
        own = {each for each in names if not each.startswith("@")}
        return own.union(*(calls(known[each]) for each in names if each.startswith("@")))

    values = [
        line.partition("=")[2] for line in unit.splitlines() if line.startswith("SystemCallFilter=")
    ]
    assert values
    assert not values[0].startswith("~")  # then it is a list of what is let through
    found = calls(["@default"])
    for value in values:
        named = calls(value.removeprefix("~").split())
        found = found - named if value.startswith("~") else found | named
    return found


class _Compared(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    )


def lay_on(names: set[str]) -> None:
    """Let this process, for good, make the named calls only, and no namespace; others: EPERM."""
    library = ctypes.CDLL(ctypes.util.find_library("seccomp") or "libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    denied = _ERRNO | errno.EPERM
    listed = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(denied)))
    for name in sorted(names):
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # else it is of another architecture
            _rule(library, listed, _ALLOW, number)
    spaces = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_ALLOW)))
    for flag in _NAMESPACES:
        for name, argument in (("clone", 0), ("unshare", 0), ("setns", 1)):
            number = library.seccomp_syscall_resolve_name(name.encode())
            _rule(library, spaces, denied, number, _Compared(argument, _MASKED_EQ, flag, flag))
    clone3 = library.seccomp_syscall_resolve_name(b"clone3")
    _rule(library, spaces, _ERRNO | errno.ENOSYS, clone3)
    for each in (spaces, listed):
        assert library.seccomp_load(each) == 0


def _rule(
    library: ctypes.CDLL, context: ctypes.c_void_p, action: int, number: int, *compared: _Compared
) -> None:
    array = (_Compared * max(len(compared), 1))(*compared)
    told = library.seccomp_rule_add_array(
        context, ctypes.c_uint32(action), number, len(compared), array
    )
    assert told == 0, (number, told)
