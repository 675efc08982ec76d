"""A contract of any text, asked again and again, found the oldest person's age to 0.001."""

import attacker
import clinic
import pytest

from silos.gate.policy import TEMPLATE

VERBS = [("contract_check", "check"), ("quote", "quote_contract"), ("quote", "quote")]


def probing(most: float, name: str = "clinic"):
    text = clinic.CONTRACT.replace("max: 120", f"max: {most}").replace("min: 0", "min: -1")
    return clinic.contract(text.replace("name: clinic", f"name: {name}"))


@pytest.mark.parametrize("verb", VERBS, ids="/".join)
@pytest.mark.parametrize("name", ["clinic", "probe"])
@pytest.mark.parametrize("agreed", [True, False], ids=["mapped", "no mapping"])
@pytest.mark.parametrize("policy", [TEMPLATE, attacker.STRICT], ids=["open", "strict"])
def test_no_verdict_on_a_text_that_nobody_confirmed(tmp_path, verb, name, agreed, policy) -> None:
    silo = attacker.make(tmp_path, policy, agreed=agreed)
    said = set()
    for number, most in enumerate((10.0, 60.0, 200.0)):
        job = clinic.job(contract=f"{name}@1")
        contract = probing(most, name)
        header, fields = attacker.ask(silo, *verb, {}, job, contract, run=f"r{number}", attest=True)
        assert (header.status, fields) == ("fault", {})
        said.add((header.code, header.reason))
    assert len(said) == 1
    assert "consilo silo data confirm" in said.pop()[1]


def test_where_privacy_is_wanted_a_verdict_is_one_bit(tmp_path) -> None:
    rows = clinic.frame(40, missing=0)
    rows.loc[3, "age"] = 400.0
    for number, (name, verb) in enumerate(VERBS[:2]):
        silo = attacker.make(tmp_path / verb, attacker.STRICT, rows)
        _, fields = attacker.ask(silo, name, verb, {})
        assert set(fields) == {"report"}
        assert (fields["report"]["verdict"], fields["report"]["findings"]) == ("failed", [])
        loose = attacker.make(tmp_path / f"{number}", TEMPLATE, rows)
        _, fields = attacker.ask(loose, name, verb, {})
        assert {each["column"] for each in fields["report"]["findings"]} >= {"age"}
