"""The bundle: the code that silos execute, identified by its SHA-256.

A bundle is a Flower App Bundle (a zip) with a fixed small frame and the job's own modules. The job
itself is not in it (it travels in messages), so that every run of one Consilo version without
modules of its own has the same hash, which an operator approves once. Equal content gives equal
bytes: names sorted, times fixed, no compression.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.errors import JobInvalid, Refused
from consilo.kernel.verbs import Disclosure
from consilo.wire.payload import canonical_json
from consilo.wire.signing import is_signed, public_hex, sign

MAX_BUNDLE_BYTES = 10 * 1024 * 1024  # Flower's own limit
MAX_UNPACKED_BYTES = 50 * 1024 * 1024
_EPOCH = (1980, 1, 1, 0, 0, 0)

_PYPROJECT = """\
[project]
name = "consilo-bundle"
version = "{version}"
description = "What a Consilo run asks silos to execute"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "consilo"

[tool.flwr.app.components]
serverapp = "consilo_bundle:server"
clientapp = "consilo_bundle:client"

[tool.flwr.app.config]
"""
_FRAME = '''\
"""This bundle runs in a Consilo node, which imports only the job's own modules from it."""

client = server = None
'''


_LABEL = "BUNDLE.json"


@dataclass(frozen=True)
class Label:
    """What a bundle with modules says of itself, in its file ``BUNDLE.json``.

    Args:
        package: names of its top modules, joined by ``+``.
        files: path → SHA-256 of every module.
        disclosures: classes that its code may let leave; the silo's guard holds it to them.
        signer: the raw Ed25519 public key of who signed it in hexadecimal; empty where nobody did.
        signature: over all the rest.
    """

    package: str
    files: Mapping[str, str]
    disclosures: tuple[str, ...]
    signer: str = ""
    signature: str = ""

    @classmethod
    def of(
        cls,
        modules: Mapping[str, bytes],
        disclosures: Iterable[Disclosure],
        signer: Ed25519PrivateKey | None,
    ) -> Self:
        """Return the label of modules, signed where there is a signer."""
        tops = sorted({PurePosixPath(name).parts[0].removesuffix(".py") for name in modules})
        files = {name: hashlib.sha256(modules[name]).hexdigest() for name in sorted(modules)}
        classes = tuple(sorted(str(each) for each in disclosures))
        if signer is None:
            return cls("+".join(tops), files, classes)
        bare = cls("+".join(tops), files, classes, public_hex(signer))
        return replace(bare, signature=sign(signer, "bundle", bare._said()))

    def _said(self) -> list[Any]:
        return [self.package, self.files, self.disclosures, self.signer]

    @classmethod
    def read(cls, archive: zipfile.ZipFile) -> Self | None:
        """Return the label in an opened bundle; None for one without modules.

        Raises:
            Refused: where it is not valid, or not that of the modules beside it.
        """
        names = {entry.filename for entry in archive.infolist()}
        modules = names - {_LABEL, "pyproject.toml", "consilo_bundle.py"}
        if _LABEL not in names and not modules:
            return None
        try:
            value = json.loads(archive.read(_LABEL))
            label = cls(**{**value, "disclosures": tuple(value["disclosures"])})
            found = {n: hashlib.sha256(archive.read(n)).hexdigest() for n in modules}
        except (KeyError, TypeError, ValueError, RecursionError):
            raise Refused("the bundle has no valid label", code="bundle") from None
        if found != label.files:
            raise Refused("the bundle's modules are not those that its label names", code="bundle")
        unknown = set(label.disclosures) - set(Disclosure)
        signed = not label.signer or is_signed(
            label.signer, "bundle", label._said(), label.signature
        )
        if unknown or not signed:
            raise Refused("the bundle's label is not signed by its signer", code="bundle")
        return label


def build_bundle(
    modules: Mapping[str, bytes] | None = None,
    *,
    version: str | None = None,
    disclosures: Iterable[Disclosure] = (),
    signer: Ed25519PrivateKey | None = None,
) -> bytes:
    """Return a bundle with the given modules.

    Args:
        modules: path inside the bundle (``model.py``, ``package/model.py``) → content.
        version: of Consilo; the installed one by default.
        disclosures: classes that the modules may let leave a silo.
        signer: signs the label of a bundle with modules, so that a silo may approve by signer.

    Raises:
        JobInvalid: for a path that would leave the bundle or a bundle above 10 MiB.
    """
    content = {
        "pyproject.toml": _PYPROJECT.format(
            version=version or metadata.version("consilo")
        ).encode(),
        "consilo_bundle.py": _FRAME.encode(),
    }
    for name, data in (modules or {}).items():
        if not _is_safe(name) or name in content:
            raise JobInvalid("modules", [f"{name}: cannot be a module of the bundle"])
        content[name] = data
    if modules:
        label = asdict(Label.of(modules, disclosures, signer))
        content[_LABEL] = canonical_json(label)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(content):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            archive.writestr(entry, content[name])
    bundle = target.getvalue()
    if len(bundle) > MAX_BUNDLE_BYTES:
        raise JobInvalid(
            "modules", [f"the bundle has {len(bundle)} bytes; at most {MAX_BUNDLE_BYTES} travel"]
        )
    return bundle


def read_modules(paths: Iterable[Path]) -> dict[str, bytes]:
    """Return the content of modules (files) and packages (folders), as `build_bundle` takes it.

    Raises:
        JobInvalid: where one is missing or is not Python.
    """
    found: dict[str, bytes] = {}
    findings = []
    for path in paths:
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        if not files or not all(file.is_file() and file.suffix == ".py" for file in files):
            findings.append(f"{path}: expected a Python module or a folder of modules")
            continue
        for file in files:
            found[file.relative_to(path.parent).as_posix()] = file.read_bytes()
    if findings:
        raise JobInvalid("modules", findings)
    return found


def bundle_hash(bundle: bytes) -> str:
    """Return the SHA-256 that operators approve, in hexadecimal."""
    return hashlib.sha256(bundle).hexdigest()


def read_label(bundle: bytes) -> Label | None:
    """Return what a packed bundle says of itself, without unpacking or importing it.

    Raises:
        Refused: where it is not a bundle, too large, or its label is not valid.
    """
    with _opened(bundle) as archive:
        return Label.read(archive)


@contextmanager
def _opened(bundle: bytes) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > MAX_UNPACKED_BYTES:
                raise Refused("the bundle is too large when unpacked", code="bundle")
            if not all(_is_safe(entry.filename) for entry in entries):
                raise Refused("the bundle has an entry outside of its folder", code="bundle")
            yield archive
    except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error):
        raise Refused("the bundle is not a zip file", code="bundle") from None


def unpack_bundle(bundle: bytes, folder: Path) -> Path:
    """Unpack into ``folder / hash`` unless it is there already; return that path.

    The caller has checked the hash against what the operator approved.

    Raises:
        Refused: where an entry would land outside of it, or it is too large.
    """
    target = folder / bundle_hash(bundle)
    if target.is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{target.name}.{secrets.token_hex(4)}"
    try:
        with _opened(bundle) as archive:
            Label.read(archive)
            for entry in archive.infolist():
                destination = temporary / entry.filename
                destination.parent.mkdir(parents=True, exist_ok=True)
                destination.write_bytes(archive.read(entry))
        try:
            os.rename(temporary, target)
        except OSError:
            if not target.is_dir():  # else somebody else was faster, with the same content
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _is_safe(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\\" not in name
