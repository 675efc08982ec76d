"""The process of a page: a socket, uvicorn over it, and no log of who asked for what."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from consilo.errors import ConfigInvalid

_ENDS_S = 2
_BACKLOG = 128


def bound(port: int, *, host: str = "127.0.0.1") -> socket.socket:
    """Return a socket at a port that nobody else has; 0 takes any that is free.

    Raises:
        ConfigInvalid: where the port is taken.
    """
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as cause:
        made.close()
        if cause.errno not in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
            raise
        said = f"cannot be listened at ({cause.strerror}); give another with --port"
        raise ConfigInvalid(f"{host}:{port}", [said]) from None
    made.listen(_BACKLOG)
    return made


def serve(
    app: ASGIApp,
    listening: socket.socket,
    *,
    ready: Callable[[], None],
    certificate: tuple[str, str] | None = None,
) -> None:
    """Serve until the process is told to end (SIGINT, SIGTERM).

    Nothing is logged of a request: addresses hold tokens.

    Args:
        app: `consilo.pages.site.Site.application`.
        listening: where; it is closed at the end.
        ready: called once the socket is there, so that what it prints can be opened.
        certificate: files of the certificate and its key, for TLS.
    """
    chain, key = certificate or (None, None)
    config = uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        lifespan="off",
        ws="none",
        proxy_headers=False,  # who is at the other end is told by the connection alone
        timeout_graceful_shutdown=_ENDS_S,
        ssl_certfile=chain,
        ssl_keyfile=key,
    )
    server = uvicorn.Server(config)
    ready()
    try:
        server.run(sockets=[listening])
    finally:
        listening.close()
