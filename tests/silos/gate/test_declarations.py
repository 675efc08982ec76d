"""A silo judges a protocol by what it declares, and believes only Consilo's own classes."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import clinic
import pytest
import test_guard as guard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.kernel.headers import Header, Manifest, attestation
from consilo.kernel.protocol import STRICTEST, Protocol
from consilo.kernel.verbs import Disclosure, count, verb
from consilo.matching.columns.protocol import FeatureMatch
from consilo.protocols.names import NAMES, asked_besides, declaration_of, find_protocol, name_of
from consilo.transports.flower.bundle import build_bundle, bundle_hash, keep_bundle
from consilo.wire.parcel import Parcel
from consilo.wire.payload import digest, pack
from silos.gate.policy import TEMPLATE
from silos.silo import Silo

ROOT = Path(__file__).parents[3]
ROOMS = ("silos", "flows", "consilo/jobs", "consilo/kernel")
KNOWN = {
    "consilo/jobs/job.py": {"evaluation", "fedavg"},  # the first is a section of a job, too
    "consilo/jobs/analytics.py": {"declared_tables", "evaluation", "statistics"},
    "consilo/jobs/horizontal.py": {"fedbuff"},  # an older silo does not know it
    "flows/rehearsal/replay.py": {"contract_check", "evaluation", "statistics"},  # steps of a run
    "flows/rehearsal/survival.py": {"fedbuff"},  # the kind of a job
    "consilo/jobs/match_job.py": {"psi"},
    "consilo/jobs/scoring.py": {"vertical_score"},
    "consilo/jobs/vertical.py": {"vertical_score", "vertical_split"},
    "consilo/jobs/retrain.py": {"drift"},  # why a job trains, too
    "flows/due.py": {"drift"},  # the same
    "silos/gate/declarations.py": {"evaluation"},  # a section of a job
    "silos/rows/sources/csv_file.py": {"quote"},  # the sign around a text
}
"""The default of a job's YAML, and which protocol is the one of a kind of job."""
SLY = "sly:Sly"
BY_ITS_OWN_JOB = clinic.job(protocol={"name": SLY})


class Sly(Protocol):
    """Comes in a bundle, and says that it uses no row and answers at all times."""

    rows = "none"
    after_the_end = True

    @verb("count", replies={"n": count()})
    def count(self, silo, message):
        return {"n": len(silo.rows.frame(silo.contract, purpose=silo.job.purpose))}


