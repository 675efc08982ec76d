"""A whole vertical run over real silos on disk: match, train, evaluate; who is told what."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from pathlib import Path

import joint
import numpy as np
import pytest
import yaml
from sklearn.linear_model import LogisticRegression

from consilo.contracts.contract import Contract
from consilo.errors import CoordinatorUnreachable, IncompatibleJob, RunCancelled
from consilo.protocols.dispatch import answerer
from consilo.record.chain import verify as verify_log
from consilo.record.crosscheck import compare
from consilo.record.run_record import read, verify
from consilo.runs.vertical import plan_vertical, run_vertical
from consilo.vertical.parts import Part
from consilo.vertical.training import Turn
from consilo.wire.payload import pack, unpack
from silos import simulate
from silos.kept.matches import drop_match, read_match
from silos.kept.model_parts import every_part, read_part

pytestmark = pytest.mark.flow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A federation, the people, and a run that matched and trained."""
    folder = tmp_path_factory.mktemp("joint")
    people = joint.everybody()
    silos = joint.write_silos(folder, people)
    federation = joint.Federation(silos, folder)
    result = run_vertical(federation.opened(joint.job_of(), "first"))
    assert result.status == "complete", result.reason
    return federation, silos, people, result


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """Three silos that have checked their rows, which takes most of a short run."""
    folder = tmp_path_factory.mktemp("checked")
    silos = joint.write_silos(folder, joint.everybody(seed=3))
    run = joint.Federation(silos, folder).opened(joint.job_of(), "check")
    for name in run.silos:
        assert run.check(name).passed
    run.close()
    return silos


@pytest.fixture
def place(checked, tmp_path):
    """A folder with three silos that nobody has matched yet."""
    return tmp_path, joint.copied(checked, tmp_path)


def entry(result, kind):
    return next(each["body"] for each in read(Path(result.record)) if each["kind"] == kind)


def truth_of(people, silos):
    """Return what the tables say of the matched rows: who they are, in each silo."""
    found = {}
    for name, directory in silos.items():
        who = joint.holds(people, name).index.to_numpy()
        found[name] = who[read_match(directory, "customers").rows]
    return found


def weights_of(silos, run_id):
    parts = {n: Part.from_bytes(read_part(d, run_id)).content for n, d in silos.items()}
    return np.concatenate([parts[n]["weights"] for n in joint.COLUMNS]), parts["bank"]["intercept"]


def changed_policy(directory, **disclosures):
    policy = yaml.safe_load((directory / "policy.yaml").read_text())
    policy["disclosures"] |= disclosures
    (directory / "policy.yaml").write_text(yaml.safe_dump(policy))


def test_people_are_matched_and_the_model_is_the_pooled_one(trained):
    _, silos, people, result = trained
    who = truth_of(people, silos)
    common = set.intersection(*(set(joint.holds(people, name).index) for name in silos))
    assert np.array_equal(who["bank"], who["shop"])
    assert np.array_equal(who["bank"], who["telecom"])
    assert len(who["bank"]) >= 0.97 * len(common)
    assert entry(result, "matched")["rows"] == len(who["bank"])
    rows = people.loc[who["bank"]]
    values = rows[list(joint.NAMES)].to_numpy()
    standard = (values - values.mean(0)) / values.std(0)
    pooled = LogisticRegression(tol=1e-10, max_iter=10_000).fit(standard, rows["churned"])
    weights, intercept = weights_of(silos, "first")
    assert weights == pytest.approx(pooled.coef_[0], abs=1e-4)
    assert intercept == pytest.approx(pooled.intercept_[0], abs=1e-4)
    metrics = result.metrics
    # The folds go by the joint order, which is another one in every match: of 300 orders the least
    # gain was 0.18, and the shuffled join's largest 0.06.
    gain = metrics["joined/roc_auc"] - metrics["label_only/roc_auc"]
    assert gain > 0.1
    assert metrics["shuffled/roc_auc"] - metrics["label_only/roc_auc"] < 0.6 * gain


def test_the_result_says_who_took_part_and_the_label_silo_has_the_figures(trained):
    *_, result = trained
    for name, outcome in result.silos.items():
        assert (outcome.status, outcome.reason) == ("trained", "")
        assert outcome.rounds == tuple(range(1, len(result.rounds) + 1))
        assert outcome.num_examples == entry(result, "matched")["rows"]
        assert bool(outcome.metrics) == (name == joint.LABEL)


