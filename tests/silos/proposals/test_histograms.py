"""Histograms leave only when they are released, noisy, paid for, and of use."""

import json
import shutil

import numpy as np
import pytest
import two_silos
import yaml

from consilo.errors import BudgetExhausted, ConfigInvalid, Refused
from consilo.privacy.accounting import spent
from consilo.record.chain import verify
from silos.gate.audit import audit_log
from silos.kept.histograms import HISTOGRAMS_FILE as FILE
from silos.kept.histograms import kept_histograms
from silos.proposals.histograms import offer, release
from silos.silo import Silo


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    place = two_silos.make(tmp_path_factory.mktemp("silos"), num_rows=3000)["east"]
    for epsilon in (0.5, 1.0, 2.0, 2.5):
        offer(place, "patients", epsilon=epsilon)  # the noise multipliers are dear to find
    return place


@pytest.fixture
def place(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "east")


def released(place, epsilon=2.0):
    asked, silo = offer(place, "patients", epsilon=epsilon)
    return asked, release(place, asked, silo), silo


def policy(place, **changes):
    (place / "policy.yaml").write_text(yaml.safe_dump({**two_silos.POLICY, **changes}))


def ledger(place):
    return [row for _, row in Silo.open(place).account.reserved("histograms-patients")]


def test_the_price_is_said_first_and_nothing_is_spent_by_asking(place):
    asked, _ = offer(place, "patients", epsilon=1.0)
    assert asked.rows == 3000
    assert len(asked.columns) == 5
    (balance,) = asked.account.balances
    assert balance.before == 0
    assert 0.9 < balance.after <= 1.0
    assert ledger(place) == []
    assert not (place / FILE).exists()


def test_counts_are_near_the_true_ones_and_not_the_true_ones(place):
    asked, found, _ = released(place)
    rows = two_silos.rows(two_silos.EAST, 3000, 0)
    true = np.histogram(rows["AGE_Y"], bins=16, range=(0, 120))[0]
    assert (found["AGE_Y"] != true).any()
    assert abs(found["AGE_Y"] - true).sum() / 2 < 3 * asked.wrong * 3000
    sexes = dict(zip(["F", "M"], found["SEX_CD"], strict=True))
    for code, count in rows["SEX_CD"].value_counts().items():
        assert abs(sexes[code] - count) < 60
    assert all((each >= 0).all() for each in found.values())


def test_it_is_paid_from_the_data_sets_account_once(place):
    asked, found, _ = released(place)
    _, again, _ = released(place)
    assert {n: c.tolist() for n, c in found.items()} == {n: c.tolist() for n, c in again.items()}
    assert ledger(place) == [(asked.sigma, 1.0, 1)]
    assert 0.95 * 2.0 < spent(ledger(place), 1e-5).epsilon_prv <= 2.0


def test_other_rows_are_paid_for_again_and_get_other_noise(place):
    _, found, _ = released(place, 0.5)
    rows = two_silos.rows(two_silos.EAST, 3000, 0)
    rows.loc[0, "AGE_Y"] = 5
    rows.to_csv(place / "rows.csv", index=False)
    _, again, _ = released(place, 0.5)
    assert len(ledger(place)) == 2
    changed = [name for name in found if (found[name] != again[name]).any()]
    assert set(changed) == set(found), "the noise of all of them is new"


def test_numbers_with_a_decimal_comma_are_counted(place):
    rows = two_silos.rows(two_silos.EAST, 3000, 0)
    text = rows["HGT_CM"].map("{:.1f}".format).str.replace(".", ",")
    rows.assign(HGT_CM=text).to_csv(place / "rows.csv", index=False)
    _, found, _ = released(place)
    assert abs(found["HGT_CM"].sum() - 3000) < 200


def test_a_column_that_holds_no_numbers_is_not_counted_as_if_it_did(place):
    rows = two_silos.rows(two_silos.EAST, 3000, 0).assign(HGT_CM="tall")
    rows.to_csv(place / "rows.csv", index=False)
    with pytest.raises(ConfigInvalid, match="HGT_CM: most values are no numbers"):
        released(place)
    assert ledger(place) == []


