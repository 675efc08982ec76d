"""What a coordinator may try, and what the guard makes of it: refused, logged, nothing computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import clinic
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.kernel.headers import Header, Manifest, ReplyHeader, attestation
from consilo.kernel.owner import SUPERSEDED, owner_in, owner_told
from consilo.protocols.dispatch import answerer
from consilo.record.chain import verify
from consilo.wire.parcel import Parcel
from consilo.wire.payload import digest, pack, unpack
from consilo.wire.signing import public_hex
from silos.gate.partners import Partner
from silos.gate.policy import TEMPLATE
from silos.proposals import onboard
from silos.silo import Silo

KEY = Ed25519PrivateKey.generate()
SOUTH = Ed25519PrivateKey.generate()
NOW = 1_800_000_000.0


def make(path: Path, *, policy: str = TEMPLATE, **settings) -> Silo:
    path.mkdir(parents=True, exist_ok=True)
    clinic.frame(40).to_csv(path / "rows.csv", index=False)
    config = {"name": "north", "data": {"rows": {"type": "csv", "path": "rows.csv"}}}
    (path / "silo.yaml").write_text(yaml.safe_dump(config))
    (path / "policy.yaml").write_text(policy)
    onboard.confirm(path, clinic.contract(), clinic.contract().digest)
    settings = {
        "signing_keys": (public_hex(KEY),),
        "partners": {"south": Partner(signing_key=public_hex(SOUTH))},
        **settings,
    }
    silo = Silo.open(path, **settings)
    silo.gate.now = lambda: NOW
    return silo


@pytest.fixture
def silo(tmp_path: Path) -> Silo:
    return make(tmp_path / "north")


def request(verb: str = "check", *, run: str = "run", key=KEY, body=None, **changes) -> Parcel:
    """A request as an honest coordinator sends it, but for ``changes`` made before it signs."""
    job, contract = clinic.job(), clinic.contract()
    payload = {} if verb == "check" else {"params": {}, "scale": None}
    parts = {"job": job.to_json(), "contract": contract.to_json(), "payload": payload}
    body = body or pack(parts)
    manifest = Manifest.of(run, job, contract, "")
    told = {"south": attestation(SOUTH, manifest, "south")}
    header = Header(
        run,
        f"1/0/{verb}",
        digest(body),
        1,
        "north",
        "contract_check" if verb == "check" else "fedavg",
        verb,
        ("north", "south"),
        manifest,
        told,
        NOW,
        NOW + 60,
        "h" * 64,
    )
    header = replace(header, **changes)
    return Parcel((header.signed(key) if key else header).encode(), body)


def ask(silo: Silo, parcel: Parcel) -> ReplyHeader:
    reply = answerer(silo)(parcel)
    header = ReplyHeader.decode(reply.header)
    if header.wire == 1:
        return header
    assert header.is_signed_by(silo.signing_key)
    assert header.content == digest(reply.body)
    return header


def log(silo: Silo) -> list[dict]:
    return [
        {"kind": each["kind"], **each["body"]} for each in verify(silo.directory / "audit.jsonl")
    ]


def refusal(silo: Silo, parcel: Parcel) -> str:
    """The code under which a request was refused, as the log has it; nothing may have left."""
    reply = ask(silo, parcel)
    assert reply.status == "fault"
    entries = log(silo)
    refused = [each for each in entries if each.get("decision") == "refused"]
    assert refused, entries
    assert not any(each.get("status") == "ok" for each in entries)
    assert reply.attestation == ""
    return refused[-1]["code"]


def test_an_honest_request_is_answered_signed_and_logged(silo: Silo) -> None:
    parcel = request()
    header = ask(silo, parcel)
    assert header.status == "ok"
    asked, answered = log(silo)
    assert (asked["kind"], asked["decision"], asked["verb"]) == ("asked", "allowed", "check")
    assert asked["coordinator_head"] == "h" * 64
    assert answered["kind"] == "answered"
    assert answered["content"] == header.content
    assert answered["fields"]["report"]["bytes"] > 0
    assert verify(silo.directory / "audit.jsonl")[-1]["hash"] == header.head


def test_a_silo_that_answered_has_attested_to_this_run_only(silo: Silo) -> None:
    from consilo.kernel.headers import attests

    word = ask(silo, request()).attestation
    manifest = Manifest.of("run", clinic.job(), clinic.contract(), "")
    assert attests(silo.signing_key, manifest, "north", word)
    for other in (
        replace(manifest, run_id="another"),
        replace(manifest, job_digest="0" * 64),
        replace(manifest, bundle="0" * 64),
    ):
        assert not attests(silo.signing_key, other, "north", word)
    assert not attests(silo.signing_key, manifest, "south", word)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"key": None}, "signature"),
        pytest.param({"key": SOUTH}, "signature", id="another key"),
        ({"silo": "south"}, "wrong_receiver"),
        ({"cohort": ("south", "west")}, "cohort"),
        ({"cohort": ("north", "north")}, "cohort"),
        ({"expires": NOW - 1}, "expired"),
        ({"issued": NOW + 400, "expires": NOW + 500}, "clock"),
        ({"run_id": "another"}, "manifest"),
        ({"wire": 1}, "signature"),
    ],
    ids=str,
)
def test_a_request_that_is_not_what_it_must_be_is_refused(silo: Silo, changes, code) -> None:
    assert refusal(silo, request(**changes)) == code


def test_an_altered_header_is_no_longer_signed(silo: Silo) -> None:
    honest = request()
    for old, new in ((b'"round":1', b'"round":2'), (b'"south"', b'"sauth"')):
        altered = Parcel(honest.header.replace(old, new), honest.body)
        assert altered.header != honest.header
        assert refusal(silo, altered) == "signature"


def test_a_body_of_another_job_than_the_manifests_is_refused(silo: Silo) -> None:
    job = clinic.job(privacy={"epsilon": 50.0, "delta": 1e-3}).to_json()
    contract = clinic.contract().to_json()
    body = pack({"job": job, "contract": contract, "payload": {}})
    assert refusal(silo, request(body=body)) == "manifest"


def test_a_contract_other_than_the_manifests_is_refused(silo: Silo) -> None:
    narrow = clinic.contract(clinic.CONTRACT.replace("max: 120", "max: 61")).to_json()
    body = pack({"job": clinic.job().to_json(), "contract": narrow, "payload": {}})
    assert refusal(silo, request(body=body)) == "manifest"


@pytest.mark.parametrize("case", ["none", "own", "forged", "another run", "unknown", "copied"])
def test_a_cohort_that_is_not_attested_to_by_pinned_keys_is_none(silo: Silo, case: str) -> None:
    manifest = Manifest.of("run", clinic.job(), clinic.contract(), "")
    word = attestation(SOUTH, manifest, "south")
    attestations = {
        "none": {},
        "own": {"north": attestation(silo.letters.key, manifest, "north")},
        "forged": {"south": attestation(KEY, manifest, "south")},
        "another run": {"south": attestation(SOUTH, replace(manifest, run_id="old"), "south")},
        "unknown": {"west": attestation(KEY, manifest, "west")},
        "copied": {"west": word},
    }[case]
    cohort = ("north", "south", "west")
    assert refusal(silo, request("train", cohort=cohort, attestations=attestations)) == "cohort"


def test_a_key_that_is_pinned_under_two_names_is_one_member(tmp_path: Path) -> None:
    policy = TEMPLATE.replace("min_cohort: 2", "min_cohort: 3")
    west = Ed25519PrivateKey.generate()
    for number, key in enumerate((SOUTH, west)):
        pinned = {"south": public_hex(SOUTH), "west": public_hex(key)}
        partners = {name: Partner(signing_key=each) for name, each in pinned.items()}
        silo = make(tmp_path / str(number), policy=policy, partners=partners)
        manifest = Manifest.of("run", clinic.job(), clinic.contract(), "")
        told = {
            name: attestation(each, manifest, name)
            for name, each in (("south", SOUTH), ("west", key))
        }
        cohort = ("north", "south", "west")
        ask(silo, request("train", cohort=cohort, attestations=told))
        decided = log(silo)[0]
        assert decided["decision"] == ("allowed" if number else "refused")
        assert number or decided["code"] == "cohort"


def test_only_confirmed_partners_count_where_the_policy_says_so(tmp_path: Path) -> None:
    policy = TEMPLATE.replace("partners: pinned", "partners: confirmed")
    assert refusal(make(tmp_path / "a", policy=policy), request("train")) == "cohort"
    known = {"south": Partner(signing_key=public_hex(SOUTH), confirmed=True)}
    silo = make(tmp_path / "b", policy=policy, partners=known)
    ask(silo, request("train"))
    assert log(silo)[0]["decision"] == "allowed"


def test_a_silo_that_joined_nobody_answers_nobody(tmp_path: Path) -> None:
    assert refusal(make(tmp_path / "north", signing_keys=None), request()) == "signature"


def test_an_old_request_gets_its_old_answer_while_the_run_lasts_and_none_after(silo: Silo) -> None:
    parcel = request()
    first = answerer(silo)(parcel)
    assert answerer(silo)(parcel) == first
    assert log(silo)[-1]["decision"] == "repeated"
    silo.gate.conclude("run")
    reply = ask(silo, parcel)
    assert (reply.status, log(silo)[-2]["code"]) == ("fault", "replayed")


def test_a_bundle_that_is_not_the_runs_own_is_refused(tmp_path: Path) -> None:
    from consilo.transports.flower.bundle import build_bundle, keep_bundle

    silo = make(tmp_path / "north", bundle=keep_bundle(build_bundle(), tmp_path))
    assert refusal(silo, request()) == "bundle_not_approved"


@pytest.mark.parametrize("declared", [["metric"], ["metric", "statistic"]])
def test_a_bundle_discloses_no_more_than_its_label_says(tmp_path: Path, declared) -> None:
    from consilo.kernel.verbs import Disclosure
    from consilo.transports.flower.bundle import build_bundle, keep_bundle

    classes = [Disclosure(each) for each in declared]
    bundle = keep_bundle(build_bundle({"net.py": b""}, disclosures=classes), tmp_path)
    silo = make(tmp_path / "north", bundle=bundle)
    manifest = Manifest.of("run", clinic.job(), clinic.contract(), bundle.stem)
    parcel = request(manifest=manifest)
    if "statistic" in declared:
        assert ask(silo, parcel).status == "ok"
    else:
        assert refusal(silo, parcel) == "disclosure"


def test_the_policys_rate_counts_steps_not_repeats(tmp_path: Path) -> None:
    silo = make(tmp_path / "north", policy=TEMPLATE.replace("# per_hour: 500", "per_hour: 2"))
    for scope in ("a", "a", "b"):
        assert ask(silo, request(scope=scope)).status == "ok"
    assert ask(silo, request(scope="c")).status == "fault"
    assert log(silo)[-2]["code"] == "rate"


def test_a_former_coordinator_is_answered_where_the_policy_says_so(tmp_path: Path) -> None:
    silo = make(tmp_path / "north", policy=TEMPLATE + "\nallow_unsigned: yes\n")
    reply = answerer(silo)(request(wire=1, manifest=Manifest(), attestations={}))
    header = ReplyHeader.decode(reply.header)
    assert (header.wire, header.status, header.signature) == (1, "ok", "")
    assert unpack(reply.body)["report"]["verdict"] == "passed"


def test_no_value_of_a_row_is_in_the_log(tmp_path: Path) -> None:
    rows = clinic.frame(40, missing=0).assign(age=77.123457)
    path = tmp_path / "north"
    silo = make(path)
    rows.to_csv(path / "rows.csv", index=False)
    assert ask(silo, request()).status == "ok"
    assert "77.12" not in (path / "audit.jsonl").read_text()


def test_an_earlier_owner_of_a_run_gets_no_step_answered(silo: Silo) -> None:
    """A stopped process may wake beside its successor; its messages may have been under way."""

    def asked_by(owner: int, scope: str) -> ReplyHeader:
        told = {**attestations, **owner_told(owner)}
        return ask(silo, request(attestations=told, scope=scope))

    manifest = Manifest.of("run", clinic.job(), clinic.contract(), "")
    attestations = {"south": attestation(SOUTH, manifest, "south")}
    assert asked_by(0, "1/0/check").status == "ok"
    assert asked_by(1_000, "1/0/check").status == "ok"
    # What it was told before counts no more, nor does what it asks newly.
    for scope in ("1/0/check", "2/0/check"):
        for owner in (0, 999):
            reply = asked_by(owner, scope)
            assert (reply.status, log(silo)[-2]["code"]) == ("fault", SUPERSEDED)
    assert asked_by(1_000, "2/0/check").status == "ok"
    assert asked_by(1_001, "2/0/check").status == "ok"
    assert asked_by(1_000, "2/0/check").status == "fault"
    assert ask(silo, request(run="another")).status == "ok"


@pytest.mark.parametrize("number", ["", "-1", "1e9", "٣", "9" * 40, "0x10"])
def test_what_is_no_number_of_an_owner_is_the_first_ones(silo: Silo, number: str) -> None:
    assert owner_in({"^": number}) == 0
    silo.gate.store.note_owner("run", 5, at=NOW)
    assert ask(silo, request(attestations={"^": number})).status == "fault"
    assert log(silo)[-2]["code"] == SUPERSEDED


def test_numbers_of_owners_do_not_grow_without_end(silo: Silo) -> None:
    for run in range(5):
        silo.gate.store.note_owner(f"run-{run}", 7, at=NOW)
    silo.gate.store.note_owner("late", 7, at=NOW + 31 * 86_400)
    assert [silo.gate.store.run(name)[1] for name in ("run-0", "late")] == [0, 7]
