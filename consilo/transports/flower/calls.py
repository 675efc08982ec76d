"""Calls to a SuperLink that survive its restart, stop when asked, and say what is wrong.

Flower's own retry loop sends SIGINT to its process when a call is not authorised; ours raises.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential

from consilo.errors import CoordinatorUnreachable, RunCancelled, TransportError
from consilo.membership.calls import OPERATOR_HEADER, is_distrust
from consilo.membership.coordinator import TOKEN_FILE
from consilo.transports.flower.version import require_flower

require_flower()

import httpx  # noqa: E402

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
"""Between two tries; each pause is twice the one before."""
RETRY_S = 90.0
"""How long an exchange waits for a SuperLink that has gone away: it may be restarting."""
KEPT_S = 12.0
"""For so long an idle connection is kept for the next call: longer than from heartbeat to heartbeat
of a node, which would else shake hands for each, and shorter than the SuperLink keeps its end."""


class NotAuthorised(TransportError):
    """The SuperLink does not accept who we are: the run ended, or the silo was struck off."""


def connect(
    kind: Any,
    address: str,
    ca_certificate: Path,
    *,
    component: str,
    interceptors: tuple[Any, ...] = (),
    trust: ssl.SSLContext | None = None,
) -> Any:
    """Return one of Flower's HTTP clients.

    Whoever has the coordinator's keys shows the operator's token, which lies beside its CA
    certificate there; in a silo's directory is none, nor has it use for one.
    """
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

    token = ca_certificate.with_name(TOKEN_FILE)
    if token.is_file():
        interceptors = (Showing({OPERATOR_HEADER: token.read_text().strip()}), *interceptors)
    verify = trust or trusting(ca_certificate)
    client = kind(
        f"https://{address}",
        interceptors=[RuntimeVersionHttpInterceptor(component_name=component), *interceptors],
        verify=verify,
        retry_invoker=None,
    )
    short = client._client
    limits = httpx.Limits(
        max_connections=100, max_keepalive_connections=20, keepalive_expiry=KEPT_S
    )
    client._client = httpx.Client(
        verify=verify, timeout=short.timeout, follow_redirects=True, limits=limits
    )
    short.close()
    return client


def trusting(ca_certificate: Path) -> ssl.SSLContext:
    """Return what checks the SuperLink's certificate; a live one may be told of a new authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca_certificate.read_text(encoding="ascii"))
    for other in ("ca.next.crt", "ca.old.crt"):  # the coordinator's own: see renew_authority
        path = ca_certificate.with_name(other)
        if path.exists():
            context.load_verify_locations(cadata=path.read_text(encoding="ascii"))
    return context


class Showing:
    """An interceptor for Flower's HTTP clients that adds headers; replace them at any time."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers = headers

    def intercept(self, context: Any, call_next: Callable[[Any], Any]) -> Any:
        """Add the headers to a call."""
        context.request.headers.update(self.headers)
        return call_next(context)


def call(
    method: Callable[[Any], Any],
    request: Any,
    *,
    address: str,
    retry_s: float = 0.0,
    give_up: Callable[[], None] = lambda: None,
) -> Any:
    """Call a method of a Flower client.

    Args:
        method: of the client.
        request: protobuf.
        address: for the message.
        retry_s: how long to try again where nobody answers.
        give_up: called before every try; raises when there is no point any more.

    Raises:
        CoordinatorUnreachable: where nobody answers.
        NotAuthorised: where the SuperLink says 401 or 403.
        TransportError: where it refuses the request.
    """
    calling = Retrying(
        before=lambda _: give_up(),
        retry=retry_if_exception(_may_pass),
        wait=wait_exponential(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S),
        stop=stop_after_delay(retry_s),
        reraise=True,
    )
    try:
        return calling(method, request)
    except httpx.TransportError as cause:
        raise CoordinatorUnreachable(_unreachable(address, cause)) from None
    except httpx.HTTPStatusError as cause:
        status = cause.response.status_code
        if status in (401, 403):
            raise NotAuthorised(
                f"the SuperLink at {address} refuses the call ({status}): {_detail(cause)}"
            ) from None
        raise TransportError(
            f"the SuperLink at {address} answered {status}: {_detail(cause)}"
        ) from None


def cancelled_check(is_set: Callable[[], bool]) -> Callable[[], None]:
    """Return a ``give_up`` that raises `RunCancelled` once ``is_set()``."""

    def check() -> None:
        if is_set():
            raise RunCancelled("the run was cancelled")

    return check


def _may_pass(cause: BaseException) -> bool:
    """Return whether a call that failed so may succeed a little later."""
    if isinstance(cause, httpx.HTTPStatusError):
        return cause.response.status_code in (502, 503, 504)
    return isinstance(cause, httpx.TransportError) and not is_distrust(cause)


def _unreachable(address: str, cause: Exception) -> str:
    if is_distrust(cause):
        return (
            f"the coordinator at {address} shows a certificate that we do not trust ({cause}); "
            "check that the CA certificate is the federation's"
        )
    return f"nobody answers at {address} ({cause}); is the coordinator up and the address right?"


def _detail(cause: httpx.HTTPStatusError) -> str:
    from flwr.supercore.error import FlowerError

    try:
        error = FlowerError.from_json(cause.response.text)
    except ValueError:
        error = None
    return str(error.message) if error else cause.response.text[:200]
