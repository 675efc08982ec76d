"""Check a card's folder on a machine that has nothing but it, Consilo, and public keys.

Nothing here needs torch, Flower, Prefect, MLflow or a network: a test takes them away. Each check
says what it held against what; the first byte that differs ends its check with where it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from consilo.cards import pack as files
from consilo.cards.content import FORMAT
from consilo.cards.model_files import whole
from consilo.cards.pack import Pack, drawn, opened
from consilo.cards.statement import digests_of, unsealed
from consilo.cards.subject import Subject
from consilo.cards.told import Told
from consilo.errors import ConsiloError, RecordTampered
from consilo.membership.keys import public_key_hex
from consilo.record import run_record
from consilo.record.crosscheck import signed_replies
from consilo.wire.json_text import read_json
from consilo.wire.payload import digest

_MOST_JSON_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Check:
    """One thing that was held against another.

    Args:
        what: in words.
        passed: whether it fits.
        found: what was found: where the fault is, or what fits.
    """

    what: str
    passed: bool
    found: str

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"what": self.what, "passed": self.passed, "found": self.found}


@dataclass
class Verdict:
    """What was checked of a card's folder.

    Args:
        checks: in their order.
        notes: what could not be held against anything better, and why.
        about: model, version and run, as far as they were read.
    """

    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether all of it fits."""
        return bool(self.checks) and all(each.passed for each in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "passed": self.passed,
            **self.about,
            "checks": [each.to_json() for each in self.checks],
            "notes": self.notes,
        }

    def hold(self, what: str, check: Callable[[], str]) -> bool:
        """Make one check; its message is what it returns or, where it fails, what it raises."""
        try:
            found, passed = check(), True
        except ConsiloError as fault:
            found, passed = str(fault), False
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as cause:
            found, passed = (
                f"it is not written as Consilo writes it ({type(cause).__name__})",
                False,
            )
        self.checks.append(Check(what, passed, found))
        return passed


def verify(place: Path, keys: Sequence[Path] = ()) -> Verdict:
    """Check a card's folder, or a zip of it, and return what was held against what.

    Args:
        place: the folder or the zip.
        keys: what the checker has from elsewhere: PEM files of the coordinator's key, or folders
            with ``coordinator.pub`` and ``silos.json``. Without them the folder's own are taken,
            which whoever can change the folder could have changed too.

    Raises:
        ConfigInvalid: where there is no folder, or no key where one is said to be.
    """
    verdict = Verdict()
    try:
        with opened(place) as pack:
            _Checker(pack, _trusted(keys), verdict).run()
    except RecordTampered as fault:
        verdict.checks.append(Check("the folder can be read", False, str(fault)))
    return verdict


@dataclass(frozen=True)
class _Trusted:
    """What the checker brought: the coordinator's keys, and silo → key."""

    coordinator: tuple[str, ...] = ()
    silos: Mapping[str, str] = field(default_factory=dict)


def _trusted(keys: Sequence[Path]) -> _Trusted:
    coordinator: list[str] = []
    silos: dict[str, str] = {}
    for each in keys:
        if each.is_dir():
            coordinator.append(public_key_hex(each / "coordinator.pub"))
            if (each / "silos.json").exists():
                silos |= read_json((each / "silos.json").read_bytes(), max_bytes=_MOST_JSON_BYTES)
        else:
            coordinator.append(public_key_hex(each))
    return _Trusted(tuple(coordinator), silos)


