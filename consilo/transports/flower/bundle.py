"""The bundle: the code that silos execute, identified by its SHA-256.

A bundle is a Flower App Bundle (a zip) with a fixed small frame and the job's own modules. The job
itself is not in it (it travels in messages), so that every run of one Consilo version without
modules of its own has the same hash, which an operator approves once. Equal content gives equal
bytes: names sorted, times fixed, no compression.

It is source text only: Python modules, the label that names each with its hash, and the frame, byte
for byte that of a release which this one knows. Anything else in it makes it no bundle. It is never
unpacked: silos compile what they run from the very file whose hash was approved
(`consilo.learners.sources`).
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import tokenize
import unicodedata
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
from consilo.learners.sources import refuse_shadow
from consilo.machine.files import write_atomic
from consilo.wire.json_text import each_once
from consilo.wire.payload import canonical_json
from consilo.wire.signing import is_signed, public_hex, sign

MAX_BUNDLE_BYTES = 10 * 1024 * 1024  # Flower's own limit
MAX_UNPACKED_BYTES = 50 * 1024 * 1024
MAX_ENTRIES = 1000
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
_FRAME_FILES = ("pyproject.toml", "consilo_bundle.py")
_FRAMES = frozenset({"47aca163ec959e9c55c1310a878041d183dd3b12aa81993a1de05eb221213000"})
"""SHA-256 of the frames of this release and of those before it that go together with it.