def test_every_silo_keeps_its_part_for_itself_and_the_record_has_the_references(trained):
    _, silos, _, result = trained
    said = entry(result, "evaluated")["parts"]
    assert set(said) == set(silos)
    for name, directory in silos.items():
        content = (directory / "models" / "first" / "part.bin").read_bytes()
        assert hashlib.sha256(content).hexdigest() == said[name]
        files = list((directory / "models" / "first").iterdir())
        assert {stat.S_IMODE(each.stat().st_mode) for each in files} == {0o600}
        assert stat.S_IMODE((directory / "models").stat().st_mode) == 0o700
        (about,) = every_part(directory)
        assert (about["reference"], about["inputs"]) == (said[name], list(joint.COLUMNS[name]))


def test_what_was_kept_for_the_run_goes_and_match_and_part_stay(trained):
    _, silos, _, _ = trained
    for directory in silos.values():
        assert not list((directory / "runs").glob("*/*"))
        assert [each.name for each in (directory / "matches").iterdir()] == ["customers"]


def test_record_and_audit_logs_are_whole_and_tell_the_same(trained):
    _, silos, _, result = trained
    assert verify(Path(result.record))["status"] == "complete"
    entries = read(Path(result.record))
    for name, directory in silos.items():
        lines = verify_log(directory / "audit.jsonl")
        assert compare(entries, lines, name) == []
        asked = {e["body"]["verb"] for e in lines if e["kind"] == "asked"}
        assert {"check", "held", "meet", "introduce", "close"} <= asked
        assert ("start" in asked) == (name == joint.LABEL)
        assert [e["body"]["handle"] for e in lines if e["body"].get("decision") == "kept"] == [
            "customers"
        ]


def test_the_record_of_its_match_is_whole_too_and_tells_what_the_silos_logs_tell(trained):
    _, silos, _, result = trained
    record = Path(result.directory) / "match" / "record.jsonl"
    assert verify(record)["status"] == "complete"
    for name, directory in silos.items():
        assert compare(read(record), verify_log(directory / "audit.jsonl"), name) == []


def test_no_id_and_no_value_is_in_the_coordinators_files(trained):
    federation, _, people, _ = trained
    ids = [each.encode() for name in ("surname", "number") for each in people[name]]
    values = [repr(float(each)).encode() for each in people["b0"]]
    held = b"".join(
        each.read_bytes()
        for each in (federation.folder / "coordinator").rglob("*")
        if each.is_file()
    )
    assert len(held) > 10_000
    assert not [each for each in values if each in held]
    # Digests and figures hold any seven digits, by chance.
    held = re.sub(rb"[0-9a-f]{32,}|\b\d+\.\d{9,}", b"", held)
    assert not [each for each in ids if each in held]


def test_a_second_run_uses_the_match_again_and_finds_the_same_model(trained):
    federation, silos, _, first = trained
    again = run_vertical(federation.opened(joint.job_of(match=None), "second"))
    assert again.status == "complete", again.reason
    assert entry(again, "matched")["reused"] is True
    assert entry(first, "matched")["reused"] is False
    assert np.array_equal(weights_of(silos, "first")[0], weights_of(silos, "second")[0])
    assert again.metrics == first.metrics
    # Random bytes are hashed with a part, so that equal parts have unlike references.
    references = [entry(each, "evaluated")["parts"] for each in (first, again)]
    assert not set(references[0].values()) & set(references[1].values())


def test_a_match_that_one_silo_has_lost_is_made_anew(place):
    """The silos that still held their halves once repeated what they had said before."""
    folder, silos = place
    federation = joint.Federation(silos, folder)
    assert run_vertical(federation.opened(joint.job_of(), "first")).status == "complete"
    drop_match(silos["shop"], "customers")
    result = run_vertical(federation.opened(joint.job_of(), "second"))
    assert result.status == "complete", result.reason
    assert entry(result, "matched")["reused"] is False
    assert read_match(silos["bank"], "customers").run == "second-match"


