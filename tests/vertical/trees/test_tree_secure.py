"""Trees with encrypted gradients: those of the plain kind, and nobody else who reads a gradient."""

import sys
from dataclasses import replace

import boosted
import numpy as np
import pytest
import vertical
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from consilo.errors import Refused, ReplyInvalid
from consilo.kernel.headers import Header, Manifest
from consilo.kernel.verbs import Disclosure
from consilo.vertical.linear.solve import curvatures
from consilo.vertical.parts import Part
from consilo.vertical.trees.paillier import PrivateKey
from consilo.vertical.trees.protocol import VerticalTrees
from consilo.vertical.trees.secure_histograms import POINT, Opened, Slots, Sums, wholes_of
from consilo.vertical.trees.trees import Growth, best_splits
from consilo.wire.payload import unpack
from silos.gate.policy import Circumstances, Policy, Rule

KEY = PrivateKey.generate(512)  # small: the arithmetic is the same at any size
SECURE = {"histograms": "secure", "judged_folds": 1, "max_bins": 4, "depth": 2}


def sums_of(codes, slope, levels, *, slots):
    """A feature silo's sums of each level, by difference where there is a level above."""
    used = np.flatnonzero(np.isfinite(slope))
    pairs, exponents = slots.encoded(slope[used], curvatures("binary", slope[used]))
    numbers = dict(zip(used.tolist(), KEY.encrypt(pairs), strict=True))
    found, above = [], None
    for level, nodes in enumerate(levels):
        above = Sums.of(KEY.public, numbers, codes, nodes, num_nodes=2**level, parents=above)
        found.append(above)
    return found, exponents


@pytest.fixture
def grown():
    """Rows in the nodes of two levels, some left out, some in a node that grows no more."""
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 5, (200, 3)).astype(np.uint8)
    slope = rng.uniform(-0.9, 0.9, 200)
    slope[:15] = np.nan
    first = (codes[:, 0] > 0).astype(np.int8)
    second = np.where(first == 1, 2 + (codes[:, 1] > 3), -1).astype(np.int8)
    return codes, slope, (np.zeros(200, np.int8), first, second)


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_secure_trees_are_the_plain_ones(task):
    rows = boosted.table(240, task=task)
    few = {"args": SECURE | {"depth": 3, "max_bins": 8}, "protocol": {"rounds": 2}}
    found, hosts = boosted.run(rows, task, **few)
    few["args"] = {**few["args"], "histograms": "plain"}
    plain, others = boosted.run(rows, task, **few)
    assert found.metrics == pytest.approx(plain.metrics, abs=1e-9)
    for silo in boosted.COLUMNS:
        mine, theirs = (Part.from_bytes(each[silo].part("r")).content for each in (hosts, others))
        assert set(mine) == set(theirs)
        for name, value in theirs.items():
            assert mine[name] == pytest.approx(value, abs=1e-12), (silo, name)
    said = boosted.scored(hosts, task)
    assert np.array_equal(said.to_numpy(), boosted.scored(others, task).to_numpy())


def test_sums_by_difference_are_the_sums_of_the_rows(grown):
    codes, slope, levels = grown
    slots = Slots(len(codes), KEY.public.room)
    found, exponents = sums_of(codes, slope, levels, slots=slots)
    curve, used = curvatures("binary", slope), np.isfinite(slope)
    for level, (sums, nodes) in enumerate(zip(found, levels, strict=True)):
        assert sums.counts.shape == (2**level, 3, 5)
        for place, value in enumerate(sums.values):
            node, column, level_bin = np.unravel_index(place, sums.counts.shape)
            rows = used & (nodes == node) & (codes[:, column] == level_bin)
            expected = [[slope[rows].sum(), curve[rows].sum()]]
            opened = slots.decoded(KEY.decrypt(value), 1, exponents)
            assert opened == pytest.approx(np.array(expected), abs=200 * 2.0**-POINT)
            assert sums.counts[node, column, level_bin] == rows.sum()