class _Checker:
    def __init__(self, pack: Pack, trusted: _Trusted, verdict: Verdict) -> None:
        self.pack = pack
        self.trusted = trusted
        self.verdict = verdict
        self.keys: tuple[str, ...] = trusted.coordinator
        self.statement: dict[str, Any] = {}
        self.record: list[dict[str, Any]] = []
        self.subject: Subject | None = None

    def run(self) -> None:
        hold = self.verdict.hold
        hold("the coordinator's key", self._own_keys)
        hold("the statement's signature", self._signed_statement)
        hold("the files against the statement", self._files)
        whole_record = hold("the record: chain and signature", self._record)
        if not whole_record:
            return  # nothing below would say anything that can be relied on
        hold("the silos' signed answers", self._replies)
        hold("the statement against the record", self._binding)
        hold("the model's bytes against the record", self._model)
        hold("job and contract against the record", self._job_and_contract)
        hold("the card and the bill of materials against the record", self._drawn)

    def _own_keys(self) -> str:
        with self._file(files.COORDINATOR) as path:
            try:
                own = public_key_hex(path)
            except Exception as cause:  # cryptography raises of many kinds
                raise RecordTampered(
                    f"{files.COORDINATOR}: it is no Ed25519 public key in PEM "
                    f"({type(cause).__name__})"
                ) from None
        if not self.keys:
            self.keys = (own,)
            self.verdict.notes.append(
                f"the coordinator's key is the folder's own ({own[:16]}…): give --key with the key "
                "that you have from the coordinator, since who changes the folder can change it too"
            )
            return f"{own[:16]}…, from the folder itself"
        if own not in self.keys:
            raise RecordTampered(
                f"{files.COORDINATOR}: {own[:16]}…, expected {self.keys[0][:16]}…, the key that "
                "was given"
            )
        return f"{own[:16]}…, the one that was given"

    def _signed_statement(self) -> str:
        self.statement = unsealed(self.pack.read(files.STATEMENT), self.keys, files.STATEMENT)
        model = self.statement["predicate"]["model"]
        self.verdict.about = {
            "model": str(model["name"]),
            "version": str(model["version"]),
            "run": str(self.statement["predicate"]["run"]["id"]),
        }
        return "signed by the coordinator"

    def _files(self) -> str:
        if not self.statement:
            raise RecordTampered(f"{files.STATEMENT}: nothing to hold the files against")
        stated, there = digests_of(self.statement), set(self.pack.names) - {files.STATEMENT}
        faults = [f"{name}: the file is missing" for name in sorted(set(stated) - there)]
        faults += [
            f"{name}: a file that the statement does not know; delete it, and trust nothing of it"
            for name in sorted(there - set(stated))
        ]
        for name in sorted(there & set(stated)):
            found = self.pack.digest(name)
            if found != stated[name]:
                faults.append(f"{name}: SHA-256 {found[:16]}…, expected {stated[name][:16]}…")
        if faults:
            raise RecordTampered("; ".join(faults))
        return f"{len(stated)} files, each as stated"

    def _record(self) -> str:
        with self._file(files.RECORD) as path:
            closing = run_record.verify(path)
            self.record = run_record.read(path)
        if closing["public_key"] not in self.keys:
            raise RecordTampered(
                f"{files.RECORD}: signed by the key {str(closing['public_key'])[:16]}…, expected "
                f"{', '.join(f'{each[:16]}…' for each in self.keys)}"
            )
        return f"{len(self.record)} lines, closed and signed by the coordinator"

    def _replies(self) -> str:
        told = Told(self.record)
        listed = self._json(files.SILOS)
        if listed != told.signing_keys:
            raise RecordTampered(f"{files.SILOS}: other keys than the record's first line has")
        for name, key in sorted(self.trusted.silos.items()):
            if name in told.signing_keys and told.signing_keys[name] != key:
                raise RecordTampered(
                    f"{files.RECORD}, line 1: the key of silo {name} is "
                    f"{told.signing_keys[name][:16]}…, expected {key[:16]}…, the key that was given"
                )
        headers = signed_replies(self.record)
        manifests = {told.opened.get("manifest")}
        manifests |= {each.get("manifest") for each in told.all("narrowed")}
        odd = next((e for e in headers if e.status == "ok" and e.manifest not in manifests), None)
        if odd is not None:
            raise RecordTampered(
                f"{files.RECORD}: {odd.silo} signed an answer (step {odd.step_id}) for another run"
            )
        answered = {each.silo for each in headers if each.status == "ok"}
        silent = [n for n in told.trained if n in told.signing_keys and n not in answered]
        if silent:
            raise RecordTampered(
                f"{files.RECORD}: it says that {', '.join(silent)} trained, and holds no answer "
                "signed by them"
            )
        unsigned = [name for name in told.trained if name not in told.signing_keys]
        if unsigned:
            self.verdict.notes.append(
                f"{', '.join(unsigned)} signed nothing: simulated, or of a release that did not"
            )
        return f"{len(headers)} answers, signed by {len({e.silo for e in headers})} silos"

    def _binding(self) -> str:
        told = Told(self.record)
        predicate = self.statement["predicate"]
        model = predicate["model"]
        registered = told.registered
        pairs = [
            ("run", predicate["run"]["id"], told.run_id),
            ("record's head", predicate["run"]["record_head"], told.head),
            ("parameters", model["params"], told.model["params"]),
            ("job's digest", predicate["run"]["job_digest"], told.opened["job_digest"]),
            ("contract's digest", predicate["run"]["contract_digest"],
             told.opened["contract_digest"]),
        ]  # fmt: skip
        if registered:
            pairs.append(("model's name", model["name"], registered["name"]))
            pairs.append(("version", model["version"], str(registered["version"])))
        for what, stated, recorded in pairs:
            if stated != recorded:
                raise RecordTampered(
                    f"{files.STATEMENT}: {what} is {stated}, expected {recorded}, as in the record"
                )
        contract = self._json(files.CONTRACT) if files.CONTRACT in self.pack else None
        self.subject = Subject(
            name=str(model["name"]),
            version=str(model["version"]),
            told=told,
            contract=contract,
            files=self._model_digests(),
            decision=predicate["decision"],
        )
        return f"model {told.model['params'][:16]}… → record {told.head[:16]}…"

    def _model(self) -> str:
        recorded = Told(self.record).registered.get("files")
        found = self._model_digests()
        if not found:
            raise RecordTampered(f"{files.MODEL}/: there are no files of a model")
        if not recorded:
            self.verdict.notes.append(
                "the record holds no digest of the model's files (a former release wrote it): "
                "they are bound to it by the coordinator's statement alone"
            )
            return f"{len(found)} files, bound by the statement alone"
        if whole(found) != recorded:
            raise RecordTampered(
                f"{files.MODEL}/: the files together have the digest {whole(found)[:16]}…, "
                f"expected {recorded[:16]}…, as in the record's line about the model"
            )
        return f"{len(found)} files, as the record has them"

    def _job_and_contract(self) -> str:
        told = Told(self.record)
        if digest(told.opened["job"]) != told.opened["job_digest"]:
            raise RecordTampered(f"{files.RECORD}, line 1: the job does not have its digest")
        if files.CONTRACT not in self.pack:
            raise RecordTampered(f"{files.CONTRACT}: the file is missing")
        found, expected = self.pack.digest(files.CONTRACT), told.opened["contract_digest"]
        if found != expected:
            raise RecordTampered(
                f"{files.CONTRACT}: SHA-256 {found[:16]}…, expected {expected[:16]}…"
            )
        return f"job {told.opened['job_digest'][:16]}…, contract {told.opened['contract']}"

    def _drawn(self) -> str:
        if self.subject is None:
            raise RecordTampered("nothing to draw them from: the statement does not fit the record")
        made = int(self.statement["predicate"]["card_format"])
        if made != FORMAT:
            self.verdict.notes.append(
                f"the card was drawn in format {made}, this release draws {FORMAT}: it was held "
                "against the statement's digest, and not drawn anew"
            )
            return f"of format {made}: not drawn anew"
        for name, expected in drawn(self.subject).items():
            found = self.pack.read(name)
            if found != expected:
                raise RecordTampered(f"{name}, {_differs(found, expected)}")
        return "each is what the record gives, byte for byte"

    def _model_digests(self) -> dict[str, str]:
        inside = f"{files.MODEL}/"
        return {
            name.removeprefix(inside): self.pack.digest(name)
            for name in self.pack.names
            if name.startswith(inside)
        }

    def _json(self, name: str) -> Any:
        try:
            return read_json(self.pack.read(name), max_bytes=_MOST_JSON_BYTES)
        except (ValueError, RecursionError) as cause:
            raise RecordTampered(f"{name}: it is no JSON: {str(cause)[:120]}") from None

    @contextmanager
    def _file(self, name: str) -> Iterator[Path]:
        """Yield a file of the pack as one on this machine, under its own name."""
        content = self.pack.read(name)
        with TemporaryDirectory(prefix="consilo-verify-") as made:
            path = Path(made) / Path(name).name
            path.write_bytes(content)
            yield path


def _differs(found: bytes, expected: bytes) -> str:
    """Return where two texts differ first, in words."""
    at = next(
        (i for i, (one, other) in enumerate(zip(found, expected, strict=False)) if one != other),
        min(len(found), len(expected)),
    )
    line = expected[:at].count(b"\n") + 1
    return f"line {line}, byte {at + 1}: it is not what the record gives"
