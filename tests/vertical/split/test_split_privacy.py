"""A private split training: its price beforehand, what it pays, what its parts are not used for."""

import hashlib

import joint
import numpy as np
import pandas as pd
import pytest
import vertical

from consilo.errors import Refused
from consilo.kernel.headers import Header
from consilo.kernel.loop import Federation as FedOfSilos
from consilo.kernel.loop import Kernel
from consilo.kernel.view import SiloView
from consilo.privacy.accounting import spent
from consilo.protocols.dispatch import answerer
from consilo.runs.quote import Quote
from consilo.runs.vertical import run_vertical
from consilo.transports.local import LocalTransport
from consilo.vertical.parts import Part
from consilo.vertical.scoring import scorer_of
from consilo.vertical.split.part import SplitPart
from consilo.vertical.split.protocol import VerticalSplit

COLUMNS = {"bank": ("b0", "b1"), "shop": ("s0", "s1")}
PRIVACY = {"epsilon": 2.0, "delta": 1e-3, "accountant": "rdp"}


def table(rows=40):
    rng = np.random.default_rng(2)
    values = rng.uniform(-1, 1, size=(rows, 4))
    found = pd.DataFrame(values, columns=[n for names in COLUMNS.values() for n in names])
    return found.assign(y=(values[:, 0] > 0).astype(int))


def job_of(**changes):
    args = {"width": 2, "clip": 1.0, "bottom": "consilo.learners.tabular:LinearRegression"}
    return vertical.job_of(
        "vertical_split",
        COLUMNS,
        args=args,
        features={"standardize": "none"},
        model="consilo.learners.tabular:LogisticRegression",
        protocol={"rounds": 2},
        local={"batch_size": 16},
        **{"privacy": PRIVACY, **changes},
    )


def quoted(job, hosts):
    transport = LocalTransport({name: answerer(host) for name, host in hosts.items()})
    contract = vertical.contract_of(COLUMNS)
    kernel = Kernel(transport, run_id="plan", job=job, contract=contract, observe=lambda _: None)
    fed = FedOfSilos(tuple(sorted(hosts)), job, contract, transport.online)
    return kernel.run("quote", Quote(), fed)


def test_the_price_is_what_the_training_reserves():
    hosts = vertical.silos_of(table(), COLUMNS)
    offers = quoted(job_of(), hosts).silos
    assert not any(host.spends for host in hosts.values())
    found, _ = vertical.driven(job_of(), vertical.contract_of(COLUMNS), hosts)
    for name, host in hosts.items():
        ((_, _, row),) = host.spends["r"]
        assert offers[name].rows == 40
        assert offers[name].cost["epsilon"] == spent([row], 1e-3).epsilon_rdp
        assert offers[name].cost["epsilon"] == found.epsilon[name]
        assert offers[name].cost["noise_multiplier"] == row[0]


def test_a_job_without_privacy_has_no_price():
    hosts = vertical.silos_of(table(), COLUMNS)
    offers = quoted(job_of(privacy=None), hosts).silos
    assert {name: each.cost for name, each in offers.items()} == {"bank": {}, "shop": {}}


@pytest.mark.flow
@pytest.mark.parametrize(("budget", "fits"), [(3.0, True), (1.0, False)])
def test_silos_with_ledgers_quote_and_pay(tmp_path, budget, fits):
    """Real silos: their own policies, budgets and ledgers; one that cannot pay says so first."""
    budgets = {"customers": {"epsilon": budget, "delta": 1e-3}}
    policy = {**joint.POLICY, "privacy": {"budgets": budgets}}
    silos = joint.write_silos(tmp_path, joint.everybody(), policy)
    federation = joint.Federation(silos, tmp_path)
    job = joint.job_of(
        protocol={"name": "vertical_split", "rounds": 2},
        args={"width": 2, "clip": 1.0},
        model="consilo.learners.tabular:LogisticRegression",
        features={"standardize": "none"},
        local={"batch_size": 64},
        privacy=PRIVACY,
    )
    run = federation.opened(job, "matched")
    for name in silos:
        run.check(name)
    run.admit()
    run.match()
    kernel = Kernel(
        LocalTransport({name: answerer(host) for name, host in federation.hosts.items()}),
        run_id="plan",
        job=run.job,
        contract=run.contract,
        observe=lambda _: None,
        key=federation.key,
        parties=federation.parties,
    )
    fed = FedOfSilos(tuple(sorted(silos)), run.job, run.contract, lambda: tuple(silos))
    offers = kernel.run("quote", Quote(), fed).silos
    if not fits:
        assert {each.fault.code for each in offers.values()} == {"budget_exhausted"}
        return
    result = run_vertical(federation.opened(job, "trained"))
    assert result.status == "complete", result.reason
    for name, host in federation.hosts.items():
        assert offers[name].fault is None, offers[name].fault
        (balance,) = offers[name].balances
        assert balance.before == 0
        ((mechanism, row),) = host.account.reserved("trained")
        assert (mechanism, row[2]) == ("vertical_split", 4)
        assert balance.after == pytest.approx(spent([row], 1e-3).epsilon_prv, rel=0.02)


def test_who_has_not_paid_gets_no_answer():
    """A coordinator that leaves out the step in which silos pay."""
    hosts = vertical.silos_of(table(), COLUMNS)
    header = Header("r", "1/1/embed", "", 1, "shop", "vertical_split", "embed", tuple(COLUMNS))
    job = job_of()
    view = SiloView(hosts["shop"], job, vertical.contract_of(COLUMNS), header)
    part = SplitPart(view, VerticalSplit.from_job(job).settings)
    with pytest.raises(Refused, match="has not paid"):
        part.noise()
    assert part.pay() <= 2.0
    assert part.noise() is not None


@pytest.mark.parametrize("silo", ["bank", "shop"])
def test_parts_that_were_trained_privately_are_not_scored_with(silo):
    """An embedding of a row, without noise, is what the training was paid to hide."""
    hosts = vertical.silos_of(table(), COLUMNS)
    for name, host in hosts.items():
        host.run_secrets["r"] = hashlib.sha256(name.encode()).digest()
    found, _ = vertical.driven(job_of(), vertical.contract_of(COLUMNS), hosts)
    assert set(found.references) == set(COLUMNS)
    with pytest.raises(Refused, match="stay hidden"):
        scorer_of(Part.from_bytes(hosts[silo].part("r")))
