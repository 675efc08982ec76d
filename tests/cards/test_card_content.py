"""What a card says: the record's numbers and nothing else, and no text of others as markup."""

from __future__ import annotations

import html.parser
import json
import re

import pytest
import yaml
from carded import registered_run, subject_of
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from consilo.cards.content import card
from consilo.cards.document import Table, figure
from consilo.cards.pack import BOM, HTML, MARKDOWN, drawn
from consilo.errors import ConfigInvalid
from consilo.record.run_record import read

HOSTILE = "x\n---\n<script>alert(1)</script> [a](javascript:b) | `c` **d** \"e\" 'f': {g} & #h"
STATED = {"purpose": HOSTILE, "limits": [HOSTILE], "risks": [HOSTILE], "license": "Apache-2.0"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return registered_run(tmp_path_factory.mktemp("content"), card=STATED)


@pytest.fixture(scope="module")
def subject(made):
    return subject_of(*made)


@pytest.fixture(scope="module")
def texts(subject):
    return {name: content.decode() for name, content in drawn(subject).items()}


def numbers_in(value):
    if isinstance(value, dict):
        for each in value.values():
            yield from numbers_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from numbers_in(each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def cells_of(subject, title):
    (section,) = [each for each in card(subject).sections if each.title == title]
    for block in section.blocks:
        for row in block.rows if isinstance(block, Table) else ():
            yield from (each for each in row[1:] if isinstance(each, str))


@pytest.mark.parametrize("title", ["Participants", "Performance"])
def test_every_number_is_one_of_the_records(made, subject, title):
    entries = read(made[0])
    held = {figure(each) for each in numbers_in([each["body"] for each in entries])}
    held |= {figure(len(each["rounds"])) for each in entries[-1]["body"]["silos"].values()}
    held |= {figure(each) for each in subject.told.weights.values()}
    found = [
        number
        for cell in cells_of(subject, title)
        for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?(?![\w.])", cell)
    ]
    assert len(found) > 2
    wrong = [each for each in found if each not in held]
    assert not wrong


def test_the_front_matter_is_yaml_with_the_exact_figures(subject, texts):
    _, front, _ = texts[MARKDOWN].split("---\n", 2)
    told = yaml.safe_load(front)
    (result,) = told["model-index"][0]["results"]
    metrics = {each["type"]: each["value"] for each in result["metrics"]}
    assert metrics == subject.told.evaluated["metrics"]
    assert told["license"] == "apache-2.0"
    assert told["datasets"] == ["clinic@1"]


class _Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_page_has_no_script_and_asks_nothing_of_anybody(texts):
    tags = _Tags()
    tags.feed(texts[HTML])
    names = {tag for tag, _ in tags.found}
    assert not names & {"script", "link", "img", "iframe", "a", "form", "object"}
    attributes = {name for _, each in tags.found for name in each}
    assert not {each for each in attributes if each.startswith("on") or each in ("src", "href")}
    assert "&lt;script&gt;" in texts[HTML]


def test_a_text_of_others_is_no_markdown(texts):
    body = texts[MARKDOWN]
    assert "<script>" not in body
    assert "[a](" not in body
    assert body.count("\n---\n") == 1  # that of the front matter


def test_the_bill_keeps_cyclonedx_and_a_fault_in_it_would_be_seen(texts):
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(texts[BOM]) is None
    odd = json.loads(texts[BOM])
    odd["metadata"]["component"]["type"] = "machine"
    assert validator.validate_str(json.dumps(odd)) is not None


def test_what_nobody_stated_is_said_to_be_not_stated(subject):
    (annex,) = [each for each in card(subject).sections if "Annex IV" in each.title]
    rows = {
        row[0]: row[1] for block in annex.blocks if isinstance(block, Table) for row in block.rows
    }
    assert rows["2(e) human oversight"] == "not stated"
    assert rows["8 EU declaration of conformity"] == "not stated"


def test_the_card_section_changes_no_digest(made):
    opened = read(made[0])[0]["body"]
    assert opened["card"]["license"] == "Apache-2.0"
    assert "card" not in opened["job"]


def test_a_run_without_a_model_has_no_card(made):
    from consilo.cards.told import Told

    entries = [each for each in read(made[0]) if each["kind"] != "model"]
    with pytest.raises(ConfigInvalid, match="left no model"):
        Told(entries)
