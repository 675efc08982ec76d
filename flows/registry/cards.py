"""A registered version's card: drawn from the record, attached to the version in MLflow."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.cards.content import card
from consilo.cards.document import figure
from consilo.cards.markdown import escaped
from consilo.cards.model_files import digests_in, whole
from consilo.cards.pack import HTML, RECORD, texts_of, write_pack, write_zip
from consilo.cards.quality import metrics_of
from consilo.cards.subject import Subject
from consilo.cards.told import Told
from consilo.errors import ConfigInvalid, RecordTampered
from consilo.record import run_record
from consilo.record.chain import Chain
from flows.registry import names
from flows.registry.registry import Registered

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MODEL = b'"kind":"model"'
_MOST_SHOWN = 8


@dataclass(frozen=True)
class Drawn:
    """A card, ready to be attached or written.

    Args:
        subject: what it is about.
        texts: all files of its folder but the model's own: path → content.
    """

    subject: Subject
    texts: Mapping[str, bytes]


def draw(
    home: Path,
    key: Ed25519PrivateKey,
    *,
    name: str,
    version: str,
    contract: Mapping[str, Any],
    digests: Mapping[str, str],
) -> Drawn:
    """Draw the card of a version from the coordinator's records.

    Args:
        home: the coordinator's directory.
        key: the coordinator's.
        name: the registered model's.
        version: which.
        contract: of its job, as plain JSON values.
        digests: the model's own files, path → SHA-256.

    Raises:
        ConfigInvalid: where no run's record tells of this version.
        RecordTampered: where the record does not verify, or tells of other files.
    """
    record = record_of(home, name, version)
    run_record.verify(record, key.public_key().public_bytes_raw())
    told = Told(run_record.read(record))
    recorded = told.registered.get("files")
    if recorded and recorded != whole(digests):
        raise RecordTampered(
            f"{name} version {version}: its files together have the digest "
            f"{whole(digests)[:16]}…, expected {str(recorded)[:16]}…, as in the record of run "
            f"{told.run_id}: the registry holds other bytes than the run wrote"
        )
    subject = Subject(name, version, told, contract, digests)
    return Drawn(subject, texts_of(subject, key, {RECORD: record.read_bytes()}))


def record_of(home: Path, name: str, version: str) -> Path:
    """Return the record of the run that made a version.

    Raises:
        ConfigInvalid: where there is none.
    """
    known = []
    for path in sorted(home.glob("runs/*/record.jsonl")):
        line = Chain(path).last_with(_MODEL)
        model = (line or {}).get("body", {}).get("model") or {}
        if model.get("name") == name:
            known.append(str(model["version"]))
            if known[-1] == version:
                return path
    told = f"known versions: {', '.join(known)}" if known else "no record tells of such a model"
    raise ConfigInvalid(
        f"{name} {version}",
        [f"no record in {home / 'runs'} tells of this version; {told}. A scoring or an analytics "
         "job makes no model, and so no card"],
    )  # fmt: skip


def attach(client: MlflowClient, drawn: Drawn) -> None:
    """Attach a card to its version: files of its run, a description, and a tag last.

    Args:
        client: of the tracking server.
        drawn: the card; one that was attached before is replaced.
    """
    subject = drawn.subject
    version = client.get_model_version(subject.name, subject.version)
    with tempfile.TemporaryDirectory(prefix="consilo-card-") as made:
        for path, content in drawn.texts.items():
            if path == RECORD:  # it is an artifact of the run already
                continue
            place = Path(made) / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        client.log_artifacts(version.run_id, made, names.CARD_FOLDER)
    client.update_model_version(subject.name, subject.version, description=in_short(subject))
    address = f"runs:/{version.run_id}/{names.CARD_FOLDER}/{HTML}"
    client.set_model_version_tag(subject.name, subject.version, names.TAG_CARD, address)


def attach_new(
    client: MlflowClient,
    home: Path,
    key: Ed25519PrivateKey,
    registered: Registered,
    contract: str,
) -> None:
    """Draw and attach the card of a version that a run has just registered.

    Args:
        client: of the tracking server.
        home: the coordinator's directory; the run's record is closed.
        key: the coordinator's.
        registered: the version.
        contract: of its job, as canonical JSON.
    """
    made = draw(
        home,
        key,
        name=registered.name,
        version=registered.version,
        contract=json.loads(contract),
        digests=registered.digests,
    )
    attach(client, made)


def write(
    client: MlflowClient,
    home: Path,
    key: Ed25519PrivateKey,
    *,
    name: str,
    version: str,
    out: Path | None,
) -> Drawn:
    """Draw the card of any registered version anew, attach it, and write its folder.

    Args:
        client: of the tracking server.
        home: the coordinator's directory.
        key: the coordinator's.
        name: the registered model's.
        version: which.
        out: a fresh folder, or a path that ends in ``.zip``; None writes none.
    """
    with files_of(client, name, version) as model:
        made = draw(
            home,
            key,
            name=name,
            version=version,
            contract=json.loads((model / names.CONTRACT_FILE).read_bytes()),
            digests=digests_in(model),
        )
        attach(client, made)
        if out is not None and out.suffix == ".zip":
            if out.exists():
                raise ConfigInvalid(str(out), ["there is something already; give another name"])
            with tempfile.TemporaryDirectory(prefix="consilo-card-") as folder:
                write_pack(Path(folder), made.texts, model)
                write_zip(Path(folder), out)
        elif out is not None:
            write_pack(out, made.texts, model)
    return made


@contextmanager
def files_of(client: MlflowClient, name: str, version: str) -> Iterator[Path]:
    """Yield a folder with a registered version's own files, fetched from the registry.

    Raises:
        ConfigInvalid: where the registry has no such version, or one without a job and a contract.
    """
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    from flows.registry.model_lookup import files_at

    with tempfile.TemporaryDirectory(prefix="consilo-model-") as made:
        try:
            place = mlflow.artifacts.download_artifacts(
                artifact_uri=files_at(client, name, version),
                dst_path=made,
                tracking_uri=client.tracking_uri,
            )
        except (MlflowException, OSError) as cause:
            raise ConfigInvalid(
                f"{name} {version}",
                [f"the registry does not give its files: {str(cause)[:200]}; is 'consilo up' "
                 "running, and does it have this version?"],
            ) from cause  # fmt: skip
        found = sorted(Path(place).rglob(names.CONTRACT_FILE))
        if not found:
            raise ConfigInvalid(
                f"{name} {version}",
                ["its files have no contract: a former release registered it, or somebody else "
                 "did; a card is drawn of what a run of this release registers"],
            )  # fmt: skip
        yield found[0].parent


def in_short(subject: Subject) -> str:
    """Return a version's description in the registry's pages: Markdown, a few lines."""
    told = subject.told
    shown = [
        f"{escaped(name)} {figure(value)}"
        for name, value in metrics_of(told).items()
        if "/" not in name
    ][:_MOST_SHOWN]
    figures = f"Figures over all held-out rows: {', '.join(shown)}." if shown else ""
    reason = f"What was wrong: {escaped(told.reason)}" if told.reason else ""
    where = (
        f"Card: `{names.CARD_FOLDER}/{HTML}` among the artifacts of its run. With all that proves "
        f"it: `consilo model card {subject.name} {subject.version} --out DIR`."
    )
    parts = [escaped(card(subject).lead), reason[:1500], figures, where]
    return "\n\n".join(each for each in parts if each)
