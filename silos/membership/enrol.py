"""The silo's side of membership: join by invitation, stay known, renew, leave.

Everything private is made in the silo's directory and stays there; what travels are public keys,
proofs that the silo holds the private halves, and the software manifest. Nothing is sent before the
coordinator's CA certificate has the fingerprint that the invitation states. Every step may be run
again and picks up where it stopped.

```
SILO_DIR/  0700
  node.yaml coordinator.yaml partners.yaml ca.crt
  silo.key signing.key membership.crt
  silo.key.next membership.next.crt      while a new key replaces the old one
```
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from consilo.config import parse, read_yaml
from consilo.errors import ConfigInvalid, CoordinatorUnreachable, Refused, TransportError
from consilo.machine.files import make_directory, move, write_atomic
from consilo.membership.calls import (
    ENROL_PURPOSE,
    NEW_KEY_PURPOSE,
    PREFIX,
    headers_of,
    is_distrust,
    prove_node_key,
)
from consilo.membership.coordinator import LIST_PURPOSE, Coordinator
from consilo.membership.invitation import Invitation
from consilo.membership.keys import (
    fingerprint,
    key_fingerprint,
    load_or_create_signing_key,
    load_or_create_silo_key,
    load_silo_key,
)
from consilo.membership.restored import take_in
from consilo.membership.software import installed
from consilo.wire.json_text import each_once
from consilo.wire.signing import is_signed, public_hex, sign
from consilo.yaml_text import to_yaml
from silos.gate.audit import audit_log
from silos.gate.guard import CoordinatorConfig
from silos.gate.partners import see_partners
from silos.node_config import NodeConfig

KEY, NEXT_KEY = "silo.key", "silo.key.next"
CERTIFICATE, NEXT_CERTIFICATE = "membership.crt", "membership.next.crt"
SIGNING_KEY = "signing.key"
AUTHORITY = "ca.crt"
_TIMEOUT_S = 20.0
_MAX_ANSWER_BYTES = 16 * 1024**2
_moving = threading.Lock()  # a node's keeper must not look while its main thread moves a key

Say = Callable[[str], None]


@dataclass(frozen=True)
class Standing:
    """Where a silo stands.

    Args:
        name: as the coordinator knows it.
        state: ``pending``, ``admitted``, ``suspended``.
        key_sha256: of its node key; both operators compare it.
        valid_until: when its certificate ends, ISO 8601; empty before admission.
        news: what the operator should know, one sentence each.
    """

    name: str
    state: str
    key_sha256: str
    valid_until: str
    news: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "name": self.name,
            "state": self.state,
            "key_sha256": self.key_sha256,
            "valid_until": self.valid_until,
            "news": list(self.news),
        }


def join(invitation: Path, folder: Path, *, say: Say, now: datetime | None = None) -> Standing:
    """Ask to join the federation that a silo was invited to; safe to run again.

    Args:
        invitation: the file.
        folder: the silo's directory; made where it is missing.
        say: told what happens.
        now: the time.

    Raises:
        ConfigInvalid: where the invitation is over or edited, or the directory belongs elsewhere.
        CoordinatorUnreachable: where nobody answers, or somebody else.
        Refused: where the coordinator says no.
    """
    invited = Invitation.load(invitation)
    pinned = CoordinatorConfig.load(folder)
    _require_ours(folder, pinned, invited.ca_sha256, (invited.signing_key,))
    if not pinned.address and invited.expired(now or datetime.now(UTC)):
        raise ConfigInvalid(
            str(invitation), [f"it expired on {invited.expires}; ask the coordinator for a new one"]
        )
    make_directory(folder, mode=0o700)
    folder.chmod(0o700)
    _require_name(folder, invited.name)
    public = load_or_create_silo_key(folder / KEY)
    signing_key = load_or_create_signing_key(folder / SIGNING_KEY)
    say(f"keys are in {folder}; the private halves stay there")
    if not _trusts(folder, invited.ca_sha256):
        _fetch_ca(folder, invited)
        say(f"the coordinator at {invited.address} has the invited fingerprint")
    _write_places(folder, invited.name, invited.address)
    mine = public_hex(signing_key)
    body: dict[str, Any] = {
        "token": invited.token,
        "name": invited.name,
        "node_key": public.decode().strip(),
        "signing_key": mine,
        "software": installed().to_json(),
        "proof": prove_node_key(
            load_silo_key(folder / KEY), invited.name, mine, invited.token_sha256
        ),
    }
    body["signature"] = sign(signing_key, ENROL_PURPOSE, body)
    content = json.dumps(body).encode()
    keys = pinned.signing_keys or (invited.signing_key,)
    answer = _send(folder, invited.address, "POST", "enrol", content, {})
    if not pinned.address:
        config = CoordinatorConfig(
            address=invited.address, ca_sha256=invited.ca_sha256, signing_keys=keys
        )
        _save_coordinator(folder, config)
    return _take_in(folder, _statement(answer, keys, invited.name))


def refresh(folder: Path) -> Standing:
    """Ask the coordinator how the silo stands, and take in keys, certificates and partners.

    Raises:
        CoordinatorUnreachable: where nobody answers.
        Refused: where it was removed.
    """
    return _call(folder, "GET", "membership")


def hello(folder: Path) -> Standing:
    """State what software runs here."""
    return _call(folder, "POST", "hello", {"software": installed().to_json()})


def renew(folder: Path) -> Standing:
    """Get a new certificate for the same key; the old one stays valid until its end."""
    return _call(folder, "POST", "renew", {})


def change_key(folder: Path) -> Standing:
    """Replace the node's key: both are valid for an overlap, in which a running node moves over.

    Run again after an interruption, it goes on with the key that it made.
    """
    name, _ = _who(folder)
    public = load_or_create_silo_key(folder / NEXT_KEY)
    mine = public_hex(load_or_create_signing_key(folder / SIGNING_KEY))
    proof = prove_node_key(load_silo_key(folder / NEXT_KEY), name, mine)
    body = {"node_key": public.decode().strip(), "proof": proof}
    return _call(folder, "POST", "renew", body)


def change_signing_key(folder: Path) -> Standing:
    """Replace the key that signs replies; every partner has to confirm the new one."""
    name, _ = _who(folder)
    old = load_or_create_signing_key(folder / SIGNING_KEY)
    path = folder / (SIGNING_KEY + ".next")
    new = load_or_create_signing_key(path)
    change = {"silo": name, "replaces": public_hex(old), "by": public_hex(new)}
    body = {"signing_key": public_hex(new), "signature": sign(new, NEW_KEY_PURPOSE, change)}
    try:
        standing = _call(folder, "POST", "renew", body)
    except Refused:
        # It may be in place already, if we were cut off after the coordinator had taken it.
        standing = _call(folder, "GET", "membership", key=SIGNING_KEY + ".next")
    move(path, folder / SIGNING_KEY)
    with suppress(FileNotFoundError):
        move(folder / (SIGNING_KEY + ".next.pub"), folder / (SIGNING_KEY + ".pub"))
    return standing


def leave(folder: Path) -> Mapping[str, Any]:
    """Strike this silo off the coordinator's list; return what the coordinator says and signed.

    It names the model versions that contain this silo's updates. Asked again, it says so again.
    """
    answer, name, keys = _ask(folder, "POST", "leave", {})
    _statement(answer, keys, name)
    signed: Mapping[str, Any] = json.loads(answer, object_pairs_hook=each_once)
    return signed


def promote(folder: Path) -> None:
    """Put the new key and its certificate in the place of the old ones; safe after a crash.

    The certificate goes last: while it waits, the key beside it is known to be on its way.
    """
    with _moving:
        if not (folder / NEXT_CERTIFICATE).exists():
            return
        for new, old in (
            (NEXT_KEY, KEY),
            (NEXT_KEY + ".pub", KEY + ".pub"),
            (NEXT_CERTIFICATE, CERTIFICATE),
        ):
            with suppress(FileNotFoundError):
                move(folder / new, folder / old)


def life_left(folder: Path, *, now: datetime | None = None) -> float:
    """Return which part of the certificate's life is left, 0 to 1; 0 where there is none.

    Args:
        folder: the silo's.
        now: the time.
    """
    path = folder / CERTIFICATE
    if not path.exists():
        return 0.0
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    whole = (certificate.not_valid_after_utc - certificate.not_valid_before_utc).total_seconds()
    left = (certificate.not_valid_after_utc - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, left / whole)


def enrol_here(home: Path, folder: Path, *, address: str, name: str = "") -> Standing:
    """Enrol a silo of this machine with the coordinator in ``home``, without a network.

    The same files as after `join` and an admission; safe to run again.

    Args:
        home: the coordinator's directory.
        folder: the silo's.
        address: host:port of the coordinator.
        name: the silo's; read from ``silo.yaml`` where it is empty.

    Raises:
        ConfigInvalid: where the directory belongs to another coordinator, or the silo was removed.
    """
    if not name:
        path = folder / "silo.yaml"
        name = str((read_yaml(path) or {}).get("name", ""))
    make_directory(folder, mode=0o700)
    with Coordinator(home) as coordinator:
        keys, ca_sha256 = coordinator.signing_keys, coordinator.ca_sha256
        _require_ours(folder, CoordinatorConfig.load(folder), ca_sha256, keys)
        promote(folder)
        public = load_or_create_silo_key(folder / KEY)
        signing_key = public_hex(load_or_create_signing_key(folder / SIGNING_KEY))
        member = coordinator.members.get(name)
        if member is None or member.state == "invited":
            coordinator.invite(name, address)
            coordinator.members.enrol(name, public, signing_key, installed())
            coordinator.admit(name)
        elif member.state == "removed":
            raise ConfigInvalid(
                name, ["this silo was removed; invite it again and let it make new keys"]
            )
        elif key_fingerprint(public) not in {key.fingerprint for key in member.keys}:
            raise ConfigInvalid(
                name, [f"the key in {folder} is not the one that is registered; remove it first"]
            )
        elif member.state == "pending":
            coordinator.admit(name)
        authority = coordinator.authority.ca_certificate.read_bytes()
        write_atomic(folder / "ca.crt", authority)
        _write_places(folder, name, address)
        config = CoordinatorConfig(address=address, ca_sha256=ca_sha256, signing_keys=keys)
        _save_coordinator(folder, config)
        return _take_in(folder, coordinator.statement(name)["statement"])


# The network.


def _call(
    folder: Path,
    method: str,
    what: str,
    body: Mapping[str, Any] | None = None,
    *,
    key: str = SIGNING_KEY,
) -> Standing:
    answer, name, keys = _ask(folder, method, what, body, key=key)
    return _take_in(folder, _statement(answer, keys, name))


def _ask(
    folder: Path,
    method: str,
    what: str,
    body: Mapping[str, Any] | None = None,
    *,
    key: str = SIGNING_KEY,
) -> tuple[bytes, str, tuple[str, ...]]:
    """Return the coordinator's answer, our name, and the keys one of which must have signed it."""
    name, pinned = _who(folder)
    content = b"" if body is None else json.dumps(body).encode()
    signer = load_or_create_signing_key(folder / key)
    headers = headers_of(signer, name, method, PREFIX + what, content, now=time.time())
    answer = _send(folder, pinned.address, method, what, content, headers)
    return answer, name, pinned.signing_keys


