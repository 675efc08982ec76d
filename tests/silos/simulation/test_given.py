"""What `simulate` is given and cannot use is told in words, before anything runs.

Fault: `'Series' object has no attribute 'to_parquet'`, a traceback of pathlib, and a contract's
name that was "the job's own code".
"""

import clinic
import numpy as np
import pandas as pd
import pytest

from consilo.errors import ConfigInvalid, ContractInvalid, JobInvalid
from silos import simulate

FRAME = clinic.frame(30)
NAMED_BY_TWO = FRAME.copy()
NAMED_BY_TWO.columns = pd.MultiIndex.from_product([["x"], FRAME.columns])
SILOS = [
    ({}, "there is none; give at least one"),
    ([FRAME], "expected a dict of names to frames or directories, found list"),
    (FRAME, "expected a dict of names to frames or directories, found DataFrame"),
    ({"a": None}, "a: expected a pandas DataFrame or a directory, found NoneType"),
    ({"a": FRAME["age"]}, "a: expected a pandas DataFrame or a directory, found Series"),
    ({"a": FRAME.to_numpy()}, "a: expected a pandas DataFrame or a directory, found ndarray"),
    ({"a": {"age": [1]}}, "a: expected a pandas DataFrame or a directory, found dict"),
    ({"a": "/nowhere"}, "a: there is no directory /nowhere"),
    ({"a": __file__}, "is a file; give its rows as a frame"),
    ({"a": pd.concat([FRAME, FRAME], axis=1)}, "a: two columns have one name: age"),
    ({"a": FRAME.set_axis(range(FRAME.shape[1]), axis=1)}, "a column's name is a text, found 0, 1"),
    ({"a": NAMED_BY_TWO}, r"a column's name is a text, found \('x', "),
    ({"a": FRAME.assign(age=np.array(1j))}, "column 'age' has complex numbers"),
]


@pytest.mark.parametrize(("silos", "said"), SILOS, ids=[said[:40] for _, said in SILOS])
def test_silos_that_are_none(silos, said):
    with pytest.raises(ConfigInvalid, match=said):
        simulate(clinic.job(), silos, contract=clinic.contract())


def test_every_silo_is_told_at_once(tmp_path):
    with pytest.raises(ConfigInvalid) as refused:
        simulate(clinic.job(), {"A": 1, "b": tmp_path, "c": FRAME}, contract=clinic.contract())
    assert [each.split(":")[0] for each in refused.value.findings[1:]] == ["A", "b"]
    assert "has no silo.yaml; 'consilo silo data add' writes it" in str(refused.value)


@pytest.mark.parametrize("job", [None, {"name": "x"}, 3])
def test_a_job_that_is_none(job):
    with pytest.raises(JobInvalid, match=f"give a Job, or the path.*found {type(job).__name__}"):
        simulate(job, {"a": FRAME})


@pytest.mark.parametrize("contract", ["clinic@1", {"name": "x"}])
def test_a_contract_that_is_none(contract):
    with pytest.raises(ContractInvalid, match=r"Contract.load reads name@version or a path; found"):
        simulate(clinic.job(), {"a": FRAME}, contract=contract)


def test_a_directory_that_is_a_file(tmp_path):
    place = tmp_path / "x"
    place.write_text("")
    with pytest.raises(ConfigInvalid, match="this is a file; give a directory"):
        simulate(clinic.job(), {"a": FRAME}, contract=clinic.contract(), directory=place)