def test_the_audit_log_tells_of_it(place):
    released(place)
    lines = verify(audit_log(place).path)
    (line,) = [each["body"] for each in lines if each["kind"] == "histograms"]
    assert (line["data"], line["columns"], line["epsilon"]) == ("patients", 5, 2.0)


def test_an_account_that_cannot_pay_releases_nothing(place):
    released(place, 2.0)
    before = (place / FILE).read_text()
    with pytest.raises(BudgetExhausted, match="cannot pay"):
        released(place, 2.5)
    assert (place / FILE).read_text() == before


def test_too_few_rows_to_be_of_use_are_refused_with_the_numbers(tmp_path):
    place = two_silos.make(tmp_path, num_rows=200)["east"]
    asked, silo = offer(place, "patients", epsilon=1.0)
    assert asked.rows_needed > 200
    with pytest.raises(Refused, match=rf"200 rows: at ε 1 .* needs {asked.rows_needed} rows"):
        release(place, asked, silo)
    assert ledger(place) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"disclosures": {"metadata": True}}, "does not let 'statistic' leave"),
        ({"disclosures": {"statistic": "secure"}}, "does not let 'statistic' leave"),
        ({"privacy": {}}, "keeps no privacy budget for 'patients'"),
        ({"privacy": {**two_silos.POLICY["privacy"], "max_epsilon": 0.5}}, "ε up to 0.5"),
        ({"disclosures": {"statistic": {"min_rows": 5000}}}, "for 5000 rows or more only"),
    ],
)
def test_the_policy_decides(place, changes, said):
    policy(place, **changes)
    with pytest.raises(Refused, match=said):
        offer(place, "patients", epsilon=1.0)


def test_columns_that_are_not_shared_are_not_counted(place):
    _, found, _ = released(place)
    assert two_silos.SECRET not in found
    said = yaml.safe_load((place / "metadata.yaml").read_text())
    for each in said["data"]["patients"].values():
        each["share"] = False
    (place / "metadata.yaml").write_text(yaml.safe_dump(said))
    assert kept_histograms(place) == {}
    with pytest.raises(ConfigInvalid, match="set share: true"):
        offer(place, "patients", epsilon=1.0)


def test_a_histogram_of_other_bins_does_not_leave(place):
    released(place)
    text = (place / "metadata.yaml").read_text()
    (place / "metadata.yaml").write_text(text.replace("max: 120", "max: 119"))
    assert set(kept_histograms(place)) == {
        f"patients/{name}" for name in two_silos.EAST if name != "AGE_Y"
    }


def test_a_policy_that_changed_its_mind_keeps_them_in(place):
    released(place)
    assert len(Silo.open(place).released.histograms()) == 5
    policy(place, disclosures={"metadata": True})
    assert Silo.open(place).released.histograms() == {}


def test_only_rows_with_consent_are_counted(place):
    rows = two_silos.rows(two_silos.EAST, 3000, 0).assign(allowed_for="unstated")
    rows.loc[1000:, "allowed_for"] = "billing"
    rows.to_csv(place / "rows.csv", index=False)
    said = yaml.safe_load((place / "silo.yaml").read_text())
    said["consent"] = {"patients": {"purpose": "allowed_for"}}
    (place / "silo.yaml").write_text(yaml.safe_dump(said))
    asked, found, _ = released(place)
    assert asked.rows == 1000
    assert abs(found["SEX_CD"].sum() - 1000) < 60


def test_the_file_holds_noisy_counts_only_and_is_the_owners(place):
    _, found, _ = released(place)
    assert (place / FILE).stat().st_mode & 0o777 == 0o600
    stored = json.loads((place / FILE).read_text())["patients"]
    assert {name: each["counts"] for name, each in stored.items()} == {
        name: each.tolist() for name, each in found.items()
    }
