"""Which code may run on a silo's rows: ``bundles.yaml`` in the silo's directory.

```
approved: [SHA-256, …]     the operator's word, bundle by bundle; the newest last
rejected: [SHA-256, …]
rules:                     the operator's word for what is alike
  - {signer: KEY, package: my_model, disclosures: [metric, statistic, update]}
signers: any | others      others: code is signed by a key that is none of the coordinator's
```
A bundle lies in ``bundles/packed/`` as it came, and is never unpacked: silos compile its text from
there once it is approved, and it is deleted when it is rejected.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from consilo.config import Config, parse, read_yaml
from consilo.errors import BundleNotApproved, ConfigInvalid, ConsiloError, Refused
from consilo.kernel.verbs import Disclosure
from consilo.machine.files import make_directory, write_atomic
from consilo.machine.locks import file_lock
from consilo.printable import printable
from consilo.yaml_text import to_yaml
from silos.gate.audit import audit_log

if TYPE_CHECKING:
    from consilo.transports.flower.bundle import Label

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST_KEPT = 32
_MOST_REASON = 500


class BundleRule(Config):
    """Bundles that need no approval of their own.

    Args:
        signer: raw Ed25519 public key in hexadecimal.
        package: the bundle's package.
        disclosures: classes of what may leave, at most.
    """

    signer: str = Field(pattern=r"^[0-9a-f]{64}$")
    package: str = Field(min_length=1)
    disclosures: frozenset[Disclosure]

    def admits(self, label: Label) -> bool:
        """Return whether a bundle, whose label is verified, is one of these."""
        same = (label.signer, label.package) == (self.signer, self.package)
        return same and set(label.disclosures) <= self.disclosures


class Decisions(Config):
    """``bundles.yaml``.

    Args:
        approved: SHA-256 of bundles that may run, the newest last.
        rejected: SHA-256 of bundles that may not, whatever a rule says.
        rules: what needs no approval of its own.
        signers: ``others`` where whoever writes code and whoever runs the coordinator are different
            people: a bundle with modules is then signed, by a key that ``coordinator.yaml`` has
            not; ``any`` otherwise.
    """

    approved: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()
    rules: tuple[BundleRule, ...] = ()
    signers: Literal["any", "others"] = "any"

    @field_validator("approved", "rejected")
    @classmethod
    def _are_digests(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [entry for entry in value if not _DIGEST.fullmatch(entry)]
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: expected 64 hexadecimal digits in lower case")
        return value

    @classmethod
    def load(cls, folder: Path) -> Decisions:
        """Return what the operator of the silo in ``folder`` has decided; nothing without a file.

        Raises:
            ConfigInvalid: where ``bundles.yaml`` is not valid.
        """
        path = folder / "bundles.yaml"
        return parse(cls, read_yaml(path), where=str(path)) if path.exists() else cls()


@dataclass(frozen=True)
class Bundle:
    """One bundle, as `consilo silo bundles` lists it.

    Args:
        digest: its SHA-256.
        state: pending, approved or rejected.
        label: what it says of itself; None where it has no modules, or has gone.
        size: in bytes; 0 where only its hash is known.
        seen: when it came, ISO 8601; empty where that is not known.
        fault: why it can never be approved; empty where it can.
    """

    digest: str
    state: str
    label: Label | None = None
    size: int = 0
    seen: str = ""
    fault: str = ""


def require_approved(folder: Path, digest: str, fetch: Callable[[], bytes]) -> Path:
    """Return the packed bundle if it may run in the silo in ``folder``; note and keep it else.

    Args:
        folder: the silo's.
        digest: SHA-256 of the bundle.
        fetch: gets its bytes, whose hash is ``digest``; called where they are not here.

    Raises:
        BundleNotApproved: where the operator has not approved it, nor a rule of theirs, or it is no
            bundle, whoever has approved it.
        ConfigInvalid: where ``bundles.yaml`` is not valid.
    """
    decided = Decisions.load(folder)
    if digest in decided.rejected:
        raise BundleNotApproved(f"the silo's operator has rejected bundle {digest}")
    kept = _Kept(folder)
    bundle = kept.take(digest, fetch)
    try:
        label = label_of(bundle)
        if decided.signers == "others" and label is not None:
            _refuse_the_coordinators(folder, label)
    except Refused as cause:
        _note(folder, "refused", digest, reason=str(cause))
        raise BundleNotApproved(f"bundle {digest}: {cause}") from None
    if digest in decided.approved:
        return kept.path(digest)
    if label is not None and any(rule.admits(label) for rule in decided.rules):
        _approve(folder, digest, "rule")
        return kept.path(digest)
    _note(folder, "refused", digest, reason="not approved")
    raise BundleNotApproved(
        f"the silo's operator has not approved bundle {digest}; it waits there for a decision "
        "(consilo silo bundles)"
    )


def _refuse_the_coordinators(folder: Path, label: Label) -> None:
    """Raise `Refused` where code is not signed by somebody else than the coordinator."""
    path = folder / "coordinator.yaml"
    pinned = (read_yaml(path) or {}).get("signing_keys", ()) if path.exists() else ()
    if not label.signer or label.signer in pinned:
        who = "the coordinator itself" if label.signer else "nobody"
        raise Refused(
            f"it is signed by {who}; this silo runs code that somebody else has signed "
            "(signers: others in bundles.yaml)",
            code="bundle",
        )


def approve(folder: Path, digest: str, *, always: bool = False, reason: str = "") -> bool:
    """Let a bundle run; return whether that is new.

    Args:
        folder: the silo's.
        digest: SHA-256 of the bundle.
        always: also whatever its signer signs for the same package with the same disclosures; one
            without modules has no signer, and is the same for every run of a release anyway.
        reason: what people say of it, for the audit log.

    Raises:
        ConfigInvalid: where ``digest`` is no SHA-256, or ``always`` has no signer to go by.
    """
    if not _DIGEST.fullmatch(digest):
        raise ConfigInvalid(digest, ["a bundle's hash has 64 hexadecimal digits in lower case"])
    if always:
        content = _Kept(folder).read(digest)
        if content is None:
            raise ConfigInvalid(
                digest,
                [
                    "its content is not here, so nobody can say who signed it; approve it without "
                    "--always, or once it waits here (consilo silo bundles)"
                ],
            )
        label = label_of(content)
        if label is None:
            # Only the frame: it is the same in every run of a release, which this approves.
            return _approve(folder, digest, "operator", reason)
        if not label.signer:
            raise ConfigInvalid(
                digest,
                [
                    "nobody has signed it, and a standing rule is about a signer; approve it "
                    "without --always, or have its author sign it (consilo job bundle --sign-key)"
                ],
            )
        rule = BundleRule(
            signer=label.signer,
            package=label.package,
            disclosures=frozenset(Disclosure(each) for each in label.disclosures),
        )
        with _changing(folder) as decided:
            if rule not in decided.rules:
                _save(folder, decided.model_copy(update={"rules": (*decided.rules, rule)}))
                _note(folder, "rule", digest, signer=rule.signer, package=rule.package)
    return _approve(folder, digest, "operator", reason)


def reject(folder: Path, digest: str, *, reason: str = "") -> bool:
    """Let a bundle run no more, and delete it here; return whether that is new.

    Args:
        folder: the silo's.
        digest: SHA-256 of the bundle.
        reason: what people say of it, for the audit log.

    Raises:
        ConfigInvalid: where ``digest`` is no SHA-256.
    """
    if not _DIGEST.fullmatch(digest):
        raise ConfigInvalid(digest, ["a bundle's hash has 64 hexadecimal digits in lower case"])
    with _changing(folder) as decided:
        if digest in decided.rejected:
            return False
        approved = tuple(each for each in decided.approved if each != digest)
        changes = {"approved": approved, "rejected": (*decided.rejected, digest)}
        _save(folder, decided.model_copy(update=changes))
        _Kept(folder).delete(digest)
    _note(folder, "rejected", digest, **_because(reason))
    return True


def bundles(folder: Path) -> list[Bundle]:
    """Return every bundle that the silo in ``folder`` knows of; those that wait come first."""
    decided, kept = Decisions.load(folder), _Kept(folder)
    found: list[Bundle] = []
    for digest in [*kept.digests(), *decided.approved, *decided.rejected]:
        if any(each.digest == digest for each in found):
            continue
        known = digest in decided.approved or digest in decided.rejected
        state = "pending" if not known else "approved" if digest in decided.approved else "rejected"
        found.append(kept.describe(digest, state))
    return sorted(found, key=lambda each: each.state != "pending")


def resolve(folder: Path, prefix: str) -> str:
    """Return the one known bundle whose hash begins with ``prefix``, or ``prefix`` if it is whole.

    Raises:
        ConfigInvalid: where there is none, or more than one.
    """
    if _DIGEST.fullmatch(prefix):
        return prefix
    found = [each.digest for each in bundles(folder) if each.digest.startswith(prefix)]
    if len(found) != 1:
        count = "no bundle" if not found else f"{len(found)} bundles"
        whole = "a whole one has 64 hexadecimal digits in lower case"
        raise ConfigInvalid(prefix, [f"{count} here with a hash that begins so; {whole}"])
    return found[0]


def kept_bundle(folder: Path, digest: str) -> bytes | None:
    """Return a bundle's content as it came; None where it is not here, or was changed since."""
    return _Kept(folder).read(digest) if _DIGEST.fullmatch(digest) else None


