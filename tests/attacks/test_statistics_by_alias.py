"""`exact_statistics: no` went by a protocol's name, and a path to the same class passed."""

from dataclasses import replace

import attacker
import clinic
import numpy as np
import pytest

from consilo.errors import IncompatibleJob, JobInvalid
from consilo.horizontal.features import Encoding
from consilo.horizontal.statistics import _templates
from consilo.protocols.names import NAMES, find_protocol
from silos.gate.policy import TEMPLATE

WANTED = _templates(Encoding.plan(clinic.contract(), clinic.job()), moments=True, target=False)
FINE = {
    "edges": {name: np.linspace(0, 120, 1201) for name in ("age", "smoker")},
    "counts": {name: np.zeros(1200) for name in ("age", "smoker")},
}
MODULE = """
from consilo.horizontal import statistics as the_same
from consilo.horizontal.evaluation import Evaluation
from consilo.horizontal.statistics import Statistics


class Mine(Statistics):
    rows = "none"
    after_the_end = True
"""
NAMED = [
    "statistics",
    "consilo.horizontal.statistics:Statistics",
    "alias:Statistics",
    "alias:the_same.Statistics",
    "alias:Mine",
    "consilo.runs.analytics:Statistics",
    "silos.anything:Statistics",
    "consilo:Statistics",
]


@pytest.fixture
def modules(tmp_path):
    place = tmp_path / "modules"
    place.mkdir()
    (place / "alias.py").write_text(MODULE)
    return place


@pytest.mark.parametrize("verb", ["moments", "histogram"])
@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("own_job", [False, True])
def test_no_exact_statistic_leaves_under_any_name(tmp_path, modules, name, verb, own_job) -> None:
    silo = attacker.make(tmp_path / "silo", attacker.STRICT, search_path=(modules,))
    job = clinic.job()
    if own_job:
        job = job.model_copy(update={"protocol": job.protocol.model_copy(update={"name": name})})
    payload = WANTED if verb == "moments" else FINE
    header, fields = attacker.ask(silo, name, verb, payload, job, attest=True)
    assert (header.status, fields) == ("fault", {})
    assert silo.account.ledger.entries() == []


@pytest.mark.parametrize("name", NAMED[1:4] + NAMED[5:])
def test_one_of_consilos_own_has_one_name(modules, name) -> None:
    with pytest.raises(IncompatibleJob, match=r"protocol\.name"):
        find_protocol(name, (modules,))


@pytest.mark.parametrize("path", sorted(NAMES.values()))
def test_a_job_names_none_of_them_by_its_path(path) -> None:
    with pytest.raises(JobInvalid, match="one of Consilo's own"):
        clinic.job(protocol={"name": path})
    with pytest.raises(IncompatibleJob, match="one of Consilo's own"):
        find_protocol(path)


def test_statistics_want_a_cohort_as_updates_do(tmp_path) -> None:
    silo = attacker.make(tmp_path, TEMPLATE.replace("min_cohort: 2", "min_cohort: 5"))
    for verb, payload in (("moments", WANTED), ("histogram", FINE)):
        header, fields = attacker.ask(silo, "statistics", verb, payload, attest=True)
        assert (header.status, fields) == ("fault", {})
    bare = {"moments": {}, "classes": {}}
    header, fields = attacker.ask(silo, "statistics", "moments", bare)
    assert fields == {"rows": fields["rows"]}


def test_what_is_made_of_too_few_training_rows_does_not_leave(tmp_path) -> None:
    """`min_rows` counted the whole table, of which a job leaves as few as it likes to train on."""
    silo = attacker.make(tmp_path, TEMPLATE.replace("statistic: yes", "statistic: {min_rows: 38}"))
    header, _ = attacker.ask(silo, "statistics", "moments", WANTED, attest=True)
    assert (header.status, "38 rows or more" in header.reason) == ("fault", True)
    assert replace(header, reason="").code == "too_few_rows"
