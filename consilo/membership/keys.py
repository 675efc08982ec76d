"""Keys and certificates: made where they are used; only public halves travel.

Private files are written with mode 0600 under a temporary name and then linked into place, so
that no moment exists in which somebody else can read one, and an existing key is never replaced.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
    load_ssh_private_key,
    load_ssh_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from consilo.errors import ConfigInvalid
from consilo.machine.files import write_atomic, write_new

LOCAL_HOSTS = ("127.0.0.1", "localhost")
VALID_DAYS = 365
CA_VALID_DAYS = 5 * 365
"""A certificate authority outlives what it signs: silos pin it."""


@dataclass(frozen=True)
class Authority:
    """The files of a federation's certificate authority and of its server.

    Args:
        ca_certificate: what silos trust; public.
        ca_key: signs renewals; private.
        server_certificate: the coordinator's; public.
        server_key: the coordinator's; private.
        expires: when the server's certificate ends.
    """

    ca_certificate: Path
    ca_key: Path
    server_certificate: Path
    server_key: Path
    expires: datetime


def write_private(path: Path, content: bytes) -> None:
    """Create ``path`` with mode 0600, whole or not at all.

    Raises:
        FileExistsError: where it exists already.
    """
    write_new(path, content)


def load_or_create_authority(
    folder: Path,
    *,
    now: datetime | None = None,
    hosts: Sequence[str] = (),
    valid_days: int = VALID_DAYS,
) -> Authority:
    """Return the authority in ``folder``, made first if there is none.

    The authority itself is never replaced here: every silo has pinned it. A server certificate that
    is missing, does not fit its key or lacks one of ``hosts`` is issued anew below it.

    Args:
        folder: gets ``ca.crt``, ``ca.key``, ``server.crt``, ``server.key``.
        now: start of validity; the present by default.
        hosts: names and addresses of the server besides 127.0.0.1 and localhost.
        valid_days: how long the server's certificate is valid.
    """
    ca_certificate, ca_key = folder / "ca.crt", folder / "ca.key"
    server_certificate, server_key = folder / "server.crt", folder / "server.key"
    start = now or datetime.now(UTC)
    if not ca_certificate.exists():
        write_new_authority(ca_certificate, ca_key, now=start)
    if not _serves(server_certificate, server_key, hosts):
        renew_server(folder, now=start, hosts=hosts, valid_days=valid_days)
    expires = certificate_expiry(server_certificate)
    return Authority(ca_certificate, ca_key, server_certificate, server_key, expires)


def write_new_authority(certificate: Path, key: Path, *, now: datetime) -> None:
    """Make a certificate authority; what a crash left half-made at ``key`` is replaced."""
    key.unlink(missing_ok=True)
    private = ec.generate_private_key(ec.SECP384R1())
    write_private(key, _private_pem(private))
    made = _authority_certificate(private, now, CA_VALID_DAYS)
    write_atomic(certificate, made.public_bytes(Encoding.PEM))


def renew_server(
    folder: Path, *, now: datetime, hosts: Sequence[str] = (), valid_days: int = VALID_DAYS
) -> datetime:
    """Give the server a new key and certificate under the same authority; return when it ends.

    Names that the present certificate holds are kept. Silos notice nothing: they trust the
    authority. A running SuperLink takes it up within a second.
    """
    certificate, key = folder / "server.crt", folder / "server.key"
    known = server_hosts(certificate) if certificate.exists() else LOCAL_HOSTS
    names = list(dict.fromkeys([*LOCAL_HOSTS, *known, *hosts]))
    authority, authority_key = load_authority(folder)
    private = ec.generate_private_key(ec.SECP384R1())
    made = _server_certificate(private, authority_key, authority, names, now, valid_days)
    write_atomic(key, _private_pem(private), mode=0o600)
    write_atomic(certificate, made.public_bytes(Encoding.PEM))
    return made.not_valid_after_utc


def load_authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return the certificate and the key of the authority in ``folder``."""
    certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    key = load_pem_private_key((folder / "ca.key").read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigInvalid(str(folder / "ca.key"), ["expected an ECDSA private key in PEM"])
    return certificate, key


def server_hosts(certificate: Path) -> tuple[str, ...]:
    """Return the names and addresses that a server's certificate is for."""
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return tuple(str(each.value) for each in names)


def issue_member_certificate(
    folder: Path, name: str, public_key: bytes, *, now: datetime, valid_days: int = VALID_DAYS
) -> x509.Certificate:
    """Certify that a key is the silo's: X.509 by the authority in ``folder``, CN = the name.

    Args:
        folder: the authority's.
        name: the silo's.
        public_key: of the silo's node, ECDSA in the OpenSSH format.
        now: start of validity.
        valid_days: how long; never longer than the authority's own certificate.
    """
    authority, authority_key = load_authority(folder)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    end = min(now + timedelta(days=valid_days), authority.not_valid_after_utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.subject)
        .public_key(load_silo_public_key(public_key))
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(_key_usage(authority=False), critical=True)
        .sign(authority_key, hashes.SHA384())
    )


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate in DER, in hexadecimal."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def key_fingerprint(public_key: bytes) -> str:
    """Return the SHA-256 of an OpenSSH ECDSA public key's DER form, in hexadecimal.

    Raises:
        ConfigInvalid: where it is not an ECDSA public key.
    """
    key = load_silo_public_key(public_key)
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _serves(certificate: Path, key: Path, hosts: Sequence[str]) -> bool:
    """Return whether a server's certificate is there, fits its key and names ``hosts``."""
    if not (certificate.exists() and key.exists()):
        return False
    shown = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    private = load_pem_private_key(key.read_bytes(), None)
    return shown == private.public_key() and set(hosts) <= set(server_hosts(certificate))


