"""The password of a database: from the environment or the keyring, never from a file of ours."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote_plus, urlsplit

from consilo.errors import SourceUnreadable

_SECRET = re.compile(r"(?i)(?:^|[?&;\s])(password|passwd|pwd|passfile|sslpassword)\s*=")


def url_fault(url: str) -> str | None:
    """Return what to do about a URL that holds a password, None for one that does not."""
    try:
        parts = urlsplit(url)
        holds = parts.password is not None or _SECRET.search(unquote_plus(f"?{parts.query}"))
    except ValueError:
        return "not a URL such as postgresql+psycopg://reader@db.clinic.example/clinic"
    if not holds:
        return None
    return (
        "holds a password; take it out, and say where it is kept: password_env: VARIABLE, or "
        "password_keyring: SERVICE/USER (store it with 'keyring set SERVICE USER')"
    )


def password_of(*, env: str | None, entry: str | None, where: str) -> str | None:
    """Return the password of a database, None where none is asked for.

    Args:
        env: the environment variable that holds it.
        entry: ``SERVICE/USER``, under which the keyring of this machine holds it.
        where: how messages call the source.

    Raises:
        SourceUnreadable: where it is not where it should be.
    """
    if env is not None:
        password = os.environ.get(env)
        if not password:
            hint = f"set the environment variable {env} to the password"
            raise SourceUnreadable(f"{where}: {hint}")
        return password
    if entry is None:
        return None
    import keyring
    import keyring.errors

    service, _, user = entry.partition("/")
    try:
        password = keyring.get_password(service, user)
    except keyring.errors.KeyringError as cause:
        hint = "unlock or install a keyring, or use password_env"
        fault = f"the keyring of this machine cannot be read ({type(cause).__name__})"
        raise SourceUnreadable(f"{where}: {fault}; {hint}") from None
    if not password:
        hint = f"store it with 'keyring set {service} {user}'"
        fault = f"the keyring holds nothing under {entry}"
        raise SourceUnreadable(f"{where}: {fault}; {hint}")
    return password