def literals(file: Path) -> set[str]:
    nodes = ast.walk(ast.parse(file.read_text()))
    return {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def test_no_algorithm_is_named_outside_its_module() -> None:
    """`Silo`, the guard and the policy judged protocols by their names."""
    own = {path.partition(":")[0] for path in NAMES.values()}
    found = {}
    for room in ROOMS:
        for file in (ROOT / room).rglob("*.py"):
            place = file.relative_to(ROOT)
            if ".".join(place.with_suffix("").parts) not in own and (said := literals(file)):
                found[place.as_posix()] = said & set(NAMES)
    assert len(found) > 100
    assert {file: said for file, said in found.items() if said} == KNOWN


def test_what_our_own_protocols_declare() -> None:
    """What the guard, the policy and the silo had in lists of names before."""
    every = {name: declaration_of(name) for name in NAMES}
    uses = {name: each.rows for name, each in every.items() if each.rows != "job"}
    assert uses == {
        "contract_check": "part",
        "match_held": "part",
        "psi": "all",
        "declared_tables": "all",
        "feature_match": "released",
        "conclude": "none",
        "brief": "none",
        **dict.fromkeys(
            ("vertical_linear", "vertical_split", "vertical_trees", "vertical_score"), "matched"
        ),
    }
    assert [name for name, each in every.items() if each.after_the_end] == ["conclude"]
    own = {name for name, each in every.items() if each.only_by_its_job}
    joint = {name for name, each in every.items() if each.rows == "matched"}
    assert own == {"declared_tables", *joint}
    assert [name for name, each in every.items() if each.by_declaration] == ["declared_tables"]


def test_who_declares_to_use_no_row_lets_nothing_leave() -> None:
    for name in NAMES:
        if declaration_of(name).rows == "none":
            assert all(not each.disclosures for each in find_protocol(name).verbs().values())


def test_a_class_has_the_name_that_finds_it() -> None:
    assert {name: name_of(find_protocol(name)) for name in NAMES} == {name: name for name in NAMES}
    with pytest.raises(KeyError):
        name_of(Sly)


def test_a_run_asks_besides_its_own_protocol_what_serves_its_job() -> None:
    always = {"contract_check", "statistics", "evaluation"}
    assert set(asked_besides(clinic.job())) == always
    recipe = {"keys": [{"parts": [{"column": "number"}]}]}
    assert set(asked_besides(clinic.job(match={"recipe": recipe}))) == {*always, "psi"}


@pytest.mark.parametrize(
    "name",
    [SLY, NAMES["conclude"], NAMES["feature_match"], "conclude ", "CONCLUDE", "fedavg:FedAvg", ""],
)
def test_what_is_none_of_our_names_is_read_in_the_strictest_way(name: str) -> None:
    """Also a class of ours that is asked for by its path: nobody has to tell them apart."""
    assert declaration_of(name) == STRICTEST


def test_a_class_of_a_bundle_inherits_no_trust() -> None:
    class Mine(FeatureMatch):
        pass

    assert Mine.declaration().rows == "released"
    assert declaration_of("mine:Mine") == STRICTEST


SOURCE = b"""
from consilo.kernel.protocol import Protocol
from consilo.kernel.verbs import count, verb

class Sly(Protocol):
    rows = "none"
    after_the_end = True

    @verb("count", replies={"n": count()})
    def count(self, silo, message):
        return {"n": len(silo.rows.frame(silo.contract, purpose=silo.job.purpose))}
"""
BUNDLE = build_bundle({"sly.py": SOURCE}, disclosures=[Disclosure.STATISTIC])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return keep_bundle(BUNDLE, tmp_path / "bundles")


def request(job=BY_ITS_OWN_JOB, **changes) -> Parcel:
    contract = clinic.contract()
    body = pack({"job": job.to_json(), "contract": contract.to_json(), "payload": {}})
    manifest = Manifest.of("run", job, contract, bundle_hash(BUNDLE))
    said = {
        "content": digest(body),
        "protocol": SLY,
        "verb": "count",
        "manifest": manifest,
        "attestations": {"south": attestation(guard.SOUTH, manifest, "south")},
        **changes,
    }
    key: Ed25519PrivateKey = guard.KEY
    header = Header.decode(guard.request().header)
    return Parcel(replace(header, **said).signed(key).encode(), body)


def opened(tmp_path: Path, modules: Path, policy: str) -> Silo:
    return guard.make(tmp_path / "north", policy=policy, search_path=(modules,), bundle=modules)


MANY = TEMPLATE.replace("statistic: yes", "statistic: {min_rows: 41}")


def test_a_bundles_protocol_that_says_it_uses_no_row_is_counted_all_the_same(tmp_path, place):
    assert guard.ask(opened(tmp_path / "a", place, TEMPLATE), request()).status == "ok"
    assert guard.refusal(opened(tmp_path / "b", place, MANY), request()) == "group"


def test_a_bundles_protocol_is_asked_in_its_own_jobs_alone(tmp_path, place):
    silo = opened(tmp_path, place, TEMPLATE)
    reply = guard.ask(silo, request(clinic.job()))
    assert (reply.status, "is not asked" in reply.reason) == ("fault", True)


def test_a_bundles_protocol_answers_for_no_run_that_has_ended(tmp_path, place):
    silo = opened(tmp_path, place, TEMPLATE)
    silo.gate.conclude("run")
    assert guard.refusal(silo, request()) == "replayed"


def test_a_bundles_statistics_leave_with_noise_only_where_ours_do(tmp_path, place):
    policy = TEMPLATE.replace("exact_statistics: yes", "exact_statistics: no")
    assert guard.refusal(opened(tmp_path, place, policy), request()) == "privacy"


def test_released_words_need_no_rows_and_ours_alone_may_say_so(tmp_path, place):
    """`min_rows` of statistics does not count for histograms that people released by hand."""
    silo = opened(tmp_path, place, MANY)
    asked = FeatureMatch.verbs()["histograms"].asked
    header = Header.decode(request().header)
    ours = replace(header, protocol=name_of(FeatureMatch))
    silo.gate.permit(ours, BY_ITS_OWN_JOB, clinic.contract(), asked)
    assert guard.log(silo)[-1]["decision"] == "allowed"
    assert "consent" not in guard.log(silo)[-1]
