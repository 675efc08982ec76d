"""An answer that was given once was given again whatever the policy said by then."""

import json

import attacker
import clinic
import pandas as pd
import pytest
import yaml

from consilo.protocols.dispatch import coarse_seconds
from silos.gate.policy import TEMPLATE

OPEN = TEMPLATE.replace("min_cohort: 2", "min_cohort: 1")
AT = {"issued": 1_900_000_000.0, "expires": 1_900_000_060.0}
LATER = {
    "hours": 'hours: {start: "00:00", end: "00:01"}\n',
    "expiry": "expires: 2020-01-01\n",
    "purpose": "",
}


@pytest.mark.parametrize("kind", [*LATER, "metric", "none"])
def test_a_repeated_answer_passes_the_policy_as_a_first_one_does(tmp_path, kind) -> None:
    silo = attacker.make(tmp_path, OPEN)
    silo.gate.now = lambda: 1_900_000_030.0
    first, fields = attacker.ask(silo, "evaluation", "evaluate", attacker.model(), **AT)
    assert first.status == "ok"
    changed = OPEN + LATER.get(kind, "")
    if kind == "purpose":
        changed = changed.replace('jobs: ["*"]', 'jobs: ["other"]')
    if kind == "metric":
        changed = changed.replace("metric: yes", "metric: no")
    again = attacker.make(tmp_path, changed)
    again.gate.now = lambda: 1_900_000_030.0
    second, told = attacker.ask(again, "evaluation", "evaluate", attacker.model(), **AT)
    if kind == "none":
        assert (second.status, told.keys()) == ("ok", fields.keys())
        assert attacker.decisions(again)[-1]["decision"] == "repeated"
    else:
        assert (second.status, told) == ("fault", {})
        assert attacker.decisions(again)[-1]["decision"] == "refused"


def test_a_withdrawn_consent_ends_the_answers_that_were_made_with_it(tmp_path) -> None:
    rows = clinic.frame(40, missing=0).assign(person=[f"p{each}" for each in range(40)])
    attacker.make(tmp_path, OPEN, rows)
    config = yaml.safe_load((tmp_path / "silo.yaml").read_text())
    config["consent"] = {
        "rows": {
            "source": {"type": "csv", "path": "consent.csv"},
            "subject": "person",
            "purpose": "purpose",
        }
    }
    (tmp_path / "silo.yaml").write_text(json.dumps(config))
    given = pd.DataFrame({"person": rows["person"], "purpose": "unstated"})
    given.to_csv(tmp_path / "consent.csv", index=False)

    def asked():
        silo = attacker.Silo.open(
            tmp_path, signing_keys=(attacker.public_hex(attacker.KEY),), partners={}
        )
        silo.gate.now = lambda: 1_900_000_030.0
        return attacker.ask(silo, "fedavg", "train", attacker.model(), **AT)[0]

    assert (asked().status, asked().status) == ("ok", "ok")
    given.iloc[1:].to_csv(tmp_path / "consent.csv", index=False)
    assert "consents" in asked().reason
    assert asked().status == "fault"


def test_the_end_of_a_run_may_be_told_twice(tmp_path) -> None:
    silo = attacker.make(tmp_path, OPEN)
    silo.gate.now = lambda: 1_900_000_030.0
    for _ in range(2):
        header, _ = attacker.ask(silo, "conclude", "conclude", {"status": "complete"}, **AT)
        assert header.status == "ok", header.reason


def test_where_privacy_is_wanted_a_time_is_told_to_a_power_of_two(tmp_path) -> None:
    strict = attacker.make(tmp_path / "a", attacker.STRICT)
    header, _ = attacker.ask(strict, "contract_check", "check", {})
    assert header.seconds == coarse_seconds(header.seconds) >= 1.0
    loose = attacker.make(tmp_path / "b", OPEN)
    job = clinic.job(privacy={"epsilon": 1.0, "delta": 1e-3, "accountant": "rdp"})
    header, _ = attacker.ask(loose, "contract_check", "check", {}, job)
    assert header.seconds == coarse_seconds(header.seconds) >= 1.0