def _who(folder: Path) -> tuple[str, CoordinatorConfig]:
    pinned = CoordinatorConfig.load(folder)
    if not pinned.address or not (folder / "node.yaml").exists():
        raise ConfigInvalid(
            str(folder), ["this silo has joined no federation; 'consilo silo init INVITATION' does"]
        )
    return NodeConfig.load(folder).name, pinned


def _send(
    folder: Path, address: str, method: str, what: str, body: bytes, headers: Mapping[str, str]
) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=(folder / "ca.crt").read_text(encoding="ascii"))
    return _exchange(address, method, what, body, headers, context)


def _exchange(
    address: str,
    method: str,
    what: str,
    body: bytes,
    headers: Mapping[str, str],
    context: ssl.SSLContext,
) -> bytes:
    import httpx

    url = f"https://{address}{PREFIX}{what}"
    try:
        with httpx.Client(verify=context, trust_env=False, timeout=_TIMEOUT_S) as client:
            answer = client.request(method, url, content=body, headers=dict(headers))
    except httpx.TransportError as cause:
        hint = (
            "it is not the coordinator that this silo has pinned"
            if is_distrust(cause)
            else "is the coordinator up, and the address right?"
        )
        raise CoordinatorUnreachable(f"{address} cannot be reached ({cause}); {hint}") from None
    if len(answer.content) > _MAX_ANSWER_BYTES:
        raise TransportError(f"the coordinator at {address} answered with too many bytes")
    if answer.status_code in (429, 502, 503, 504):
        raise CoordinatorUnreachable(f"{address} is busy ({answer.status_code}); try again")
    if answer.status_code != 200:
        raise Refused(
            f"the coordinator at {address} refuses ({answer.status_code}): {answer.text[:300]}",
            code="removed" if "was removed" in answer.text else "membership",
        )
    return answer.content


