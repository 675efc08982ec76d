import clinic
import pytest

from consilo.contracts.report import CheckReport, Counts, Finding
from consilo.wire.parcel import Fault
from silos.simulation.in_memory import InMemorySilo


def finding(verdict):
    counts = Counts(rows=10, failed=5, nulls=0)
    return Finding(rule="range", column="age", verdict=verdict, severity="error", counts=counts)


def verdict(tmp_path, **changes):
    fields = {"contract": "clinic@1", "contract_digest": clinic.contract().digest, **changes}
    report = CheckReport(**{"verdict": "passed", "findings": (), **fields})
    host = InMemorySilo("north", clinic.frame(10), report=report)
    run = clinic.run_of(clinic.job(), {"north": host}, tmp_path)
    return run, run.reports.get("north", run.outcomes["north"].reason)


@pytest.mark.parametrize("said", ["passed", "failed"])
def test_a_sound_report_is_believed(tmp_path, said):
    found = (finding("pass" if said == "passed" else "fail"),)
    run, report = verdict(tmp_path, verdict=said, findings=found)
    assert report.findings == found
    assert run.outcomes["north"].contract == said
    assert run.outcomes["north"].status == ("dropped" if said == "passed" else "left_out")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"contract_digest": "another"}, "another contract"),
        ({"findings": (finding("fail"),)}, "does not follow"),
    ],
)
def test_a_report_that_does_not_fit_is_none(tmp_path, changes, why):
    run, reason = verdict(tmp_path, **changes)
    assert why in reason
    assert run.outcomes["north"].contract == "not_checked"


def test_a_silo_that_is_not_there_is_unreachable(tmp_path):
    run = clinic.run_of(
        clinic.job(), clinic.hosts(clinic.frames(10)), tmp_path, silos=("east", "zenith")
    )
    assert run.check("zenith") == Fault("unreachable", "not connected")
