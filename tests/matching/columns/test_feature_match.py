"""Two silos on disk, asked over the real kernel: what is released is found, nothing else leaves."""

import json

import numpy as np
import pytest
import two_silos
import yaml

from consilo.errors import ReplyInvalid
from consilo.kernel.federation import Federation
from consilo.kernel.loop import Kernel
from consilo.matching.columns.cards import Card, width_of
from consilo.matching.columns.protocol import FeatureMatch, fitting
from consilo.matching.columns.protocol import cards as cards_field
from consilo.protocols.dispatch import answerer
from consilo.protocols.names import find_protocol
from consilo.transports.local import LocalTransport
from flows.services.match_columns import NO_CONTRACT, between, question, with_contract
from silos.proposals.histograms import offer, release
from silos.simulation.simulation import acquainted


def asked(folders, root):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from consilo.kernel.loop import Party

    key = Ed25519PrivateKey.generate()
    hosts = acquainted(folders, root, key, ())
    seen = []

    def listening(answer):
        def wrapped(parcel):
            reply = answer(parcel)
            seen.append(bytes(reply.header) + bytes(reply.body))
            return reply

        return wrapped

    job = question(None, purpose="unstated")
    transport = LocalTransport({n: listening(answerer(host)) for n, host in hosts.items()})
    kernel = Kernel(
        transport,
        run_id="r1",
        job=job,
        contract=NO_CONTRACT,
        observe=lambda _: None,
        key=key,
        parties={name: Party(host.signing_key) for name, host in hosts.items()},
    )
    fed = Federation(tuple(sorted(hosts)), job, NO_CONTRACT, transport.online)
    return kernel.run("feature_match", FeatureMatch(), fed), seen


@pytest.fixture
def folders(tmp_path):
    return two_silos.make(tmp_path, num_rows=600)


def test_both_silos_say_what_they_released(folders, tmp_path):
    released, _ = asked(folders, tmp_path)
    assert {name: len(cards) for name, cards in released.cards.items()} == {"east": 5, "west": 5}
    assert released.histograms == {"east": {}, "west": {}}
    assert released.faults == {}


def test_unshared_columns_and_values_are_in_no_message(folders, tmp_path):
    _, seen = asked(folders, tmp_path)
    sent = b"".join(seen)
    assert b"AGE_Y" in sent
    assert two_silos.SECRET.encode() not in sent
    assert b"zzvalue" not in sent


def test_nothing_shared_is_nothing_said(folders, tmp_path):
    for place in folders.values():
        (place / "metadata.yaml").unlink()
    released, seen = asked(folders, tmp_path)
    assert set(released.cards.values()) == {()}
    assert b"AGE_Y" not in b"".join(seen)


def test_a_policy_without_metadata_refuses(folders, tmp_path):
    policy = {**two_silos.POLICY, "disclosures": {"statistic": True}}
    (folders["west"] / "policy.yaml").write_text(yaml.safe_dump(policy))
    released, seen = asked(folders, tmp_path)
    assert set(released.cards) == {"east"}
    assert released.faults["west"].code == "refused"
    assert "'metadata'" in released.faults["west"].reason
    assert b"systolic_pressure" not in b"".join(seen)


def test_a_policy_without_statistics_keeps_histograms_in_and_says_its_words(folders, tmp_path):
    pay(folders["west"])
    policy = {**two_silos.POLICY, "disclosures": {"metadata": True}}
    (folders["west"] / "policy.yaml").write_text(yaml.safe_dump(policy))
    released, _ = asked(folders, tmp_path)
    assert len(released.cards["west"]) == 5
    assert "west" not in released.histograms


def pay(place):
    offered, silo = offer(place, "patients", epsilon=2.5)
    release(place, offered, silo)


def test_words_are_said_whatever_the_state_of_rows_mappings_and_consents(folders, tmp_path):
    """What was released before uses no row, so neither consents nor a mapping are asked for."""
    place = folders["west"]
    said = yaml.safe_load((place / "silo.yaml").read_text())
    said["consent"] = {"patients": {"purpose": "no_such_column"}}
    (place / "silo.yaml").write_text(yaml.safe_dump(said))
    (place / "mapping.yaml").write_text("contract: heart@1\n")
    statistic = {"metadata": True, "statistic": {"min_rows": 10**6}}
    (place / "policy.yaml").write_text(
        yaml.safe_dump({**two_silos.POLICY, "disclosures": statistic})
    )
    released, _ = asked(folders, tmp_path)
    assert len(released.cards["west"]) == 5
    assert released.faults == {}


def test_asking_for_histograms_costs_nothing_more(tmp_path):
    folders = two_silos.make(tmp_path, num_rows=3000)
    pay(folders["west"])
    before = (folders["west"] / "ledger.db").read_bytes()
    released, _ = asked(folders, tmp_path)
    assert {len(counts) for counts in released.histograms["west"].values()} == {2, 16}
    assert (folders["west"] / "ledger.db").read_bytes() == before


def test_two_silos_are_matched_and_labels_with_them(folders, tmp_path):
    released, _ = asked(folders, tmp_path)
    found = between("east", "west", released)
    chosen = {name: each.chosen for name, each in found.proposals["west"].items()}
    assert chosen["age_y"] == "patients/age_years"
    assert chosen["sex_cd"] == "patients/gender"
    assert chosen["hgt_cm"] == "patients/height"
    assert chosen["outcome"] == "patients/vital_status"
    assert found.labels == {"outcome": ("east", "west")}
    json.dumps(found.to_json())


def test_a_contract_finds_its_columns_in_both(folders, tmp_path):
    from consilo.contracts.contract import Contract

    columns = {
        "age": {"type": "integer", "unit": "year"},
        "sex": {"type": "category", "allowed": ["male", "female"]},
        "died": {"type": "category", "allowed": ["dead", "alive"], "role": "target"},
        "shoe_size": {"type": "float"},
    }
    contract = Contract.model_validate({"name": "c", "version": 1, "columns": columns})
    released, _ = asked(folders, tmp_path)
    found = with_contract(contract, released)
    assert {s: p["age"].chosen for s, p in found.proposals.items()} == {
        "east": "patients/AGE_Y",
        "west": "patients/age_years",
    }
    assert found.labels["died"] == ("east", "west")
    assert found.proposals["east"]["shoe_size"].chosen is None


def test_the_protocol_is_known_by_its_name():
    assert find_protocol("feature_match") is FeatureMatch


def test_cards_are_checked_on_both_sides():
    field = cards_field()
    field.check("cards", [{"name": "a"}], {})
    for odd in ([{"name": "a", "row": [1, 2]}], "a", [{"name": "a"}, {"name": "a"}], [3], None):
        with pytest.raises(ReplyInvalid, match="descriptions of columns"):
            field.check("cards", odd, {})


def test_histograms_that_do_not_fit_their_column_are_left_out():
    card = Card(name="a", data="p", type="category", codes=("x", "y"))
    assert width_of(card) == 2
    good = np.array([1.0, 2.0])
    for odd in (np.ones(3), np.ones((1, 2)), np.array([-1.0, 2.0])):
        assert fitting({"p/a": odd, "p/b": good}, (card,)) == {}
    assert set(fitting({"p/a": good}, (card,))) == {"p/a"}