def certificate_expiry(path: Path) -> datetime:
    """Return when a certificate ends."""
    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc


def load_or_create_silo_key(path: Path) -> bytes:
    """Return the public half of the silo's key in ``path``, made first if there is none.

    The private half is ECDSA P-384 in the OpenSSH format; ``path`` with ``.pub`` gets the public
    half in the OpenSSH format, which an operator may send to the coordinator.
    """
    if not path.exists():
        private = ec.generate_private_key(ec.SECP384R1())
        write_private(
            path, private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        )
    key = load_silo_key(path)
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n"
    public_path = path.with_name(path.name + ".pub")
    if not public_path.exists() or public_path.read_bytes() != public:
        write_atomic(public_path, public)
    return public


def load_silo_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the silo's private key in ``path``.

    Raises:
        ConfigInvalid: where there is none.
    """
    try:
        key = load_ssh_private_key(path.read_bytes(), None)
    except FileNotFoundError:
        raise ConfigInvalid(str(path), ["the private key does not exist"]) from None
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigInvalid(str(path), ["expected an ECDSA private key in the OpenSSH format"])
    return key


def public_key_pem(public: bytes) -> bytes:
    """Return an OpenSSH public key as PEM (SubjectPublicKeyInfo), the form Flower keeps.

    Raises:
        ConfigInvalid: where it is not an ECDSA public key.
    """
    key = load_silo_public_key(public)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def load_silo_public_key(public: bytes) -> ec.EllipticCurvePublicKey:
    """Return an OpenSSH public key.

    Raises:
        ConfigInvalid: where it is not an ECDSA P-384 public key.
    """
    try:
        key = load_ssh_public_key(public)
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ConfigInvalid(
            "public key", ["expected an ECDSA public key (P-384) in the OpenSSH format"]
        )
    return key


def load_or_create_signing_key(path: Path) -> ed25519.Ed25519PrivateKey:
    """Return the Ed25519 key in ``path`` that signs run records, made first if there is none.

    ``path`` with ``.pub`` gets the public half as PEM: what an auditor verifies with.
    """
    if not path.exists():
        write_private(path, _private_pem(ed25519.Ed25519PrivateKey.generate()))
    key = load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ConfigInvalid(str(path), ["expected an Ed25519 private key in PEM"])
    public_path = path.with_name(path.name + ".pub")
    public = public_pem(key)
    if not public_path.exists() or public_path.read_bytes() != public:
        write_atomic(public_path, public)
    return key


def public_pem(key: ed25519.Ed25519PrivateKey) -> bytes:
    """Return the public half of a signing key as PEM."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def public_key_hex(path: Path) -> str:
    """Return the Ed25519 public key of a PEM file, raw, in hexadecimal.

    Raises:
        ConfigInvalid: where it is none.
    """
    key = load_pem_public_key(path.read_bytes())
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise ConfigInvalid(str(path), ["expected an Ed25519 public key in PEM"])
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def _private_pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _authority_certificate(
    key: ec.EllipticCurvePrivateKey, start: datetime, valid_days: int
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Consilo federation CA")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        _certificate(name, name, key.public_key(), start, valid_days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(_key_usage(authority=True), critical=True)
        .sign(key, hashes.SHA384())
    )


def _server_certificate(
    key: ec.EllipticCurvePrivateKey,
    authority_key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    hosts: Sequence[str],
    start: datetime,
    valid_days: int,
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Consilo coordinator")])
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    return (
        _certificate(name, authority.subject, key.public_key(), start, valid_days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general_name(h) for h in hosts]), False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(_key_usage(authority=False), critical=True)
        .sign(authority_key, hashes.SHA384())
    )


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    start: datetime,
    valid_days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - timedelta(minutes=5))  # clocks of silos may lag a little
        .not_valid_after(start + timedelta(days=valid_days))
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
