"""Counts that stay in a silo's log, found by trying all until the log's hash fits.

Each reply carries the hash of the log's newest line. A line of few unknown numbers, a time to the
second and a hash that is known from the reply before is found within minutes: how many consents
were withdrawn, or how many people a partner and this silo share where neither may be told.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import attacker
import clinic
import numpy as np
import pytest
import yaml

from consilo.errors import Refused
from consilo.record.chain import linked
from silos.gate import audit
from silos.gate.match_queries import MatchLog
from silos.gate.policy import TEMPLATE, MatchingRules
from silos.silo import Silo


def times() -> list[datetime]:
    """Return the seconds in which a line may have been written that a test has just seen made."""
    return [datetime.now(UTC) - timedelta(seconds=each) for each in range(20)]


def tried(prev: str, seq: int, kind: str, bodies, at) -> dict[str, tuple]:
    """Return the hash of every line that there could be, with what it says."""
    told = [each.isoformat(timespec="seconds") for each in at]
    return {
        linked(seq, when, kind, body, prev)[1]: (when, body)
        for when, body in itertools.product(told, bodies)
    }


def entries(silo):
    return attacker.verify(silo.directory / "audit.jsonl")


@pytest.fixture
def silo(tmp_path):
    rows = clinic.frame(40, missing=0)
    rows["for"] = "unstated"
    rows["gone"] = ["2020-01-01"] * 7 + [None] * 33
    attacker.make(tmp_path, TEMPLATE, rows)
    config = yaml.safe_load((tmp_path / "silo.yaml").read_text())
    config["consent"] = {"rows": {"purpose": "for", "withdrawn_at": "gone"}}
    (tmp_path / "silo.yaml").write_text(yaml.safe_dump(config))
    return Silo.open(tmp_path, signing_keys=(attacker.public_hex(attacker.KEY),), partners={})


def test_how_many_withdrew_is_not_found_by_trying(silo) -> None:
    before, _ = attacker.ask(silo, "brief", "brief", {})
    header, fields = attacker.ask(silo, "contract_check", "check", {})
    assert header.status == "ok", header.reason
    *_, asked, answered = entries(silo)
    assert asked["body"]["consent"]["withdrawn"] == 7
    # What the coordinator does not know is the number, and the two times; it tries them all.
    known = {key: each for key, each in asked["body"].items() if key != "salt"}
    counts = [{**known["consent"], "consented": 40 - each, "withdrawn": each} for each in range(41)]
    bodies = [{**known, "consent": each} for each in counts]
    found = tried(before.head, asked["seq"], "asked", bodies, times())
    body = {key: each for key, each in answered["body"].items()}
    heads = {
        head: said
        for prev, said in found.items()
        for head in tried(prev, answered["seq"], "answered", [body], times())
    }
    assert header.head not in heads
    assert header.head == answered["hash"]
    assert fields["report"]["verdict"] == "passed"


@pytest.mark.parametrize("common", [3, 30])
def test_nor_how_many_are_common(tmp_path, common) -> None:
    """Where too few are, nobody is told how many; where enough are, the policy says to whom."""
    chain = audit.audit_log(tmp_path)
    before = chain.append("ledger", run="", head="0" * 64)
    log, rules, now = MatchLog(tmp_path), MatchingRules(min_intersection=10), datetime.now(UTC)
    told = {"num_theirs": 200, "num_common": common, "now": now}
    if common < 10:
        with pytest.raises(Refused, match="fewer"):
            log.judge("run", "bank", rules, **told)
    else:
        log.judge("run", "bank", rules, **told)
    (line,) = [
        each for each in attacker.verify(tmp_path / "audit.jsonl") if each["kind"] == "match"
    ]
    known = {key: each for key, each in line["body"].items() if key != "salt"}
    bodies = [{**known, "common": each} for each in range(201)]
    assert line["body"]["common"] == common
    assert chain.head not in tried(before, 1, "match", bodies, times())


def test_lines_are_tried_here_as_a_coordinator_would(tmp_path) -> None:
    """What has no salt is found."""
    chain = audit.audit_log(tmp_path)
    before = chain.append("ledger", run="", head="0" * 64)
    chain.append("scored_before", rows=int(np.int64(12)))
    found = tried(before, 1, "scored_before", [{"rows": each} for each in range(20)], times())
    assert found[chain.head][1] == {"rows": 12}
