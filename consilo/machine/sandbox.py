"""Lock this process in for good: Landlock for files, seccomp for system calls, by ctypes.

After `confine` a process may compute, and use the descriptors that it keeps. It reads what it was
told, writes nothing, starts nothing, reaches nobody, and cannot look into other processes. What
Landlock does not cover stays open: whether a file exists, and how large it is. It takes no rights
to do this; it cannot be undone. See landlock(7), seccomp(2); x86-64 and aarch64.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
import sys
import sysconfig
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

_NO_NEW_PRIVS, _DUMPABLE = 38, 4
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_HANDLED = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""Version of Landlock → rights over files that it knows; all of them are taken away."""
_SYSTEM = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/zoneinfo",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/dev/null",
    "/dev/urandom",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/sys/devices/system/cpu",
)
_X86, _ARM = 0, 1
_MACHINES = {"x86_64": (_X86, 0xC000003E), "aarch64": (_ARM, 0xC00000B7)}
_NUMBERS = {
    "seccomp": (317, 277),
    "clone": (56, 220),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "fcntl": (72, 25),
}
_FORBIDDEN: dict[str, tuple[int | None, int | None]] = {
    # sockets: what is open stays usable
    "socket": (41, 198),
    "socketpair": (53, 199),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "connect": (42, 203),
    "sendto": (44, 206),
    "recvmmsg": (299, 243),
    "sendmmsg": (307, 269),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    # other programs and processes
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "vfork": (58, None),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "ioprio_set": (251, 30),
    "sched_setscheduler": (144, 119),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "sched_setattr": (314, 274),
    "setpgid": (109, 154),
    "setsid": (112, 157),
    # memory and queues shared by name
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "semctl": (66, 191),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    # namespaces, mounts, the kernel
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "bpf": (321, 280),
    "acct": (163, 89),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "personality": (135, 92),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "quotactl": (179, 60),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "fanotify_init": (300, 262),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "io_setup": (206, 0),
    "io_submit": (209, 2),
    "inotify_init1": (294, 26),
    "inotify_init": (253, None),
    # keys
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # what Landlock does not cover of a file
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
}
"""System calls that fail with EPERM: number on x86-64 and on aarch64."""
_OF_ALL: dict[str, tuple[int | None, int | None]] = {
    "flock": (73, 32),
    "ioctl": (16, 29),
    "pipe": (22, None),
    "pipe2": (293, 59),
    "memfd_create": (319, 279),
    "eventfd": (284, None),
    "eventfd2": (290, 19),
    "epoll_create": (213, None),
    "epoll_create1": (291, 20),
    "timerfd_create": (283, 85),
    "signalfd": (282, None),
    "signalfd4": (289, 74),
    "mincore": (27, 232),
    "preadv2": (327, 286),
    "readahead": (187, 213),
    "fadvise64": (221, 223),
    "sysinfo": (99, 179),
    "times": (100, 153),
    "sched_setaffinity": (203, 122),
    "sync": (162, 81),
    "statfs": (137, 43),
    "fstatfs": (138, 44),
}
"""What shows, or leaves behind, something of the whole machine: who is alone has none of it."""
_FOR_TEMPLATES = ("kill", "recvmsg")
_NEW_FROM = 424
"""Calls from here on have one number everywhere; those below are left, others do not exist."""
_NEW_LEFT = (436, 437, 439, 441, 449)  # close_range, openat2, faccessat2, epoll_pwait2, futex_waitv
_NAMESPACES = 0x7E020000
_CLONE_THREAD = 0x10000
_PRCTL_LEFT = (15, 16)  # a thread's name
_FCNTL_LEFT = (0, 1, 2, 3, 1030)  # of a descriptor itself, and of no file, pipe or lock

_LD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
_NR, _ARCH = 0, 4
_libc = ctypes.CDLL(None, use_errno=True)


class SandboxUnavailable(Exception):
    """This machine cannot lock a process in; its words say what is missing."""


