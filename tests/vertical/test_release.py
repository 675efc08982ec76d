"""The label silo's part goes to the registry where the job asks for it, and nowhere else."""

import numpy as np
import pandas as pd
import pytest
import vertical

from consilo.errors import Refused
from consilo.kernel.federation import Federation
from consilo.kernel.loop import Kernel
from consilo.kernel.steps import Ask
from consilo.kernel.verbs import Permitted
from consilo.vertical.linear.protocol import VerticalLinear
from consilo.vertical.parts import Part

COLUMNS = {"bank": ("b0", "b1"), "shop": ("s0", "s1")}


def hosts_of():
    rng = np.random.default_rng(3)
    rows = pd.DataFrame(rng.normal(size=(80, 4)), columns=["b0", "b1", "s0", "s1"])
    score = rows.sum(axis=1) + rng.logistic(size=80)
    return vertical.silos_of(rows.assign(y=(score > 0).astype(int)), COLUMNS)


def trained(hosts, **args):
    job = vertical.job_of("vertical_linear", COLUMNS, args={"folds": 2, **args})
    found, exchanges = vertical.driven(job, vertical.contract_of(COLUMNS), hosts)
    return found, [each.verb for each in exchanges]


def test_the_top_part_leaves_only_where_the_job_asks_for_it():
    hosts = hosts_of()
    kept, verbs = trained(hosts)
    assert dict(kept.top) == {}
    assert "release" not in verbs
    hosts = hosts_of()
    released, _ = trained(hosts, release_top=True)
    part = Part.from_bytes(hosts["bank"].part("r"))
    assert set(released.top) == {"weights", "intercept"}
    assert np.array_equal(released.top["weights"], part.content["weights"])
    assert released.references["bank"] == part.digest.hex()


def test_a_policy_that_lets_no_update_leave_keeps_the_top_part():
    hosts = hosts_of()

    def permit(header, job, contract, verb):
        if verb.name == "release":
            raise Refused("this silo's policy does not let 'update' leave", code="disclosure")
        return Permitted()

    hosts["bank"].permit = permit
    with pytest.raises(Refused, match="does not let 'update' leave"):
        trained(hosts, release_top=True)


@pytest.mark.parametrize(("silo", "asks"), [("bank", False), ("shop", True), ("shop", False)])
def test_a_coordinator_that_asks_all_the_same_is_refused(silo, asks):
    hosts = hosts_of()
    job = vertical.job_of("vertical_linear", COLUMNS, args={"folds": 2, "release_top": asks})
    contract = vertical.contract_of(COLUMNS)
    vertical.driven(job, contract, hosts)

    class Greedy(VerticalLinear):
        def coordinate(self, fed, state):
            return (yield Ask((silo,), "release", {}))

    moved = vertical.LocalTransport({n: vertical.answerer(host) for n, host in hosts.items()})
    kernel = Kernel(moved, run_id="r", job=job, contract=contract, observe=lambda _: None)
    fed = Federation(tuple(hosts), job, contract, lambda: tuple(hosts))
    answers = kernel.run("vertical_linear", Greedy(job), fed)
    assert answers.replies == {}
    assert "does not release this silo's part" in answers.missing[silo].reason


def test_a_reference_tells_nothing_that_can_be_guessed():
    """Two silos' equal parts have unlike references: random bytes are hashed with them."""
    one, other = hosts_of(), hosts_of()
    trained(one)
    trained(other)
    parts = [Part.from_bytes(hosts["shop"].part("r")) for hosts in (one, other)]
    assert np.array_equal(parts[0].content["weights"], parts[1].content["weights"])
    assert parts[0].digest != parts[1].digest