def test_the_best_encrypted_split_is_the_best_split(grown):
    codes, slope, levels = grown
    slots, growth = Slots(len(codes), KEY.public.room), Growth(0.5, 4)
    found, exponents = sums_of(codes, slope, levels, slots=slots)
    curve = curvatures("binary", slope)
    for level, (sums, nodes) in enumerate(zip(found, levels, strict=True)):
        offers = sums.offers(growth.min_rows)
        opened = Opened.of(
            KEY,
            sums.packed(KEY.public, offers, slots),
            np.bincount(offers[:, 0], minlength=2**level),
            slots=slots,
            exponents=exponents,
            wholes=wholes_of(slope, curve, nodes, 2**level),
            growth=growth,
            sender="shop",
        )
        best = best_splits(codes, slope, curve, nodes, num_nodes=2**level, growth=growth)
        assert opened.gains == pytest.approx(best.gains, abs=1e-4)
        for node in np.flatnonzero(best.gains > 0):
            _, column, level_bin = offers[offers[:, 0] == node][opened.offers[node]]
            assert (column, level_bin) == (best.columns[node], best.bins[node])
        assert (best.gains > 0).sum() == (opened.offers >= 0).sum() > 0


def test_what_is_sent_is_blinded_and_in_no_order_of_columns(grown):
    codes, slope, levels = grown
    slots = Slots(len(codes), KEY.public.room)
    (sums, *_), _ = sums_of(codes, slope, levels, slots=slots)
    offers = [sums.offers(1) for _ in range(4)]
    assert len({each.tobytes() for each in offers}) > 1
    assert len({np.sort(each, axis=0).tobytes() for each in offers}) == 1
    packed = [sums.packed(KEY.public, offers[0], slots) for _ in range(2)]
    assert not np.any(np.all(packed[0] == packed[1], axis=1))


@given(st.integers(1, 2**20), st.sampled_from([511, 1023, 2047]))
def test_the_largest_sums_of_all_rows_fit(rows, room):
    """The bound of the module's proof, at its edge: every number as large as it can be."""
    slots = Slots(rows, room)
    largest = rows * 2**POINT
    assert largest < 2 ** (slots.width - 2)
    signs = [(-1) ** place for place in range(2 * slots.pairs)]
    for numbers in ([largest] * len(signs), [-largest] * len(signs), [s * largest for s in signs]):
        packed = sum(value << (slots.width * at) for at, value in enumerate(numbers))
        assert abs(packed) < 2 ** (room - 1)
        opened = slots.decoded(packed, slots.pairs, (0, 0))
        assert opened.ravel().tolist() == numbers


def test_numbers_of_rows_keep_below_the_point():
    rng = np.random.default_rng(1)
    slots = Slots(1000, 2047)
    for scale in (1e-9, 1.0, 3.5e8):
        slopes, curves = scale * rng.normal(size=1000), np.ones(1000)
        pairs, exponents = slots.encoded(slopes, curves)
        opened = np.array([slots.decoded(each, 1, exponents)[0] for each in pairs])
        largest = np.abs(slopes).max()
        assert np.abs(opened[:, 0] - slopes).max() <= largest * 2.0**-POINT
        assert (opened[:, 1] == 1).all()
        assert max(abs(g) for g in np.ldexp(opened[:, 0], exponents[0])) <= 2**POINT
    assert slots.encoded(np.zeros(3), np.zeros(3))[0] == [0, 0, 0]


def test_sums_that_cannot_be_are_refused(grown):
    codes, slope, levels = grown
    slots = Slots(len(codes), KEY.public.room)
    with pytest.raises(ReplyInvalid, match="larger than sums of the rows"):
        slots.decoded(1 << (2 * slots.width), 1, (0, 0))
    (sums, *_), exponents = sums_of(codes, slope, levels, slots=slots)
    packed = sums.packed(KEY.public, sums.offers(1), slots)
    said = {"slots": slots, "exponents": exponents, "growth": Growth(0.0, 1), "sender": "shop"}
    wholes = np.zeros((1, 2))
    for counts in (np.array([1]), np.array([-1]), np.array([10_000])):
        with pytest.raises(ReplyInvalid, match="another number of sums"):
            Opened.of(KEY, packed, counts, wholes=wholes, **said)