def declared(bundle: Path) -> tuple[frozenset[Disclosure] | None, str]:
    """Return the classes that a packed bundle declares, and who signed it.

    None and nobody for one without modules.

    Raises:
        Refused: where it is no bundle, or not the one that its name says.
    """
    content = bundle.read_bytes()
    if hashlib.sha256(content).hexdigest() != bundle.stem:
        raise Refused("the bundle in this silo is not the one that was approved", code="bundle")
    label = label_of(content)
    if label is None:
        return None, ""
    return frozenset(map(Disclosure, label.disclosures)), label.signer


def forget_unpacked(folder: Path) -> None:
    """Delete what former releases unpacked: code is compiled from the packed bundle alone."""
    for place in (folder / "bundles").glob("*"):
        if place.name != "packed" and place.is_dir():
            shutil.rmtree(place)


class _Kept:
    """Bundles as they came, packed: ``bundles/packed/HASH.zip``; approved ones stay for the diff.

    Of those that nobody has decided about the newest stay.
    """

    def __init__(self, folder: Path) -> None:
        self._silo = folder
        self._folder = folder / "bundles" / "packed"

    def path(self, digest: str) -> Path:
        return self._folder / f"{digest}.zip"

    def delete(self, digest: str) -> None:
        self.path(digest).unlink(missing_ok=True)
        # Former releases unpacked it too.
        shutil.rmtree(self._silo / "bundles" / digest, ignore_errors=True)

    def take(self, digest: str, fetch: Callable[[], bytes]) -> bytes:
        known = self.read(digest)
        if known is not None:
            return known
        content = fetch()
        if hashlib.sha256(content).hexdigest() != digest:
            raise BundleNotApproved("the bundle that arrived has another hash than announced")
        make_directory(self._folder, mode=0o700)
        write_atomic(self.path(digest), content, mode=0o600)
        approved = {*Decisions.load(self._silo).approved, digest}
        for old in [each for each in self.digests() if each not in approved][: -(_MOST_KEPT - 1)]:
            self.path(old).unlink(missing_ok=True)
        return content

    def read(self, digest: str) -> bytes | None:
        path = self.path(digest)
        content = path.read_bytes() if path.exists() else None
        # What was changed here since is not what was announced.
        return content if content and hashlib.sha256(content).hexdigest() == digest else None

    def digests(self) -> list[str]:
        files = sorted(self._folder.glob("*.zip"), key=lambda file: file.stat().st_mtime_ns)
        return [file.stem for file in files if _DIGEST.fullmatch(file.stem)]

    def describe(self, digest: str, state: str) -> Bundle:
        content = self.read(digest)
        if content is None:
            return Bundle(digest, state)
        at = (self.path(digest)).stat().st_mtime
        seen = datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
        try:
            return Bundle(digest, state, label_of(content), len(content), seen)
        except Refused as cause:
            return Bundle(digest, state, None, len(content), seen, str(cause))