def _fetch_ca(folder: Path, invited: Invitation) -> None:
    """Fetch the CA certificate from whoever answers; keep it only if it is the invited one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the fingerprint decides, and nothing is sent
    content = _exchange(invited.address, "GET", "ca", b"", {}, context)
    try:
        shown = x509.load_pem_x509_certificate(content)
    except ValueError:
        shown = None
    if shown is None or fingerprint(shown) != invited.ca_sha256:
        raise CoordinatorUnreachable(
            f"whoever answers at {invited.address} is not the coordinator that wrote the "
            f"invitation: expected a CA certificate with the SHA-256 {invited.ca_sha256[:16]}…, "
            f"found {fingerprint(shown)[:16] if shown else 'none'}; nothing was sent"
        )
    write_atomic(folder / "ca.crt", content)


# What the coordinator says.


def _statement(answer: bytes, keys: tuple[str, ...], name: str) -> dict[str, Any]:
    """Return a statement that one of the pinned keys has signed."""
    try:
        value = json.loads(answer, object_pairs_hook=each_once)
        statement, signature = value["statement"], value["signature"]
        if not any(is_signed(key, LIST_PURPOSE, statement, signature) for key in keys):
            raise ValueError("not signed")
        if statement["name"] != name:
            raise ValueError("for another silo")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise TransportError(
            "the coordinator's answer is not signed by a key that this silo has pinned; "
            "nothing of it was taken in"
        ) from None
    return dict(statement)


def _take_in(folder: Path, statement: Mapping[str, Any]) -> Standing:
    """Write down what a signed statement says."""
    with _moving:
        for key, certificate in ((KEY, CERTIFICATE), (NEXT_KEY, NEXT_CERTIFICATE)):
            if (folder / key).exists():
                mark = key_fingerprint(load_or_create_silo_key(folder / key))
                _write_if_new(folder / certificate, statement["certificates"].get(mark, ""))
    _write_if_new(folder / "ca.crt", "".join(statement["ca"]))
    pinned = CoordinatorConfig.load(folder)
    if tuple(statement["signing_keys"]) != pinned.signing_keys:
        keys = tuple(statement["signing_keys"])
        _save_coordinator(folder, pinned.model_copy(update={"signing_keys": keys}))
    news: tuple[str, ...] = ()
    if statement["state"] == "admitted":
        others = {n: str(k) for n, k in statement["members"].items() if n != statement["name"]}
        news = see_partners(folder, others, now=datetime.now(UTC))
    restored = take_in(statement.get("restored"), audit_log(folder), statement["signing_keys"])
    return Standing(
        str(statement["name"]),
        str(statement["state"]),
        key_fingerprint(load_or_create_silo_key(folder / KEY)),
        _end_of(folder / CERTIFICATE),
        (*news, *restored),
    )


def _end_of(path: Path) -> str:
    if not path.exists():
        return ""
    end = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    return end.isoformat(timespec="seconds")


def _write_if_new(path: Path, text: str) -> None:
    if text and (not path.exists() or path.read_text(encoding="ascii") != text):
        write_atomic(path, text.encode("ascii"))


def _require_ours(
    folder: Path, pinned: CoordinatorConfig, ca_sha256: str, signing_keys: tuple[str, ...]
) -> None:
    # The signing key says who it is; the certificate authority of a federation may change.
    elsewhere = pinned.ca_sha256 not in ("", ca_sha256) and not pinned.signing_keys
    if elsewhere or (pinned.signing_keys and not set(signing_keys) & set(pinned.signing_keys)):
        raise ConfigInvalid(
            str(folder),
            [
                f"this directory belongs to another coordinator ({pinned.address or 'unnamed'}); "
                "give every federation a directory of its own"
            ],
        )


def _trusts(folder: Path, ca_sha256: str) -> bool:
    """Return whether the certificate of this fingerprint is among those in ``ca.crt``."""
    path = folder / AUTHORITY
    if not path.exists():
        return False
    authorities = x509.load_pem_x509_certificates(path.read_bytes())
    return ca_sha256 in {fingerprint(each) for each in authorities}


def _require_name(folder: Path, name: str) -> None:
    for file in ("node.yaml", "silo.yaml"):
        path = folder / file
        known = (read_yaml(path) or {}).get("name") if path.exists() else None
        if known not in (None, name):
            raise ConfigInvalid(
                str(path), [f"the name here is '{known}', the invitation is for '{name}'"]
            )


def _write_places(folder: Path, name: str, address: str) -> None:
    """Write the name and the coordinator's address to ``node.yaml``; keep what else is there."""
    path = folder / "node.yaml"
    known = dict(read_yaml(path) or {}) if path.exists() else {}
    wanted = {**known, "name": name, "superlink": address}
    parse(NodeConfig, wanted, where=str(path))
    if wanted != known:
        write_atomic(path, to_yaml(wanted).encode())


def _save_coordinator(folder: Path, config: CoordinatorConfig) -> None:
    fields = config.model_dump(mode="json")
    write_atomic(folder / "coordinator.yaml", to_yaml(fields).encode())