def confine(
    readable: Iterable[Path],
    *,
    keep: Collection[int],
    hidden: Path | None = None,
    forks: bool = False,
) -> None:
    """Lock this process, which has one thread, in for the rest of its life.

    Args:
        readable: files and folders that it may read, besides the interpreter and its packages.
        keep: descriptors that stay open; 0, 1 and 2 become ``/dev/null``.
        hidden: a folder that nothing readable may contain.
        forks: it is a template that runs our code only: it starts no thread, but may fork, end
            what it forked, and be handed descriptors. What it forks calls `alone`.

    Raises:
        SandboxUnavailable: where one part of it is not possible; the process is then to end.
    """
    paths = {*_installed(), *(Path(each).resolve() for each in readable)}
    if hidden is not None:
        hidden = hidden.resolve()
        within = [each for each in paths if hidden == each or each in hidden.parents]
        if within:
            raise SandboxUnavailable(f"{hidden} lies within {within[0]}, which code may read")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ.clear()
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    _close_all_but(keep)
    _call("PR_SET_NO_NEW_PRIVS", _libc.prctl, _NO_NEW_PRIVS, 1, 0, 0, 0)
    _call("PR_SET_DUMPABLE", _libc.prctl, _DUMPABLE, 0, 0, 0, 0)
    _landlock(paths)
    _seccomp(_template(platform.machine()) if forks else _program(platform.machine()))


def alone(*, keep: Collection[int]) -> None:
    """Lock a fork of a template in further, so that nothing of it outlives it or reaches another.

    It opens no file for reading either, so that what it would import must be there, starts no
    thread, and has no descriptor that another process has but ``keep``.
    """
    _close_all_but(keep)
    _landlock(())
    _seccomp(_alone(platform.machine()))


def fault(*, hidden: Path | None = None) -> str:
    """Return why this machine cannot lock a process in; empty where it can. Tried in a child.

    Args:
        hidden: a folder that nothing readable may contain.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            confine((), keep=(writer,), hidden=hidden)
            os.write(writer, b"-")
        except BaseException as cause:
            os.write(writer, str(cause).encode()[:1000] or b"unknown")
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        said = file.read().decode()
    os.waitpid(child, 0)
    return "" if said == "-" else said or "the process was killed while it was locked in"


def _installed() -> set[Path]:
    """Return what holds the interpreter, its packages and ours, and what the system's are."""
    named = [sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), *_SYSTEM]
    if sys.flags.isolated:  # then its path is what is installed, elsewhere too (a .pth file)
        named += [each for each in sys.path if os.path.isabs(each)]
    for package in ("consilo", "silos", "torch"):
        module = sys.modules.get(package)
        named += list(getattr(module, "__path__", ()))
    found = {Path(each).resolve() for each in named}
    return {each for each in found if each.exists() and each != Path("/")}


def _close_all_but(keep: Collection[int]) -> None:
    start = 3
    for number in sorted(keep):
        os.closerange(start, number)
        start = number + 1
    os.closerange(start, 65536)


def _landlock(readable: Iterable[Path]) -> None:
    version = _syscall("Landlock", _LANDLOCK_CREATE, None, 0, 1)
    handled = _HANDLED[max(each for each in _HANDLED if each <= version)]
    network = 3 if version >= 4 else 0  # TCP; seccomp closes the rest
    scoped = 3 if version >= 6 else 0  # abstract sockets and signals of others
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    text = struct.pack("QQQ", handled, network, scoped)[:size]
    ruleset = _syscall("Landlock", _LANDLOCK_CREATE, text, size, 0)
    for path in readable:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rights = _READ_FILE | (_READ_DIR if path.is_dir() else 0)
        rule = struct.pack("=Qi", rights, place)
        _syscall(f"Landlock for {path}", _LANDLOCK_ADD, ruleset, 1, rule, 0)
        os.close(place)
    _syscall("Landlock", _LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)


def _seccomp(filters: list[tuple[int, int, int, int]]) -> None:
    code = b"".join(struct.pack("HBBI", *each) for each in filters)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("H6xQ", len(filters), ctypes.addressof(buffer))
    _syscall("seccomp", _NUMBERS["seccomp"][_side()], 1, 0, program)


def _template(machine: str) -> list[tuple[int, int, int, int]]:
    """Return the filter of a process that forks others, and has one thread."""
    forbidden = {name: each for name, each in _FORBIDDEN.items() if name not in _FOR_TEMPLATES}
    if machine == "x86_64":  # glibc forks by clone; where it does not, nothing is forked
        forbidden["fork"] = _FORBIDDEN["fork"]
    return _program(machine, forbidden, clones="processes")


