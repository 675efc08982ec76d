"""Under privacy no exact moment of a silo shapes a gradient: it is paid for, or refused."""

import clinic
import numpy as np
import pytest

from consilo.errors import JobInvalid, Refused
from consilo.horizontal.dataset import rows_of
from consilo.horizontal.features import Encoding
from consilo.horizontal.learning import learner_of
from consilo.horizontal.training import loaded
from consilo.kernel.headers import Header, Manifest
from consilo.kernel.view import SiloView
from consilo.privacy.accounting import spent
from consilo.protocols.dispatch import answerer
from consilo.wire.parcel import Parcel
from consilo.wire.payload import digest, pack
from silos.simulation.in_memory import InMemorySilo

PRIVACY = {"epsilon": 3.0, "delta": 1e-3, "accountant": "rdp"}
PAID = {**PRIVACY, "statistics_epsilon": 1.0}
OWN = {"standardize": "silo"}
OPEN = clinic.CONTRACT.replace("range: {min: 0, max: 120}, ", "")


def view(host, job, contract=None, round_=1):
    contract = contract or clinic.contract()
    header = Header(
        "run", f"{round_}/0/train", "c" * 64, round_, "north", "fedavg", "train", ("north",),
        Manifest.of("run", job, contract, ""),
    )  # fmt: skip
    return SiloView(host, job, contract, header)


def payload(job):
    made = clinic.contract()
    return {"params": learner_of(job, Encoding.plan(made, job)).parameters(), "scale": None}


def narrow(outlier):
    """A narrow column, in which one value makes the deviation."""
    frame = clinic.frame(400, seed=3, missing=0)
    frame["age"] = 50 + np.where(frame["ill"] == 1, 0.01, -0.01)
    if outlier:
        frame.loc[5, "age"] = 120.0
    return frame


def test_a_job_that_does_not_pay_for_it_is_refused_with_what_to_do():
    with pytest.raises(JobInvalid, match=r"needs privacy\.statistics_epsilon.*or use 'contract'"):
        clinic.job(privacy=PRIVACY, features=OWN)
    with pytest.raises(JobInvalid, match="asks twice"):
        clinic.job(privacy={**PRIVACY, "statistics_epsilon": 1.5}, features=OWN)
    assert clinic.job(features=OWN).features.standardize == "silo"


@pytest.mark.parametrize("standardize", ["global", "contract", "none"])
def test_a_question_without_a_scale_gets_no_exact_one(standardize):
    """A neighbour: the job asks for another scale, and the payload has none."""
    job = clinic.job(privacy=PRIVACY, features={"standardize": standardize})
    asked = view(InMemorySilo("north", narrow(True)), job)
    with pytest.raises(Refused, match="computed from its rows"):
        loaded(asked, payload(job))
    with pytest.raises(Refused, match="no exact moments"):
        rows_of(asked, Encoding.plan(asked.contract, job), None)


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_no_verb_answers_it_over_the_wire(verb):
    job = clinic.job(privacy=PRIVACY)
    contract = clinic.contract()
    body = pack({"job": job.to_json(), "contract": contract.to_json(), "payload": payload(job)})
    protocol = "fedavg" if verb == "train" else "evaluation"
    header = Header(
        "run", f"1/0/{verb}", digest(body), 1, "north", protocol, verb, ("north",),
        Manifest.of("run", job, contract, ""),
    )  # fmt: skip
    host = InMemorySilo("north", narrow(True))
    reply = answerer(host)(Parcel(header.encode(), body))
    assert b'"fault"' in reply.header
    assert b'"ok"' not in reply.header
    assert host.reserved("run") == []


def test_a_private_scale_is_paid_once_a_run_and_training_has_the_rest(tmp_path):
    job = clinic.job(privacy=PAID, features=OWN, local={"steps": 3})
    hosts = clinic.hosts(clinic.frames(60, 50))
    run = clinic.trained(job, hosts, tmp_path)
    for name, host in hosts.items():
        booked = host.reserved("r1")
        assert [each for each, _ in booked] == ["gaussian_sums", "gaussian_scale", *["dp_sgd"] * 3]
        whole = spent([row for _, row in booked], 1e-3).epsilon_rdp
        assert 0.97 * 3.0 < whole <= 3.0
        assert run.rounds[-1]["silos"][name]["epsilon"] == whole


def test_it_is_the_same_in_every_round_and_another_in_every_run():
    job = clinic.job(privacy=PAID, features=OWN)
    host = InMemorySilo("north", clinic.frame(300, missing=0))
    first = loaded(view(host, job), payload(job))[1].train.features
    again = loaded(view(host, job, round_=2), payload(job))[1].train.features
    np.testing.assert_array_equal(first, again)
    host.state.clear()
    host.run_secrets.clear()
    other = loaded(view(host, job), payload(job))[1].train.features
    assert (first[:, 0] != other[:, 0]).all()
    # Noisy, but a scale all the same.
    np.testing.assert_allclose(first[:, 0].std(), 1.0, atol=0.25)


def test_one_row_moves_the_scale_by_what_the_noise_hides():
    """The proof: one row moved the clipped sum by 153 times the clipping norm."""
    job = clinic.job(privacy=PAID, features=OWN)

    def ages(outlier, run):
        host = InMemorySilo("north", narrow(outlier))
        host.run_secrets["run"] = bytes([run]) * 32
        found = loaded(view(host, job), payload(job))[1].train.features[:, 0].astype(float)
        return np.ptp(found[np.abs(found - np.median(found)) < 2])

    without, with_ = ([ages(outlier, run) for run in range(40)] for outlier in (False, True))
    # Exactly scaled they would be 2 and 0.006 apart: no threshold may tell them apart so well.
    best = max(np.mean([*(w <= t for w in with_), *(w > t for w in without)]) for t in without)
    assert best < 0.87  # of 80: e / (1 + e) is 0.73, and three deviations


def test_ranges_are_needed_to_make_it():
    job = clinic.job(privacy=PAID, features=OWN)
    asked = view(InMemorySilo("north", narrow(False)), job, clinic.contract(OPEN))
    with pytest.raises(Refused, match="need a range with min and max"):
        loaded(asked, payload(job))


@pytest.mark.parametrize("private", [True, False], ids=["private", "exact"])
@pytest.mark.parametrize("name", ["mean", "deviation"])
@pytest.mark.parametrize("kind", ["of rows", "short", "not finite"])
def test_a_scale_is_of_columns_and_of_nothing_else(kind, name, private):
    """A neighbour: with one for each row, all but a single row are put to nothing.

    So an update of all rows was that row's, at any floor; under privacy a row more moved each row
    behind it to another scale, by which the sum moved as often as the noise does not hide.
    """
    rows = narrow(False)
    job = clinic.job(**({"privacy": PRIVACY} if private else {}), evaluation={"holdout": 0.5})
    asked, encoding = view(InMemorySilo("north", rows), job), Encoding.plan(clinic.contract(), job)
    size = len(encoding.numeric)
    shape = {"of rows": (len(rows), size), "short": (1, size), "not finite": (size,)}[kind]
    sent = {"mean": np.zeros(size), "deviation": np.ones(size)}
    sent[name] = np.full(shape, np.nan if kind == "not finite" else 1e30)
    with pytest.raises(Refused, match=f"scale's {name} must be {size} finite numbers"):
        loaded(asked, {**payload(job), "scale": sent})
    with pytest.raises(Refused, match="must be above 0"):
        loaded(
            asked, {**payload(job), "scale": {"mean": np.zeros(size), "deviation": -np.ones(size)}}
        )