def test_a_match_that_failed_is_tried_again(place):
    folder, silos = place
    federation = joint.Federation(silos, folder)
    away = Away(federation.hosts["shop"], 0, "reveal")
    run = federation.opened(joint.job_of(), "r", answers={"shop": away})
    for name in run.silos:
        run.check(name)
    run.admit()
    with pytest.raises(CoordinatorUnreachable, match="the network is away"):
        run.match()
    assert run.match()["run_id"] == "r-match-2"
    while run.rounds_left:
        run.train_round()
    run.evaluate()
    assert run.close().status == "complete"


def test_without_a_match_a_job_that_says_none_is_told_what_to_do(place):
    folder, silos = place
    federation = joint.Federation(silos, folder)
    with pytest.raises(IncompatibleJob, match="'consilo match run', or give the job a section"):
        run_vertical(federation.opened(joint.job_of(match=None), "r"))


def test_a_missing_feature_silo_fails_the_run_and_is_named(place):
    folder, silos = place
    federation = joint.Federation(silos, folder)
    opened = federation.opened(joint.job_of(), "r", online=("bank", "shop"))
    result = run_vertical(opened)
    assert result.status == "failed"
    assert result.reason.startswith("QuorumLost")
    assert "telecom" in result.reason
    assert "not connected" in result.reason
    assert not list(folder.glob("*/models"))
    assert verify(Path(result.record))["status"] == "failed"


def test_a_missing_block_is_left_out_where_the_job_bears_it(place):
    folder, silos = place
    federation = joint.Federation(silos, folder)
    job = joint.job_of(args={"missing_blocks": "leave_out"})
    result = run_vertical(federation.opened(job, "r", online=("bank", "shop")))
    assert result.status == "degraded", result.reason
    assert "telecom" in result.reason
    assert result.silos["telecom"].status == "dropped"
    assert {n: o.status for n, o in result.silos.items() if n != "telecom"} == {
        "bank": "trained",
        "shop": "trained",
    }
    assert entry(result, "narrowed")["silos"] == ["bank", "shop"]
    assert {name for name, directory in silos.items() if every_part(directory)} == {"bank", "shop"}
    assert Part.from_bytes(read_part(silos["bank"], "r")).members == ("bank", "shop")
    assert "telecom" not in read_match(silos["bank"], "customers").partners
    assert verify(Path(result.record))["status"] == "degraded"
    for name in ("bank", "shop"):
        assert (
            compare(read(Path(result.record)), verify_log(silos[name] / "audit.jsonl"), name) == []
        )


@pytest.mark.parametrize("missing_blocks", ["refuse", "leave_out"])
def test_without_the_label_silo_there_is_nothing_to_learn(place, missing_blocks):
    folder, silos = place
    federation = joint.Federation(silos, folder)
    job = joint.job_of(args={"missing_blocks": missing_blocks})
    result = run_vertical(federation.opened(job, "r", online=("shop", "telecom")))
    assert result.status == "failed"
    assert "bank" in result.reason


@pytest.mark.parametrize(
    ("silo", "kind", "verb"), [("shop", "embedding", "directions"), ("bank", "label", "start")]
)
def test_a_policy_that_lets_less_leave_ends_the_run(place, silo, kind, verb):
    folder, silos = place
    changed_policy(silos[silo], **{kind: False})
    result = run_vertical(joint.Federation(silos, folder).opened(joint.job_of(), "r"))
    assert result.status == "failed"
    assert f"does not let '{kind}' leave, which '{verb}' discloses" in result.reason
    assert result.silos[silo].status == "refused"
    assert f"'{kind}'" in result.silos[silo].reason
    assert not list(folder.glob("*/models"))


def test_a_silo_that_is_matched_with_nobody_ends_the_run(place):
    folder, silos = place
    policy = yaml.safe_load((silos["shop"] / "policy.yaml").read_text())
    del policy["matching"]
    (silos["shop"] / "policy.yaml").write_text(yaml.safe_dump(policy))
    result = run_vertical(joint.Federation(silos, folder).opened(joint.job_of(), "r"))
    assert result.status == "failed"
    assert "no section 'matching'" in result.reason


def test_a_silo_may_want_many_rows_for_a_match_too(place):
    """Counted were the columns that the silo holds in the joint table, not those of the keys."""
    folder, silos = place
    changed_policy(silos["shop"], match={"min_rows": 100}, embedding={"min_rows": 100})
    assert run_vertical(joint.Federation(silos, folder).opened(joint.job_of(), "r")).status == (
        "complete"
    )
    changed_policy(silos["shop"], match={"min_rows": 1000})
    again = joint.job_of(args={"match": "others"})
    result = run_vertical(joint.Federation(silos, folder).opened(again, "again"))
    assert "for 1000 rows or more only" in result.reason


