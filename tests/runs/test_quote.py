"""What a job would cost: every silo's own answer, and nothing is spent."""

import clinic
import pytest

from consilo.kernel.federation import Federation
from consilo.kernel.loop import Kernel
from consilo.kernel.verbs import Permitted
from consilo.privacy.account import Account, Balance, Limit
from consilo.privacy.accounting import spent
from consilo.protocols.dispatch import answerer
from consilo.runs.quote import Offer, Quote
from consilo.transports.local import LocalTransport
from consilo.wire.parcel import Fault, not_connected
from silos.simulation.in_memory import InMemorySilo

ROWS = clinic.frames(40, 30)
PRIVACY = {"epsilon": 3.0, "delta": 1e-3, "accountant": "rdp"}


def quotes(hosts, job, *, left=None):
    transport = LocalTransport({name: answerer(host) for name, host in hosts.items()})
    contract = clinic.contract()
    kernel = Kernel(transport, run_id="plan", job=job, contract=contract, observe=lambda _: None)
    silos = tuple(sorted({*hosts, *(left or {})}))
    fed = Federation(silos, job, contract, transport.online, left=left or {})
    return kernel.run("quote", Quote(), fed)


class Poor(InMemorySilo):
    """A silo whose account is nearly empty."""

    def quote(self, account, rows, unit="record"):
        after = spent(rows, 1e-3).epsilon_rdp + 1.0
        return Account(account, 1, 1, (Balance(Limit(3.5, 365), 1e-3, 1.0, after),))


def test_the_price_is_what_training_will_reserve(tmp_path):
    private = clinic.job(privacy={**PRIVACY, "statistics_epsilon": 0.5}, local={"steps": 4})
    hosts = clinic.hosts(ROWS)
    found = quotes(hosts, private)
    assert found.reason == ""
    assert not any(host.spends for host in hosts.values())
    clinic.trained(private, hosts, tmp_path)
    for name, host in hosts.items():
        cost = found.silos[name].cost
        booked = host.reserved("r1")
        assert cost["epsilon"] == spent([row for _, row in booked], 1e-3).epsilon_rdp
        assert cost["noise_multiplier"] == booked[-1][1][0]
        assert cost["delta"] == 1e-3


def test_a_job_without_privacy_has_no_price():
    found = quotes(clinic.hosts(ROWS), clinic.job())
    assert found.silos["east"] == Offer(None, found.silos["east"].rows, {}, ())
    assert found.silos["east"].rows == len(clinic.learnt(ROWS["east"], "east", clinic.job()))


def test_an_account_that_cannot_pay_says_what_is_left():
    poor = Poor("east", ROWS["east"])
    hosts = {**clinic.hosts(ROWS), "east": poor}
    private = clinic.job(privacy=PRIVACY, local={"steps": 4}, quorum={"min_silos": 1})
    found = quotes(hosts, private)
    fault = found.silos["east"].fault
    assert fault.code == "budget_exhausted"
    assert "budget within 365 days is 3.5, of which 2.5 is left" in fault.reason
    assert found.silos["north"].fault is None
    assert found.reason == ""
    lost = quotes(hosts, private.changed(quorum={"min_silos": 2}))
    assert "1 of at least 2 silos answered" in lost.reason
    assert "east: budget_exhausted: " in lost.reason


def test_an_account_that_can_pay_says_how_it_would_stand():
    poor = Poor("east", ROWS["east"])
    private = clinic.job(privacy={**PRIVACY, "epsilon": 2.0}, local={"steps": 4})
    offer = quotes({"east": poor}, private).silos["east"]
    (balance,) = offer.balances
    assert (balance.limit, balance.before) == (Limit(3.5, 365), 1.0)
    assert balance.after == offer.cost["epsilon"] + 1.0
    (told,) = offer.to_json()["account"]
    assert told["left_before"] == 2.5
    assert told["left_after"] == pytest.approx(3.5 - balance.after)


def test_who_refuses_or_is_away_is_told_apart():
    hosts = clinic.hosts(ROWS)
    hosts["east"].refusal = "not today"
    found = quotes(hosts, clinic.job(), left={"zenith": not_connected("suspended")})
    assert found.silos["east"].fault == Fault("refused", "not today")
    assert found.silos["zenith"].fault == Fault("unreachable", "suspended")
    assert found.silos["north"].fault is None


def test_the_policy_is_asked_about_the_training_and_not_only_about_the_question():
    class OnlyFigures(InMemorySilo):
        def permit(self, header, job, contract, verb):
            from consilo.errors import Refused

            if "update" in verb.disclosures:
                raise Refused("no update leaves", code="disclosure")
            return Permitted()

    found = quotes({"east": OnlyFigures("east", ROWS["east"])}, clinic.job())
    assert found.silos["east"].fault == Fault("refused", "no update leaves")


def test_where_silos_are_drawn_it_says_for_which_rounds_and_what_these_will_have_cost(tmp_path):
    private = clinic.job(
        privacy=PRIVACY,
        local={"steps": 4},
        protocol={"rounds": 3},
        cohort={"size": 1, "most_rounds": 2},
    )
    hosts = clinic.hosts(ROWS)
    found = quotes(hosts, private)
    run = clinic.trained(private, hosts, tmp_path)
    for name, each in run.close().silos.items():
        offer = found.silos[name]
        assert offer.to_json()["drawn"]["rounds"] == len(each.rounds) > 0
        assert offer.drawn["epsilon"] == pytest.approx(each.epsilon)
        assert offer.drawn["epsilon"] <= offer.cost["epsilon"]
