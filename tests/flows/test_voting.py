"""Votes as a flow collects them: over silos in memory, a real registry, a real Prefect."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient
from prefect import flow

from consilo.decisions.rules import VoteRules
from consilo.errors import ConfigInvalid
from consilo.runs.votes.vote import read_ballot
from flows.pipeline import run_pipeline
from flows.services.connection import connecting
from flows.voting import collect_votes


def test_votes_are_collected_on_a_version_and_against_the_champion(make_federation) -> None:
    federation = make_federation("voted")
    for each in federation.silos.values():
        each.rules = VoteRules(min_rows=1, max_epsilon=1.0, tolerance=0.0)
    federation.silos["clara"].rules = VoteRules(min_rows=1)
    with connecting(federation.connect()):
        summary = run_pipeline(home=federation.home, job=str(federation.job))
        assert summary["status"] != "failed", summary
        name = summary["model"]["name"]

        @flow(name="voting-test", persist_result=False)
        def asked(version: int):
            uri = federation.tracking_uri
            return collect_votes(federation.home, name, version, wait_s=1, tracking_uri=uri)

        ballot = asked(1)
        client = MlflowClient(federation.tracking_uri)
        client.set_registered_model_alias(name, "champion", "1")
        second = run_pipeline(home=federation.home, job=str(federation.job))
        assert second["model"]["version"] == "2"
        against = asked(2)
        with pytest.raises(ConfigInvalid, match="no version 9"):
            asked(9)
    told = {each.silo: (each.verdict, each.reasons) for each in ballot.votes}
    assert told == {
        "anna": ("no", ("epsilon",)),
        "berta": ("no", ("epsilon",)),
        "clara": ("abstain", ("unpaid",)),
    }
    params = client.get_model_version(name, "1").tags["params_digest"]
    assert {each.candidate for each in ballot.votes} == {params}
    assert {each.champion for each in ballot.votes} == {None}
    assert {each.champion for each in against.votes} == {params}
    assert read_ballot(federation.home / "runs" / ballot.run_id) == ballot