def test_a_match_of_another_data_set_says_nothing_of_these_rows(place):
    folder, silos = place
    federation = joint.Federation(silos, folder)
    assert run_vertical(federation.opened(joint.job_of(), "first")).status == "complete"
    directory = silos["shop"]
    config = yaml.safe_load((directory / "silo.yaml").read_text())
    config["data"]["newer"] = dict(config["data"]["customers"])
    (directory / "silo.yaml").write_text(yaml.safe_dump(config))
    for ref, name in (("people@1", "customers"), ("joint@1", "newer")):
        file = directory / "mappings" / f"{ref}.yaml"
        agreed = yaml.safe_load(file.read_text())["agreed"]
        mapping = {"contract": ref, "data": name, "agreed": agreed}
        file.write_text(yaml.safe_dump(mapping))
    again = joint.Federation(silos, folder).opened(joint.job_of(match=None), "second")
    result = run_vertical(again)
    assert result.status == "failed"
    assert "counts the rows of another data set" in result.reason


def test_three_lines_run_a_vertical_job(place):
    folder, silos = place
    result = simulate(joint.job_of(), silos, search_path=[folder])
    assert result.status == "complete", result.reason
    json.dumps(result.to_json())


class Away:
    """Lets a silo's answer be lost a number of times, once a verb is asked in a round."""

    def __init__(self, host, round_number, verb, times=1):
        self.answer, self.times = answerer(host), times
        self.sign = f'"round":{round_number},'.encode(), f'"verb":"{verb}"'.encode()

    def __call__(self, parcel):
        reply = self.answer(parcel)
        if self.times and all(each in parcel.header for each in self.sign):
            self.times -= 1
            raise CoordinatorUnreachable("the network is away")
        return reply


@pytest.mark.parametrize(
    ("round_number", "verb", "silo"),
    [(1, "start", "bank"), (1, "directions", "shop"), (2, "directions", "telecom")],
)
def test_a_round_that_was_cut_short_is_done_again_and_finds_the_same(
    place, trained, round_number, verb, silo
):
    folder, silos = place
    whole = joint.Federation(silos, folder)
    first = run_vertical(whole.opened(joint.job_of(), "whole"))
    assert first.status == "complete", first.reason
    away = Away(whole.hosts[silo], round_number, verb)
    run = whole.opened(joint.job_of(), "cut", answers={silo: away})
    for name in run.silos:
        run.check(name)
    run.admit()
    run.match()
    cuts = 0
    while run.rounds_left:
        try:
            run.train_round()
        except CoordinatorUnreachable:
            cuts += 1
    metrics = run.evaluate()
    result = run.close()
    assert (cuts, away.times) == (1, 0)
    assert result.status == "complete", result.reason
    assert metrics == first.metrics
    for directory in silos.values():
        models = [Part.from_bytes(read_part(directory, each)) for each in ("whole", "cut")]
        assert pack(dict(models[0].content)) == pack(dict(models[1].content))


def begun(federation, job, run_id, **how):
    """Open a run, train one round, and let it die."""
    run = federation.opened(job, run_id, **how)
    for name in run.silos:
        run.check(name)
    run.admit()
    run.match()
    run.train_round()
    return run


def test_a_run_whose_process_died_is_gone_on_with_and_finds_the_same(place):
    folder, silos = place
    federation = joint.Federation(silos, folder)
    whole = run_vertical(federation.opened(joint.job_of(), "whole"))
    begun(federation, joint.job_of(), "died")
    result = run_vertical(federation.opened(joint.job_of(), "died", resume=True))
    assert result.status == "complete", result.reason
    assert result.metrics == whole.metrics
    for directory in silos.values():
        models = [Part.from_bytes(read_part(directory, each)) for each in ("whole", "died")]
        assert pack(dict(models[0].content)) == pack(dict(models[1].content))
    kinds = [each["kind"] for each in read(Path(result.record))]
    assert kinds.index("resumed") > kinds.index("round")
    assert verify(Path(result.record))["status"] == "complete"


