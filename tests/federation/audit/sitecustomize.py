"""Loaded by every Python process of a test run: writes down whom the process tries to reach."""

import ipaddress
import os
import sys

_LOG = os.environ.get("CONSILO_AUDIT_LOG")


def _is_loopback(host):
    if host in (None, "", b"", "localhost", b"localhost", "0.0.0.0", "::"):
        return True
    try:
        text = host.decode() if isinstance(host, bytes) else str(host)
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False


def _write(kind, what):
    line = f"{kind}\t{os.getpid()}\t{what}\t{' '.join(sys.orig_argv)[:300]}\n"
    handle = os.open(_LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


def _hook(event, args):
    if event in ("socket.connect", "socket.sendto"):
        address = args[1]
        if isinstance(address, tuple) and not _is_loopback(address[0]):
            _write("reach", f"{event} {address[0]}:{address[1]}")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname") and not _is_loopback(args[0]):
        _write("reach", f"{event} {args[0]}")


if _LOG:
    _write("hooked", "-")
    sys.addaudithook(_hook)
