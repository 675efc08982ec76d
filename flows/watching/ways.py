"""How a notice leaves: as mail, or as JSON by POST. A notice's id makes a repeat known as one."""

from __future__ import annotations

import json
import smtplib
import ssl
import urllib.error
import urllib.request
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from consilo.errors import ConsiloError
from consilo.membership.notify import Email, Webhook
from flows.watching.notice import Notice

_WAIT_S = 10.0


class NotArrived(ConsiloError):
    """A notice was not taken; the message has no address and no secret in it."""


def send(way: Email | Webhook, home: Path, notice: Notice) -> None:
    """Send one notice by one way.

    Args:
        way: which.
        home: the coordinator's directory, where files with secrets may lie.
        notice: what.

    Raises:
        NotArrived: where the other side did not take it.
        ConfigInvalid: where a secret is not there.
    """
    if isinstance(way, Email):
        _mail(way, home, notice)
    else:
        _post(way.address(home), notice)


def _mail(way: Email, home: Path, notice: Notice) -> None:
    message = EmailMessage()
    message["From"], message["To"] = way.sender, ", ".join(way.to)
    message["Subject"] = f"[consilo] {_one_line(notice.what)}"
    message["Message-ID"] = f"<{notice.digest}@{way.sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(notice.text)
    password = way.password(home)
    try:
        with _server(way) as server:
            if way.security == "starttls":
                server.starttls(context=ssl.create_default_context())
            if way.user:
                server.login(way.user, password)
            server.send_message(message)
    except (OSError, smtplib.SMTPException) as cause:
        code = getattr(cause, "smtp_code", "")
        raise NotArrived(f"{way.host}:{way.port} {type(cause).__name__} {code}".strip()) from None


def _server(way: Email) -> smtplib.SMTP:
    if way.security == "tls":
        context = ssl.create_default_context()
        return smtplib.SMTP_SSL(way.host, way.port, timeout=_WAIT_S, context=context)
    return smtplib.SMTP(way.host, way.port, timeout=_WAIT_S)


class _NoDetour(urllib.request.HTTPRedirectHandler):
    """What is told goes to the address that was configured, and to no other."""

    def redirect_request(self, *told: Any, **more: Any) -> None:
        """Follow nothing."""


def _post(url: str, notice: Notice) -> None:
    told = {
        "id": notice.digest,
        "kind": notice.kind,
        "what": notice.what,
        "why": notice.why,
        "run": notice.run,
        "command": notice.command,
        "at": notice.at,
        "text": notice.text,
    }
    headers = {"Content-Type": "application/json", "Idempotency-Key": notice.digest}
    request = urllib.request.Request(url, json.dumps(told).encode(), headers, method="POST")
    try:
        with urllib.request.build_opener(_NoDetour).open(request, timeout=_WAIT_S) as answer:
            answer.read(1024)
    except urllib.error.HTTPError as cause:
        raise NotArrived(f"the webhook answered {cause.code}") from None
    except (OSError, ValueError) as cause:
        raise NotArrived(f"the webhook: {type(cause).__name__}") from None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:150]