def _alone(machine: str) -> list[tuple[int, int, int, int]]:
    """Return the filter of a process that nothing outlives."""
    return _program(machine, {**_FORBIDDEN, **_OF_ALL}, clones="nothing")


def _program(
    machine: str,
    forbidden: Mapping[str, tuple[int | None, int | None]] = _FORBIDDEN,
    clones: str = "threads",
) -> list[tuple[int, int, int, int]]:
    """Return a filter, as struct sock_filter has it: what is not forbidden is allowed.

    Args:
        machine: as `platform.machine` calls it.
        forbidden: system calls that fail.
        clones: what clone may make: ``threads``, ``processes`` or ``nothing``.
    """
    side, arch = _MACHINES[machine]
    code = [(_LD, 0, 0, _ARCH), (_JEQ, 1, 0, arch), (_RET, 0, 0, _KILL), (_LD, 0, 0, _NR)]
    if side == _X86:  # x32: the same calls under other numbers
        code += [(_JGE, 0, 1, 0x40000000), (_RET, 0, 0, _KILL)]
    for numbers in forbidden.values():
        number = numbers[side]
        if number is not None:
            code += [(_JEQ, 0, 1, number), (_RET, 0, 0, _EPERM)]
    landlock = (_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT)
    for number in (*_NEW_LEFT, *(landlock if clones == "processes" else ())):
        code += [(_JEQ, 0, 1, number), (_RET, 0, 0, _ALLOW)]
    # clone3 hides its flags in memory: without it, threads are made by clone.
    code += [(_JGE, 0, 1, _NEW_FROM), (_RET, 0, 0, _ENOSYS)]
    first = 16  # offset of a call's first argument, its low half before its high one
    clone = [(_LD, 0, 0, first), (_JSET, 1, 0, _CLONE_THREAD), (_RET, 0, 0, _EPERM)]
    if clones == "processes":
        clone[1] = (_JSET, 0, 1, _CLONE_THREAD)
    elif clones == "nothing":
        clone[1] = (_JSET, 0, 0, _CLONE_THREAD)
    clone += [(_JSET, 0, 1, _NAMESPACES), (_RET, 0, 0, _EPERM), (_RET, 0, 0, _ALLOW)]
    other = [(_LD, 0, 0, first), (_JEQ, 1, 0, 0), (_RET, 0, 0, _EPERM)]
    other += [(_LD, 0, 0, first + 4), (_JEQ, 1, 0, 0), (_RET, 0, 0, _EPERM), (_RET, 0, 0, _ALLOW)]
    option: list[tuple[int, int, int, int]] = [(_LD, 0, 0, first)]
    for number in _PRCTL_LEFT:
        option += [(_JEQ, 0, 1, number), (_RET, 0, 0, _ALLOW)]
    option += [(_RET, 0, 0, _EPERM)]
    checked = [("clone", clone), ("prlimit64", other), ("prctl", option)]
    if clones == "nothing":
        command: list[tuple[int, int, int, int]] = [(_LD, 0, 0, first + 8)]
        for number in _FCNTL_LEFT:
            command += [(_JEQ, 0, 1, number), (_RET, 0, 0, _ALLOW)]
        checked.append(("fcntl", [*command, (_RET, 0, 0, _EPERM)]))
    for name, checks in checked:
        code += [(_JEQ, 0, len(checks), _NUMBERS[name][side]), *checks]
    return [*code, (_RET, 0, 0, _ALLOW)]


def _side() -> int:
    machine = platform.machine()
    if machine not in _MACHINES:
        raise SandboxUnavailable(f"no list of system calls for {machine}")
    return _MACHINES[machine][0]


def _syscall(what: str, number: int, *arguments: int | bytes | None) -> int:
    return _call(what, _libc.syscall, ctypes.c_long(number), *map(_wide, arguments))


def _wide(value: int | bytes | None) -> object:
    return ctypes.c_long(value) if isinstance(value, int) else value


def _call(what: str, function: object, *arguments: object) -> int:
    found = int(function(*arguments))  # type: ignore[operator]
    if found < 0:
        number = ctypes.get_errno()
        raise SandboxUnavailable(f"{what}: {os.strerror(number)}")
    return found
