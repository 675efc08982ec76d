"""A policy of `update: secure` believed a flag of the job, and the plain update left."""

import attacker
import pytest
from clinic import job as job_of

from consilo.kernel.verbs import Disclosure
from silos.gate.policy import TEMPLATE

SECURE = TEMPLATE.replace("update: yes", "update: secure")
MINE = """
from consilo.protocol import Disclosure, Field, Protocol, check_arrays, verb


class Mine(Protocol):
    rows = "none"

    @verb("train", replies={"delta": Field(Disclosure.MASKED_UPDATE, check_arrays)})
    def train(self, silo, message):
        return {"delta": message.payload["params"]}
"""


@pytest.mark.parametrize("flag", [False, True])
@pytest.mark.parametrize("name", ["fedavg", "fedprox", "fedadam", "flower"])
def test_no_plain_update_leaves_whatever_the_job_says(tmp_path, flag, name) -> None:
    silo = attacker.make(tmp_path, SECURE)
    job = job_of(reduce={"secure": flag}, protocol={"name": name})
    header, fields = attacker.ask(silo, name, "train", attacker.model(), job, attest=True)
    assert (header.status, fields) == ("fault", {})
    assert "no secure aggregation" in header.reason
    assert attacker.decisions(silo)[-1]["decision"] == "refused"


@pytest.mark.parametrize("kind", ["metric", "statistic"])
def test_nor_does_another_class_that_the_policy_wants_summed(tmp_path, kind) -> None:
    silo = attacker.make(tmp_path, TEMPLATE.replace(f"{kind}: yes", f"{kind}: secure"))
    job = job_of(reduce={"secure": True})
    _, fields = attacker.ask(silo, "evaluation", "evaluate", attacker.model(), job, attest=True)
    assert not fields.keys() & {"metrics", "tally"}


def test_code_of_a_bundle_that_calls_its_update_masked_is_not_believed(tmp_path) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    text = MINE.replace("check_arrays, verb", "verb").replace("Field, ", "")
    text = text.replace("Field(Disclosure.MASKED_UPDATE, check_arrays)", "FIELD")
    text = "from consilo.kernel.verbs import arrays\n" + text.replace(
        "\n\nclass", "\nFIELD = arrays(Disclosure.MASKED_UPDATE)\n\nclass", 1
    )
    (modules / "mine.py").write_text(text)
    job = job_of(protocol={"name": "mine:Mine"})
    for masked, told in (("", "fault"), ("  masked_update: yes\n", "fault")):
        policy = SECURE.replace("  # metadata:", f"{masked}  # metadata:")
        silo = attacker.make(tmp_path / f"silo{len(masked)}", policy, search_path=(modules,))
        header, fields = attacker.ask(
            silo, "mine:Mine", "train", attacker.model(), job, attest=True
        )
        assert (header.status, fields) == (told, {})
        assert "in the clear" in header.reason
    assert Disclosure.MASKED_UPDATE not in fields
