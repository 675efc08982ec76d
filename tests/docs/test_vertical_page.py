"""What `docs/vertical.md` shows about columns is what the program takes."""

import re
from pathlib import Path

import yaml

from consilo.config import parse
from silos.metadata import Metadata

PAGE = (Path(__file__).parents[2] / "docs" / "vertical.md").read_text(encoding="utf-8")


def test_the_metadata_shown_is_valid_and_shares_what_it_says() -> None:
    (text,) = re.findall(r'```yaml title="metadata.yaml"\n(.*?)```', PAGE, re.DOTALL)
    said = parse(Metadata, yaml.safe_load(text), where="the page")
    assert [card.key for card in said.shared()] == [
        "patients/BD_SYS",
        "patients/SEX_CD",
        "patients/DIED",
    ]


def test_the_recipe_shown_is_valid_for_the_contract_shown_and_the_policy_for_both() -> None:
    from consilo.contract import Contract
    from consilo.job import MatchSpec
    from consilo.recipe import Recipe
    from silos.policy import Policy

    def shown(title):
        (text,) = re.findall(rf'```yaml title="{title}"\n(.*?)```', PAGE, re.DOTALL)
        return yaml.safe_load(text)

    recipe = parse(Recipe, shown("recipe.yaml"), where="the page")
    contract = Contract.parse(shown("people.yaml"), where="the page")
    recipe.require_columns(list(contract.columns), where="the page")
    match = shown("job.yaml, in part")["match"]
    assert (
        parse(MatchSpec, {**match, "recipe": recipe.model_dump()}, where="the page").hub == "bank"
    )
    policy = parse(Policy, shown("policy.yaml, in part"), where="the page")
    assert policy.matching is not None
    assert policy.matching.partners == ("bank", "telecom")
