"""Vertical regression: the pooled solution, in few exchanges, and who is told what."""

from dataclasses import replace

import clinic
import numpy as np
import pandas as pd
import pytest
import vertical
import yaml
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from consilo.errors import IncompatibleJob, JobInvalid, MatchUnusable, Refused
from consilo.jobs.holders import Holders
from consilo.kernel.headers import Header, Manifest
from consilo.kernel.verbs import Disclosure, Permitted
from consilo.protocols.contract_check import ContractCheck
from consilo.vertical.blocks import folds_of
from consilo.vertical.linear.protocol import VerticalLinear
from consilo.vertical.parts import Part
from silos.gate.policy import Circumstances, Policy, Rule
from silos.silo import Silo

COLUMNS = {
    "bank": ("b0", "b1", "b2"),
    "shop": ("s0", "s1", "s2", "s3"),
    "telecom": ("t0", "t1"),
}
NAMES = tuple(name for names in COLUMNS.values() for name in names)


def table(rows=400, *, seed=1, task="binary"):
    """Columns that hang together across silos, with other means and widths."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(rows, 2))
    raw = common @ rng.normal(size=(2, len(NAMES))) + 0.7 * rng.normal(size=(rows, len(NAMES)))
    score = raw @ (rng.normal(size=len(NAMES)) * ([0.3] * 3 + [0.9] * 6)) - 0.5
    found = pd.DataFrame(raw * np.arange(1, 10) + 5, columns=list(NAMES))
    noisy = score + rng.logistic(size=rows)
    return found.assign(y=(noisy > 0).astype(int) if task == "binary" else noisy)


def standard(rows):
    values = rows[list(NAMES)].to_numpy()
    return (values - values.mean(0)) / values.std(0)


def weights(hosts):
    return np.concatenate([part(hosts, name)["weights"] for name in COLUMNS])


def part(hosts, name):
    return Part.from_bytes(hosts[name].part("r")).content


def run(rows, task="binary", **changes):
    classes = 2 if task == "binary" else None
    contract = vertical.contract_of(COLUMNS, classes=classes)
    hosts = vertical.silos_of(rows, COLUMNS)
    job = vertical.job_of("vertical_linear", COLUMNS, task=task, **changes)
    found, exchanges = vertical.driven(job, contract, hosts)
    return found, exchanges, hosts


@pytest.mark.parametrize("c", [0.05, 1.0, 50.0])
def test_logistic_regression_is_the_pooled_one(c):
    rows = table()
    found, exchanges, hosts = run(rows, args={"c": c})
    assert found.facts["converged"]
    pooled = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(standard(rows), rows["y"])
    intercept = part(hosts, "bank")["intercept"]
    assert weights(hosts) == pytest.approx(pooled.coef_[0], abs=1e-5)
    assert intercept == pytest.approx(pooled.intercept_[0], abs=1e-5)
    aucs = []
    folds = folds_of(len(rows), 5)
    for fold in range(5):
        seen = standard(rows)[folds != fold], rows["y"][folds != fold]
        model = LogisticRegression(C=c, tol=1e-8, max_iter=10_000).fit(*seen)
        scores = model.decision_function(standard(rows)[folds == fold])
        aucs.append(roc_auc_score(rows["y"][folds == fold], scores))
    assert found.metrics["joined/roc_auc"] == pytest.approx(np.mean(aucs), abs=1e-6)
    assert found.round <= 3
    assert len({each.reply.step_id for each in exchanges if each.reply}) == len(exchanges)


def test_linear_regression_is_ridge_regression():
    rows = table(task="regression")
    found, _, hosts = run(rows, "regression", args={"c": 2.0})
    pooled = Ridge(alpha=0.5).fit(standard(rows), np.float32(rows["y"]))
    assert weights(hosts) == pytest.approx(pooled.coef_, abs=1e-5)
    assert found.metrics["joined/r2"] > found.metrics["label_only/r2"] + 0.05


def test_a_wrong_join_is_worth_no_more_than_the_label_silo_alone():
    metrics = run(table(1500))[0].metrics
    gain = metrics["joined/roc_auc"] - metrics["label_only/roc_auc"]
    assert gain > 0.03
    assert metrics["shuffled/roc_auc"] < metrics["label_only/roc_auc"] + 0.1 * gain


def test_fewer_score_columns_are_given_away_where_the_job_says_so():
    found, _, _ = run(table(), args={"max_scores": 1})
    assert dict(found.facts) == {"scores/shop": 1, "scores/telecom": 1, "converged": 0}
    whole, _, _ = run(table())
    assert all(whole.facts[f"scores/{n}"] <= len(COLUMNS[n]) for n in ("shop", "telecom"))
    assert found.metrics["joined/roc_auc"] > whole.metrics["label_only/roc_auc"]


def test_one_round_only_is_no_solution_and_says_so():
    found, _, _ = run(table(), protocol={"rounds": 1})
    assert (found.round, found.facts["converged"]) == (1, 0)


def test_a_step_that_is_asked_again_gives_the_same_model():
    """A silo that dies after it has kept its state and before it has answered computes anew."""
    rows = table(120)
    contract = vertical.contract_of(COLUMNS)
    job = vertical.job_of("vertical_linear", COLUMNS)
    models = []
    for times in (1, 2):
        hosts = vertical.silos_of(rows, COLUMNS)
        answer = {n: clinic_answer(host, times) for n, host in hosts.items()}
        vertical.driven(job, contract, hosts, transport=vertical.LocalTransport(answer))
        models.append(weights(hosts))
    assert np.array_equal(*models)


def clinic_answer(host, times):
    host.keep_replies = False
    answer = vertical.answerer(host)

    def repeated(parcel):
        return [answer(parcel) for _ in range(times)][-1]

    return repeated


def test_the_coordinator_never_holds_a_value_in_the_clear():
    rows = table(60)
    contract = vertical.contract_of(COLUMNS)
    hosts = vertical.silos_of(rows, COLUMNS)
    held = []

    def listening(host):
        answer = vertical.answerer(host)

        def hear(parcel):
            held.append(bytes(parcel.body))
            reply = answer(parcel)
            held.append(bytes(reply.body))
            return reply

        return hear

    job = vertical.job_of("vertical_linear", COLUMNS, args={"folds": 2})
    transport = vertical.LocalTransport({n: listening(host) for n, host in hosts.items()})
    vertical.driven(job, contract, hosts, transport=transport)
    seen = b"".join(held)
    column = np.float32(standard(rows))[:, 0]
    for value in [column, np.float64(column), *(weights(hosts)[k : k + 1] for k in range(9))]:
        assert value[:1].tobytes() not in seen
    labels = rows["y"].to_numpy()
    for kind in (np.int64, np.float64, np.float32, np.uint8):
        assert labels[:16].astype(kind).tobytes() not in seen


def test_verbs_say_what_their_envelopes_hold():
    verbs = VerticalLinear.verbs()
    assert Disclosure.LABEL in verbs["start"].disclosures & verbs["combine"].disclosures
    assert Disclosure.EMBEDDING in verbs["directions"].disclosures
    assert Disclosure.LABEL not in verbs["directions"].disclosures


def test_a_policy_decides_by_what_the_envelopes_hold():
    job, contract = vertical.job_of("vertical_linear", COLUMNS), vertical.contract_of(COLUMNS)
    everybody = tuple(sorted(COLUMNS))
    manifest = Manifest.of("r", job, contract, "")
    name = "vertical_linear"
    header = Header("r", "0/1/x", "", 0, "shop", name, "x", everybody, manifest)
    kinds = dict.fromkeys(("sealed", "statistic", "embedding"), True)
    policy = Policy(allow=(Rule(jobs=("*",)),), disclosures=kinds, min_cohort=3)
    others = Circumstances(0.0, frozenset({"bank", "telecom"}), 0, lambda: 100)
    verbs = VerticalLinear.verbs()
    policy.permit(header, job, verbs["directions"].asked, others)
    with pytest.raises(Refused, match="does not let 'label' leave, which 'start' discloses"):
        policy.permit(header, job, verbs["start"].asked, others)
    alone = replace(others, attested=frozenset({"bank"}))
    with pytest.raises(Refused, match="at least 3 silos"):
        policy.permit(header, job, verbs["directions"].asked, alone)


def test_the_cohort_is_everybody_though_silos_take_turns():
    rows = table(60)
    hosts = vertical.silos_of(rows, COLUMNS)
    cohorts = set()
    for host in hosts.values():
        host.permit = lambda header, *_: cohorts.add(header.cohort) or Permitted()
    job = vertical.job_of("vertical_linear", COLUMNS, args={"folds": 2})
    vertical.driven(job, vertical.contract_of(COLUMNS), hosts)
    assert cohorts == {("bank", "shop", "telecom")}


def test_a_silo_that_refuses_ends_the_run():
    hosts = vertical.silos_of(table(60), COLUMNS)
    hosts["shop"].refusal = "no"
    with pytest.raises(Refused, match="mandatory: shop"):
        vertical.driven(
            vertical.job_of("vertical_linear", COLUMNS), vertical.contract_of(COLUMNS), hosts
        )


def test_halves_of_different_matches_are_not_trained_on():
    hosts = vertical.silos_of(table(60), COLUMNS)
    match = hosts["shop"].kept_matches["m"]
    hosts["shop"].kept_matches["m"] = type(match)(**{**vars(match), "recipe_hash": "other"})
    with pytest.raises(MatchUnusable, match="another match under this handle"):
        vertical.driven(
            vertical.job_of("vertical_linear", COLUMNS), vertical.contract_of(COLUMNS), hosts
        )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"args": {"folds": 1}}, "folds"),
        ({"args": {"fold": 3}}, "did you mean 'folds'"),
        ({"args": {"label_silo": "nobody"}}, "holds no columns"),
        ({"args": {"columns": {"bank": ["b0"], "shop": ["b0"]}}}, "held twice"),
        ({"task": "multiclass"}, "binary or regression"),
        ({"privacy": {"epsilon": 1, "delta": 1e-5}}, "vertical_split"),
    ],
)
def test_a_job_that_cannot_work_is_refused_before_any_message(changes, says):
    job = vertical.job_of("vertical_linear", COLUMNS, **changes)
    with pytest.raises((JobInvalid, IncompatibleJob), match=says):
        VerticalLinear.from_job(job)


def test_a_silos_part_of_the_contract_has_its_own_columns_and_rules():
    value = vertical.contract_of(COLUMNS).model_dump(mode="json")
    crossing = {"left": "b0", "op": "<", "right": "s0"}
    within = {"left": "s0", "op": "<", "right": "s1"}
    value["rules"] = {"cross_column": [crossing, within], "class_balance": 0.1}
    contract = clinic.Contract.parse(value, where="joint.yaml")
    holders = Holders(match="m", label_silo="bank", columns=COLUMNS)
    mine = holders.part(contract, "shop")
    assert (mine.features, mine.ref) == (COLUMNS["shop"], "joint@1")
    assert [each.left for each in mine.rules.cross_column] == ["s0"]
    assert mine.rules.class_balance is None
    assert clinic.Contract.from_json(mine.to_json()) == mine
    assert holders.part(contract, "bank").rules.class_balance is not None
    with pytest.raises(IncompatibleJob, match="nobody holds 't0'"):
        Holders(
            match="m", label_silo="bank", columns={n: COLUMNS[n] for n in ("bank", "shop")}
        ).require_fit(contract)
    with pytest.raises(IncompatibleJob):
        holders.part(contract, "nobody")


def test_an_expired_match_is_not_used():
    hosts = vertical.silos_of(table(60), COLUMNS)
    match = hosts["bank"].kept_matches["m"]
    hosts["bank"].kept_matches["m"] = type(match)(**{**vars(match), "expires": match.created})
    with pytest.raises(MatchUnusable, match="match again"):
        vertical.driven(
            vertical.job_of("vertical_linear", COLUMNS), vertical.contract_of(COLUMNS), hosts
        )


def test_each_silo_checks_its_own_part_of_the_contract():
    hosts = vertical.silos_of(table(20), COLUMNS)
    job, contract = vertical.job_of("vertical_linear", COLUMNS), vertical.contract_of(COLUMNS)
    moved = vertical.LocalTransport({n: vertical.answerer(host) for n, host in hosts.items()})
    kernel = vertical.Kernel(
        moved, run_id="r", job=job, contract=contract, observe=lambda exchange: None
    )
    fed = vertical.Federation(tuple(hosts), job, contract, lambda: tuple(hosts))
    holders = Holders(match="m", label_silo="bank", columns=COLUMNS)
    for name in hosts:
        report = kernel.run("contract_check", ContractCheck(name), fed)
        assert report.contract_digest == holders.part(contract, name).digest


def test_a_real_silo_holds_its_own_part_only(tmp_path):
    rows = table(30)[list(COLUMNS["shop"])]
    rows.to_csv(tmp_path / "rows.csv", index=False)
    config = {"name": "shop", "data": {"rows": {"type": "csv", "path": "rows.csv"}}}
    (tmp_path / "silo.yaml").write_text(yaml.safe_dump(config))
    silo = Silo.open(tmp_path)
    job, contract = vertical.job_of("vertical_linear", COLUMNS), vertical.contract_of(COLUMNS)
    assert not silo.rows.check(contract).passed
    mine = job.part(contract, "shop")
    assert silo.rows.check(mine).passed
    assert len(silo.rows.frame(mine)) == 30
    assert clinic.job().part(contract, "shop") is contract
