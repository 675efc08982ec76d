"""A card's folder, or a zip of it: which files it has, and how they are written and read.

```
model/…            the model's own files, byte for byte
record.jsonl       the record of the run that made it
card.md card.html  drawn from the record
bom.json           CycloneDX 1.6
keys/…             public keys: coordinator.pub, silos.json
statement.json     binds all of these; see `consilo.cards.statement`
```
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.cards.bom import bill
from consilo.cards.bom import text_of as bom_text
from consilo.cards.content import card
from consilo.cards.front_matter import front_matter
from consilo.cards.html import page
from consilo.cards.markdown import markdown
from consilo.cards.model_files import files_in, sha256_of
from consilo.cards.statement import sealed, statement_of
from consilo.cards.subject import Subject
from consilo.errors import ConfigInvalid, RecordTampered
from consilo.machine.files import making, write_atomic
from consilo.membership.keys import public_pem

MODEL = "model"
RECORD = "record.jsonl"
MARKDOWN = "card.md"
HTML = "card.html"
BOM = "bom.json"
STATEMENT = "statement.json"
COORDINATOR = "keys/coordinator.pub"
SILOS = "keys/silos.json"
CONTRACT = "model/contract.json"
_BLOCK_BYTES = 1 << 20
_MOST_FILES = 10_000
_MOST_TEXT_BYTES = 512 * 1024 * 1024
"""Of one file that is read whole: a record of 1,000 silos and 100 rounds has a third of it."""


def drawn(subject: Subject) -> dict[str, bytes]:
    """Return what is drawn from the record: file → content."""
    told = card(subject)
    return {
        MARKDOWN: (front_matter(subject) + markdown(told)).encode(),
        HTML: page(told).encode(),
        BOM: bom_text(bill(subject)).encode(),
    }


def texts_of(
    subject: Subject, key: Ed25519PrivateKey, more: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Return all files of a card's folder but the model's own: path → content.

    Args:
        subject: what the card is about; its ``files`` are the model's.
        key: the coordinator's.
        more: the files that the card is drawn from, such as `RECORD`: path → content.
    """
    silos = json.dumps(subject.told.signing_keys, indent=1, sort_keys=True).encode() + b"\n"
    texts = {**more, **drawn(subject), COORDINATOR: public_pem(key), SILOS: silos}
    digests = {name: sha256_of(io.BytesIO(content)) for name, content in texts.items()}
    digests |= {f"{MODEL}/{name}": each for name, each in subject.files.items()}
    return {**texts, STATEMENT: sealed(statement_of(subject, digests), key)}


def write_pack(folder: Path, texts: Mapping[str, bytes], model: Path) -> None:
    """Write a card's folder.

    Args:
        folder: where; made here, or empty.
        texts: what `texts_of` returned.
        model: the model's own files.

    Raises:
        ConfigInvalid: where the folder has something in it already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigInvalid(str(folder), ["there is something already; give a fresh directory"])
    for path in files_in(model):
        place = folder / MODEL / path.relative_to(model)
        write_atomic(place, _blocks(path), mode=0o644)
    for name, content in texts.items():  # the statement last: a folder without it is not whole
        write_atomic(folder / name, content, mode=0o644)


def write_zip(folder: Path, path: Path) -> None:
    """Write a card's folder as one zip, the same bytes for the same folder."""
    with making(path, mode=0o644) as file, zipfile.ZipFile(file, "w") as archive:
        for each in files_in(folder):
            name = zipfile.ZipInfo(each.relative_to(folder).as_posix(), (1980, 1, 1, 0, 0, 0))
            name.compress_type = zipfile.ZIP_DEFLATED
            name.external_attr = 0o644 << 16
            with each.open("rb") as source, archive.open(name, "w", force_zip64=True) as target:
                while block := source.read(_BLOCK_BYTES):
                    target.write(block)


class Pack:
    """A card's folder or zip, read; no file in it is believed yet.

    Args:
        files: path → how it is opened.
    """

    def __init__(
        self, files: Mapping[str, Path | zipfile.ZipInfo], archive: zipfile.ZipFile | None
    ):
        self._files = files
        self._archive = archive

    @property
    def names(self) -> tuple[str, ...]:
        """The files, sorted."""
        return tuple(sorted(self._files))

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def digest(self, name: str) -> str:
        """Return the SHA-256 of a file's bytes."""
        with self._open(name) as file:
            return sha256_of(file)

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            RecordTampered: where it is missing, or larger than any that is honest.
        """
        if name not in self._files:
            raise RecordTampered(f"{name}: the file is missing")
        with self._open(name) as file:
            content = file.read(_MOST_TEXT_BYTES + 1)
        if len(content) > _MOST_TEXT_BYTES:
            raise RecordTampered(f"{name}: larger than {_MOST_TEXT_BYTES} bytes")
        return content

    @contextmanager
    def _open(self, name: str) -> Iterator[IO[bytes]]:
        place = self._files[name]
        try:
            if isinstance(place, Path):
                with place.open("rb") as file:
                    yield file
            elif self._archive is not None:
                with self._archive.open(place) as member:
                    yield member
        except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as cause:
            raise RecordTampered(f"{name}: it cannot be read: {str(cause)[:200]}") from None


@contextmanager
def opened(place: Path) -> Iterator[Pack]:
    """Open a card's folder, or a zip of one.

    Raises:
        ConfigInvalid: where there is none.
        RecordTampered: where it has what no card's folder has: a link, a path out of it.
    """
    if place.is_dir():
        yield Pack(_in_folder(place), None)
        return
    if not place.is_file():
        raise ConfigInvalid(
            str(place),
            ["there is nothing; give what 'consilo model card' wrote: a folder, or its zip"],
        )
    try:
        archive = zipfile.ZipFile(place)
    except (zipfile.BadZipFile, OSError) as cause:
        raise RecordTampered(f"{place.name}: it is no zip, or a damaged one: {cause}") from None
    with archive:
        yield Pack(_in_zip(archive), archive)


def _in_folder(folder: Path) -> dict[str, Path]:
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise RecordTampered(f"{name}: a link, or no plain file; a card's folder has none")
        if path.is_file():
            found[name] = path
        if len(found) > _MOST_FILES:
            raise RecordTampered(f"more than {_MOST_FILES} files; this is no card's folder")
    return found


def _in_zip(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    for each in archive.infolist():
        name = each.filename
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or "\\" in name or name in found:
            raise RecordTampered(f"{name!r}: no path of a card's folder, or there twice")
        if not each.is_dir():
            found[name] = each
        if len(found) > _MOST_FILES:
            raise RecordTampered(f"more than {_MOST_FILES} files; this is no card's zip")
    return found


def _blocks(path: Path) -> Iterator[memoryview]:
    with path.open("rb") as source:
        while block := source.read(_BLOCK_BYTES):
            yield memoryview(block)