def test_who_was_left_out_stays_out_of_a_run_that_goes_on(place):
    folder, silos = place
    federation = joint.Federation(silos, folder)
    job = joint.job_of(args={"missing_blocks": "leave_out"})
    begun(federation, job, "died", online=("bank", "shop"))
    result = run_vertical(federation.opened(job, "died", resume=True))  # telecom is back
    assert result.status == "degraded", result.reason
    assert result.silos["telecom"].reason == "left out when the run began"
    assert Part.from_bytes(read_part(silos["bank"], "died")).members == ("bank", "shop")


def test_nobody_is_left_out_of_a_run_that_goes_on(place):
    folder, silos = place
    federation = joint.Federation(silos, folder)
    job = joint.job_of(args={"missing_blocks": "leave_out"})
    begun(federation, job, "died")
    again = federation.opened(job, "died", online=("bank", "shop"), resume=True)
    result = run_vertical(again)
    assert result.status == "failed"
    assert "mandatory: telecom" in result.reason


def test_a_run_that_goes_on_is_not_matched_anew(place):
    folder, silos = place
    federation = joint.Federation(silos, folder)
    begun(federation, joint.job_of(), "died")
    drop_match(silos["shop"], "customers")
    result = run_vertical(federation.opened(joint.job_of(), "died", resume=True))
    assert result.status == "failed"
    assert "the match that the run began with cannot be used any more (shop" in result.reason


def test_where_a_training_stands_survives_the_disk(trained):
    federation, _, _, result = trained
    place = federation.folder / "coordinator" / "first" / "checkpoint.safetensors"
    stood = Turn.from_payload(unpack(place.read_bytes())["state"])
    assert (stood.round, stood.is_trained) == (len(result.rounds), True)
    assert pack(stood.to_payload()) == pack(Turn.from_payload(stood.to_payload()).to_payload())


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ({"standardize": "contract"}, r"needs a range .* joint@1 gives none for b0, b1"),
        ({"missing": "drop"}, "rows that one silo drops the others cannot know"),
    ],
)
def test_columns_that_cannot_become_inputs_are_known_before_anybody_is_asked(features, said):
    """The silos found out, said 'failed', and kept the reason in their logs."""
    job, contract = joint.job_of(features=features), Contract.model_validate(joint.JOINT)
    with pytest.raises(IncompatibleJob, match=said):
        plan_vertical(job, contract, ())


def test_a_cancelled_run_leaves_no_key_and_no_gradient_in_the_silos(place):
    """It left both for 30 days: silos were not told of a cancellation."""
    folder, silos = place
    run = joint.Federation(silos, folder).opened(joint.job_of(), "stopped")
    for name in run.silos:
        run.check(name)
    run.admit()
    run.match()
    run.train_round()
    assert all(list((each / "runs").glob("*/relay-*")) for each in silos.values())
    result = run.close(RunCancelled("somebody pressed Ctrl-C"))
    assert result.status == "failed"
    assert not [file for each in silos.values() for file in (each / "runs").glob("*/*")]


def test_who_is_left_out_for_doubled_keys_is_told_and_degrades_the_run(place):
    folder, silos = place
    file = silos["shop"] / "rows.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, *lines[1:41]]) + "\n")
    told = run_vertical(joint.Federation(silos, folder).opened(joint.job_of(), "doubled"))
    assert told.status == "degraded"
    (entities,) = (
        each["entities"] for name, each in entry(told, "matched")["silos"].items() if name == "shop"
    )
    assert f"shop: 80 of {entities} are not matched" in told.reason
    assert "duplicates: same" in told.reason
    bearable = joint.job_of()
    bearable = bearable.changed(match={"max_ambiguous": 0.5})
    for name in silos:
        drop_match(silos[name], "customers")
    told = run_vertical(joint.Federation(silos, folder).opened(bearable, "borne"))
    assert told.status == "complete", told.reason


def test_too_few_people_in_common_are_a_failed_run_and_no_model(tmp_path):
    policy = {**joint.POLICY, "matching": {"min_set_size": 1, "min_intersection": 1}}
    silos = joint.write_silos(tmp_path, joint.everybody(9), policy)
    told = run_vertical(joint.Federation(silos, tmp_path).opened(joint.job_of(), "few"))
    assert told.status == "failed"
    assert told.reason.startswith("TooFewRows: ")
    assert "a model needs 10" in told.reason
    assert not told.metrics