Of both files in the order of `_FRAME_FILES`, the version in the first one replaced by ``{version}``
(it says which release the coordinator has, and nothing reads it); a new frame is added here one
release before coordinators send it, so that version N of a silo answers version N + 1.
"""
_VERSION = re.compile(rb'^version = "([0-9]+(?:\.[0-9A-Za-z]+)*)"$', re.MULTILINE)
_HIDING = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    # What is shown as nothing: some of it may stand in a name, which then looks like another.
    r"\xad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufffb"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_WORD, _PREFIX = re.compile(r"\w+"), re.compile("[A-Za-z]*")
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
        tops = sorted({_top(name) for name in modules})
        files = {name: hashlib.sha256(modules[name]).hexdigest() for name in sorted(modules)}
        classes = tuple(sorted(str(each) for each in disclosures))
        if signer is None:
            return cls("+".join(tops), files, classes)
        bare = cls("+".join(tops), files, classes, public_hex(signer))
        return replace(bare, signature=sign(signer, "bundle", bare._said()))

    def _said(self) -> list[Any]:
        return [self.package, self.files, self.disclosures, self.signer]

    def _is_well_typed(self) -> bool:
        """Return whether what was read is of the types that are declared; anybody may write it."""
        texts = (self.package, self.signer, self.signature, *self.disclosures)
        return isinstance(self.files, dict) and all(isinstance(each, str) for each in texts)

    @classmethod
    def read(cls, archive: zipfile.ZipFile) -> Self | None:
        """Return the label in an opened bundle; None for one without modules.

        Raises:
            Refused: where it is not valid, or not that of the modules beside it.
        """
        names = {entry.filename for entry in archive.infolist()}
        modules = names - {_LABEL, *_FRAME_FILES}
        _check_frame(archive)
        if _LABEL not in names and not modules:
            return None
        try:
            value = json.loads(archive.read(_LABEL), object_pairs_hook=each_once)
            label = cls(**{**value, "disclosures": tuple(value["disclosures"])})
            if not label._is_well_typed():
                raise TypeError
            texts = {name: archive.read(name) for name in modules}
            found = {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}
            tops = "+".join(sorted({_top(name) for name in modules}))
        except (KeyError, TypeError, ValueError, RecursionError):
            raise Refused("the bundle has no valid label", code="bundle") from None
        hidden = sorted(name for name, text in texts.items() if not _is_plain_text(text))
        if hidden:
            raise Refused(
                f"the bundle's {hidden[0]} is not plain text in UTF-8: whoever looks at it would "
                "not see what runs",
                code="bundle",
            )
        if not modules or label.package != tops:
            raise Refused("the bundle's label does not name its top modules", code="bundle")
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
        if name in content or not _is_module(name):
            raise JobInvalid("modules", [f"{name}: cannot be a module of the bundle"])
        if not _is_plain_text(data):
            raise JobInvalid("modules", [f"{name}: is not plain text in UTF-8"])
        refuse_shadow(_top(name), lambda why: JobInvalid("modules", [why]))
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
            if (
                len(entries) > MAX_ENTRIES
                or sum(entry.file_size for entry in entries) > MAX_UNPACKED_BYTES
            ):
                raise Refused("the bundle is too large when unpacked", code="bundle")
            for entry in entries:
                _check_entry(entry)
            plain = [entry.filename.casefold() for entry in entries]
            if len(set(plain)) < len(plain):
                raise Refused("the bundle has two entries of one name", code="bundle")
            yield archive
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, zlib.error):
        raise Refused("the bundle is not a zip file", code="bundle") from None


def _check_entry(entry: zipfile.ZipInfo) -> None:
    """Raise `Refused` unless an entry is a plain text file that a bundle may hold."""
    name = entry.filename
    shown = repr(name[:80])
    kind = stat.S_IFMT(entry.external_attr >> 16)
    # What a zip file says twice must be said alike, or two readers see two bundles.
    if entry.is_dir() or kind not in (0, stat.S_IFREG) or entry.orig_filename != name:
        raise Refused(f"the bundle has an entry that is no plain file: {shown}", code="bundle")
    if name != _LABEL and name not in _FRAME_FILES:
        if not _is_module(name):
            raise Refused(
                f"the bundle holds {shown}, which is outside of what a bundle may hold: Python "
                "source (.py) in folders whose names are identifiers",
                code="bundle",
            )
        refuse_shadow(_top(name), lambda why: Refused(f"the bundle: {why}", code="bundle"))


def _check_frame(archive: zipfile.ZipFile) -> None:
    try:
        project, code = (archive.read(name) for name in _FRAME_FILES)
    except KeyError:
        raise Refused("the bundle has not the frame of a Consilo bundle", code="bundle") from None
    if _frame_of(project, code) not in _FRAMES:
        raise Refused(
            "the bundle's frame (pyproject.toml, consilo_bundle.py) is not that of a release of "
            "Consilo that this one knows",
            code="bundle",
        )


def _frame_of(project: bytes, code: bytes) -> str:
    plain = _VERSION.sub(b'version = "{version}"', project, count=1)
    return hashlib.sha256(len(plain).to_bytes(8, "big") + plain + code).hexdigest()


def keep_bundle(bundle: bytes, folder: Path) -> Path:
    """Write a bundle as it is to ``folder / HASH.zip``; return that path.

    Raises:
        Refused: where it is not one.
    """
    read_label(bundle)
    path = folder / f"{bundle_hash(bundle)}.zip"
    if not path.is_file() or path.read_bytes() != bundle:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, bundle, mode=0o600)
    return path


def _top(name: str) -> str:
    return PurePosixPath(name).parts[0].removesuffix(".py")


def _is_plain_text(content: bytes) -> bool:
    """Return whether a text reads as it runs: UTF-8, nothing that hides or reorders what is shown.

    Controls but tab and line end are out, those of bidirectional text (CVE-2021-42574), what is
    shown as nothing, and names that Python reads as others (PEP 3131: NFKC), as one of letterlike
    signs that runs as ``eval``.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    if _HIDING.search(text.replace("\r\n", "\n")) is not None:
        return False
    return text.isascii() or all(map(_reads_as_it_is, _names(text)))


def _names(text: str) -> Iterator[str]:
    """Yield the names in a text; of one that is no Python, which cannot run, all words."""
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME:
                yield token.string
            elif token.type == tokenize.STRING and _is_f_string(token.string):
                yield from _WORD.findall(token.string)  # expressions may stand in it
    except (tokenize.TokenError, SyntaxError):
        yield from _WORD.findall(text)


def _is_f_string(literal: str) -> bool:
    prefix = _PREFIX.match(literal)
    return prefix is not None and "f" in prefix[0].lower()


def _reads_as_it_is(name: str) -> bool:
    return unicodedata.normalize("NFKC", name) == name


def _is_module(name: str) -> bool:
    parts = name.removesuffix(".py").split("/")
    return name.endswith(".py") and all(part.isascii() and part.isidentifier() for part in parts)