def test_no_gradient_lies_in_a_feature_silo():
    """What a feature silo is told is a public key, ciphertexts, and rows that share a node."""
    _, hosts = boosted.run(boosted.table(120), args=SECURE, protocol={"rounds": 1})
    kept = {
        name: unpack(value)["value"]
        for (_, name), value in hosts["shop"].state.items()
        if name.partition("-")[0] in ("numbers", "sums", "offers", "won")
    }
    assert {name.partition("-")[0] for name in kept} == {"numbers", "sums", "offers", "won"}
    told = kept["numbers-0"]
    assert set(told) == {"n", "used", "numbers"}
    assert [each.shape for each in told["numbers"]] == [(120, 512), (80, 512), (80, 512)]
    labels = unpack(hosts["bank"].state["r", "models-2"])["value"]
    for value in (labels["scores"][0], labels["kept"]["values"][0]):
        assert all(
            np.asarray(value).tobytes()[:8] not in each for each in hosts["shop"].state.values()
        )


def listening(hosts, silo):
    """What a feature silo keeps of what it was told, in the order of the steps."""
    heard, keep = [], hosts[silo].keep

    def hear(run_id, name, content):
        if name.partition("-")[0] in ("gradients", "offers"):
            heard.append(unpack(content)["value"])
        keep(run_id, name, content)

    hosts[silo].keep = hear
    return heard


def test_gradients_tell_the_labels_and_nodes_tell_less():
    """Label inference by a feature silo: from what it is told, with one positive row known to it.

    The guess from nodes: rows that were with the known one, the more often the likelier. It is what
    remains with secure histograms; the mean is over the rows that may be the known one.
    """
    rows, labels = boosted.table(300), boosted.table(300)["y"].to_numpy()
    found = {}
    for kind in ("plain", "secure"):
        hosts = vertical.silos_of(rows, boosted.COLUMNS)
        heard = listening(hosts, "shop")
        job = boosted.job_of(args=SECURE | {"histograms": kind}, protocol={"rounds": 3})
        vertical.driven(job, boosted.contract_of(), hosts)
        found[kind] = heard
    slope = found["plain"][0]["gradients"][0]
    assert roc_auc_score(labels, -slope) == 1
    nodes = np.array([value["nodes"][0] for value in found["secure"]])
    assert nodes.shape == (6, 300)
    guesses = []
    for known in np.flatnonzero(labels)[:50]:
        together = (nodes == nodes[:, [known]]).sum(axis=0)
        others = np.arange(300) != known
        guesses.append(roc_auc_score(labels[others], together[others]))
    assert np.mean(guesses) == pytest.approx(0.55, abs=0.05)


def test_the_classes_of_what_is_sealed_say_that_no_label_leaves():
    verbs = VerticalTrees.verbs()
    secure = VerticalTrees.from_job(boosted.job_of(args=SECURE))
    plain = VerticalTrees.from_job(boosted.job_of())
    for name in (*secure.label_verbs, *secure.feature_verbs):
        assert Disclosure.LABEL not in verbs[name].disclosures
    assert Disclosure.EMBEDDING in verbs["add_up"].disclosures & verbs["divide"].disclosures
    assert Disclosure.UPDATE in verbs["encrypt"].disclosures & verbs["branch"].disclosures
    assert not {"start", "split", "grow"} & {*secure.label_verbs, *secure.feature_verbs}
    assert not {"encrypt", "add_up", "choose"} & {*plain.label_verbs, *plain.feature_verbs}


