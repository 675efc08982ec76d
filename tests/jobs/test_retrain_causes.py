"""What a job may give as a cause to train again."""

import clinic
import pytest

from consilo.errors import JobInvalid


def test_a_cause_that_nobody_finds_out_is_refused():
    with pytest.raises(JobInvalid, match="no flow of this release watches the champion"):
        clinic.job(retrain={"when": ["drift", "performance"]})
    assert clinic.job(retrain={"when": "drift"}).retrain.when == ("drift",)
