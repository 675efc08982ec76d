"""The process of the federation's page: on this machine without a login, elsewhere with one."""

from __future__ import annotations

import ipaddress
import signal
from collections.abc import Callable
from pathlib import Path

from consilo.errors import ConfigInvalid
from consilo.membership.coordinator import Reachable
from consilo.membership.keys import server_hosts
from consilo.pages.served import bound, serve
from consilo.pages.site import Site
from dashboards.logins import CONFIG_FILE, PageConfig, Users
from dashboards.reading.reading import Reading
from dashboards.site import site_behind, site_here, site_with_login

LOOPBACK = "127.0.0.1"
PORT = 8410
"""Where a page is that is started by itself, and whose coordinator has none yet."""


def serve_page(
    home: Path,
    *,
    host: str = LOOPBACK,
    port: int | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    say: Callable[[str], None],
) -> None:
    """Serve the pages of a coordinator's directory until the process is told to end.

    Args:
        home: the coordinator's directory.
        host: address to bind to; other than the loopback it asks for a login, and speaks TLS.
        port: None takes that of ``coordinator.yaml``.
        certificate: of TLS, PEM; None takes the federation's server certificate.
        key: of the certificate.
        say: told where it answers.

    Raises:
        ConfigInvalid: where nobody could get in, or there is no certificate for the address.
    """
    if not (home / "members.db").is_file():
        said = "no coordinator's directory: no list of members; give the --dir of 'consilo up'"
        raise ConfigInvalid(str(home), [said])
    place = Reachable.load(home)
    chosen = port or (place.page_port if place is not None else None) or PORT
    reading = Reading(home)
    try:
        if _is_loopback(host) and PageConfig.load(home).proxy is None:
            site, files, shown = site_here(reading, port=chosen), None, f"http://{host}:{chosen}"
        else:
            files = _tls(home, host, certificate, key)
            site, shown = _for_others(reading, place, host, chosen)
        reading.warm()
        listening = bound(chosen, host=host)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        serve(site.application(), listening, ready=lambda: say(shown), certificate=files)
    finally:
        reading.close()


def _for_others(
    reading: Reading, place: Reachable | None, host: str, port: int
) -> tuple[Site, str]:
    config = PageConfig.load(reading.home)
    name = (place.advertise if place is not None else "") or host
    origins = frozenset(config.origins or [f"https://{name}:{port}"])
    shown = sorted(origins)[0]
    if config.proxy is not None:
        if not config.origins:
            said = f"behind a proxy: say origins, such as https://{name}"
            raise ConfigInvalid(str(reading.home / CONFIG_FILE), [said])
        return site_behind(reading, config.proxy, origins=origins), shown
    users = Users(reading.home)
    if not users.names():
        said = f"nobody could log in; add a user: consilo page user add NAME --dir {reading.home}"
        raise ConfigInvalid(f"--host {host}", [said])
    return site_with_login(reading, users, port=port, origins=origins), shown


def _tls(
    home: Path, host: str, certificate: Path | None, key: Path | None
) -> tuple[str, str] | None:
    """Return the files for TLS; None on the loopback, where a proxy beside it speaks it.

    Raises:
        ConfigInvalid: where one lacks, or the federation's is for other names.
    """
    if (certificate is None) != (key is None):
        raise ConfigInvalid("--certificate, --key", ["give both, or none"])
    if certificate is not None and key is not None:
        for each in (certificate, key):
            if not each.is_file():
                raise ConfigInvalid(str(each), ["no such file"])
        return str(certificate), str(key)
    if _is_loopback(host):
        return None
    own = home / "keys" / "server.crt"
    place = Reachable.load(home)
    name = (place.advertise if place is not None else "") or host
    if not own.is_file() or name not in server_hosts(own):
        said = (
            f"the federation's certificate is not for '{name}'; give one with --certificate and "
            "--key, or say the name to 'consilo up --advertise'"
        )
        raise ConfigInvalid(f"--host {host}", [said])
    return str(own), str(own.with_name("server.key"))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