def label_of(content: bytes) -> Label | None:
    """Return what a bundle says of itself; None where it has no modules.

    Raises:
        Refused: where it is no bundle.
    """
    from consilo.transports.flower.bundle import read_label

    return read_label(content)


def _approve(folder: Path, digest: str, by: str, reason: str = "") -> bool:
    with _changing(folder) as decided:
        if digest in decided.approved:
            return False
        rejected = tuple(each for each in decided.rejected if each != digest)
        changes = {"approved": (*decided.approved, digest), "rejected": rejected}
        _save(folder, decided.model_copy(update=changes))
    _note(folder, "approved", digest, by=by, **_because(reason))
    return True


def _because(reason: str) -> dict[str, str]:
    said = reason.strip()
    return {"reason": printable(said, most=_MOST_REASON)} if said else {}


@contextmanager
def _changing(folder: Path) -> Iterator[Decisions]:
    """Hold the lock under which ``bundles.yaml`` is read and written: node and operator both do."""
    with file_lock(folder / ".bundles.lock"):
        yield Decisions.load(folder)


def _save(folder: Path, decided: Decisions) -> None:
    value = decided.model_dump(mode="json")
    for rule in value["rules"]:
        rule["disclosures"] = sorted(rule["disclosures"])
    text = to_yaml({key: each for key, each in value.items() if each})
    write_atomic(folder / "bundles.yaml", text.encode(), mode=0o600)


def _note(folder: Path, decision: str, digest: str, **more: str) -> None:
    try:
        audit_log(folder).append("bundle", decision=decision, bundle=digest, **more)
    except OSError as cause:
        raise ConsiloError(f"the audit log cannot be written: {cause.strerror}") from None