def test_a_policy_without_labels_lets_secure_trees_train_and_no_others():
    contract, everybody = boosted.contract_of(), tuple(sorted(boosted.COLUMNS))
    kinds = dict.fromkeys(("sealed", "statistic", "embedding", "update", "metric"), True)
    policy = Policy(allow=(Rule(jobs=("*",)),), disclosures=kinds)
    others = Circumstances(0.0, frozenset({"shop", "telecom"}), 0, lambda: 100)

    def permit(job, name):
        manifest = Manifest.of("r", job, contract, "")
        header = Header("r", "0/1/x", "", 0, "bank", "vertical_trees", name, everybody, manifest)
        policy.permit(header, job, VerticalTrees.verbs()[name].asked, others)

    secure = boosted.job_of(args=SECURE)
    for name in VerticalTrees.from_job(secure).label_verbs:
        permit(secure, name)
    with pytest.raises(Refused, match="does not let 'label' leave"):
        permit(boosted.job_of(), "start")


def test_a_silo_of_a_secure_job_answers_no_question_of_the_plain_kind():
    job, contract = boosted.job_of(args=SECURE), boosted.contract_of()
    hosts = vertical.silos_of(boosted.table(60), boosted.COLUMNS)

    class Curious(VerticalTrees):
        histograms = "plain"

    asking = Curious(job)
    kernel, fed = vertical_kernel(job, contract, hosts)
    with pytest.raises(Refused, match="the job's histograms are secure"):
        kernel.run("vertical_trees", asking, fed, boosted.Turn())


def vertical_kernel(job, contract, hosts):
    moved = vertical.LocalTransport({n: vertical.answerer(host) for n, host in hosts.items()})
    kernel = vertical.Kernel(
        moved, run_id="r", job=job, contract=contract, observe=lambda exchange: None
    )
    return kernel, vertical.Federation(tuple(sorted(hosts)), job, contract, lambda: tuple(hosts))


def test_a_silo_without_the_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gmpy2", None)
    with pytest.raises(Refused, match=r"install consilo\[secure-trees\]"):
        boosted.run(boosted.table(60), args=SECURE)


def test_more_ciphertexts_than_a_letter_takes_are_refused_before_any_is_made():
    rows = boosted.table(27_000)
    with pytest.raises(Refused, match="judge fewer folds"):
        boosted.run(rows, args=SECURE | {"folds": 20, "judged_folds": 20})


def test_a_step_that_is_asked_again_grows_the_same_trees():
    """A silo that dies after it has kept its state and before it has answered computes anew."""
    rows, kept = boosted.table(120), []
    job = boosted.job_of(args=SECURE, protocol={"rounds": 2})
    for times in (1, 2):
        hosts = vertical.silos_of(rows, boosted.COLUMNS)
        answers = {name: repeated(host, times) for name, host in hosts.items()}
        transport = vertical.LocalTransport(answers)
        vertical.driven(job, boosted.contract_of(), hosts, transport=transport)
        kept.append(
            [replace(Part.from_bytes(h.part("r")), salt=b"").digest for h in hosts.values()]
        )
    assert kept[0] == kept[1]


def test_training_goes_on_from_a_checkpoint():
    rows, job = boosted.table(120), boosted.job_of(args=SECURE, protocol={"rounds": 3})
    kept = []
    for is_cut in (False, True):
        hosts, state = vertical.silos_of(rows, boosted.COLUMNS), None
        if is_cut:
            kernel, fed = vertical_kernel(job, boosted.contract_of(), hosts)
            driven = kernel.drive(
                "vertical_trees", VerticalTrees.from_job(job), fed, boosted.Turn()
            )
            state = next(driven).state
            driven.close()
        found, _ = vertical.driven(job, boosted.contract_of(), hosts, state=state)
        assert found.round == 3
        kept.append(
            [replace(Part.from_bytes(h.part("r")), salt=b"").digest for h in hosts.values()]
        )
    assert kept[0] == kept[1]


def repeated(host, times):
    host.keep_replies = False
    answer = vertical.answerer(host)
    return lambda parcel: [answer(parcel) for _ in range(times)][-1]
