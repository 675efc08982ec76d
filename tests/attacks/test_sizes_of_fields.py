"""What a bundle's own protocol lets leave is what it declares, however its code lies of it."""

from __future__ import annotations

from pathlib import Path

import clinic
import numpy as np
import pytest
import warm_silo

from consilo.errors import ReplyInvalid
from consilo.kernel.verbs import (
    Disclosure,
    Verb,
    arrays,
    count,
    declaration,
    declared_field,
    envelopes,
    number,
    numbers,
    tensors,
)
from consilo.protocols.dispatch import _declared_elsewhere
from consilo.transports.flower.bundle import build_bundle
from silos.gate.policy import TEMPLATE

LIES = b"""
import numpy as np

from consilo.kernel import verbs
from consilo.protocol import Disclosure, Protocol, arrays, count, number, numbers, tensors, verb

verbs.Verb.check = lambda *_: None  # the worker's own check is the bundle's to change
SECRET = np.arange(40 * 300, dtype="f8").reshape(40, 300)  # as large as all rows here


class Lies(Protocol):
    @verb("count", replies={"n": count()})
    def tell_count(self, silo, message):
        return {"n": SECRET}

    @verb("number", replies={"n": number(Disclosure.STATISTIC)})
    def tell_number(self, silo, message):
        return {"n": {"1.0": 1.0}}

    @verb("dtype", replies={"t": tensors(Disclosure.UPDATE, like="zero")})
    def tell_dtype(self, silo, message):
        return {"t": {"w": np.zeros(3, "f8")}}

    @verb("shape", replies={"t": tensors(Disclosure.UPDATE, like="zero")})
    def tell_shape(self, silo, message):
        return {"t": {"w": np.zeros((40, 300), "f4")}}

    @verb("name", replies={"t": tensors(Disclosure.UPDATE, like="zero")})
    def tell_name(self, silo, message):
        return {"t": {"w": np.zeros(3, "f4"), "x" * 4000: np.zeros(3, "f4")}}

    @verb("like", replies={"t": tensors(Disclosure.UPDATE, like="nothing")})
    def tell_like(self, silo, message):
        return {"t": {"w": SECRET}}

    @verb("arrays", replies={"a": arrays(Disclosure.STATISTIC)})
    def tell_arrays(self, silo, message):
        return {"a": {"x": SECRET}}

    @verb("names", replies={"a": numbers(Disclosure.STATISTIC)})
    def tell_names(self, silo, message):
        return {"a": {str(row) * 20: 1.0 for row in SECRET[0]}, "b": 1.0}

    @verb("long", replies={"a": numbers(Disclosure.STATISTIC)})
    def tell_long(self, silo, message):
        return {"a": {"age 61, ill; " * 6000: 1.0}}

    @verb("undeclared", replies={"n": count()})
    def tell_undeclared(self, silo, message):
        return {"n": 1, "rows": SECRET}

    @verb("fields", replies={f"n{each}": count() for each in range(65)})
    def tell_fields(self, silo, message):
        return {f"n{each}": 1 for each in range(65)}

    @verb("honest", replies={"n": count(), "t": tensors(Disclosure.UPDATE, like="zero"),
                             "a": arrays(Disclosure.STATISTIC)})
    def tell_honest(self, silo, message):
        return {"n": 40, "t": {"w": np.ones(3, "f4")}, "a": {"x": SECRET[0]}}


def metrics(outputs, targets):
    return {"age 61, ill; " * 6000: 1.0}
"""
CLASSES = (Disclosure.METRIC, Disclosure.STATISTIC, Disclosure.UPDATE)
WAYS = (
    *("count", "number", "dtype", "shape", "name", "like", "arrays", "names", "long"),
    *("undeclared", "fields"),
)


SIZES = ("arrays", "long", "metrics")
"""What is bounded without the wall too, where a bundle may change any other check."""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory):
    return {each: ask_all(tmp_path_factory.mktemp(each), each) for each in ("required", "off")}


def ask_all(folder: Path, sandbox: str):
    policy = TEMPLATE.replace("sandbox: required", f"sandbox: {sandbox}")
    silo = warm_silo.make(folder / "north", policy=policy)
    bundle = warm_silo.approved(silo, build_bundle({"lies.py": LIES}, disclosures=CLASSES))
    own = clinic.job(protocol={"name": "lies:Lies"})
    asked = {"zero": {"w": np.zeros(3, "f4")}}
    with warm_silo.warm(silo) as process:
        process.start()
        found = {
            way: warm_silo.ask(
                process, bundle, own, run=way, protocol="lies:Lies", verb=way, payload=asked
            )
            for way in (*WAYS, "honest")
        }
        job = clinic.job(metrics="lies:metrics")
        found["metrics"] = warm_silo.ask(process, bundle, job, run="metrics")
    return found


@pytest.mark.parametrize(
    ("sandbox", "way"),
    [*(("required", way) for way in (*WAYS, "metrics")), *(("off", way) for way in SIZES)],
)
def test_the_guard_checks_each_field_itself(answers, sandbox: str, way: str) -> None:
    reply, fields = answers[sandbox][way]
    assert (reply.status, reply.code, fields) == ("fault", "invalid_reply", {}), reply


@pytest.mark.parametrize("sandbox", ["required", "off"])
def test_what_is_declared_leaves(answers, sandbox: str) -> None:
    reply, fields = answers[sandbox]["honest"]
    assert reply.status == "ok", reply.reason
    assert fields["n"] == 40
    assert fields["a"]["x"].shape == (300,)


def test_a_declaration_told_by_the_worker_has_our_own_check() -> None:
    payload = {"zero": {"w": np.zeros(3, "f4")}}
    fields = {
        "count": (count(), 1, 1.5),
        "number": (number(Disclosure.METRIC), 1.0, float("nan")),
        "numbers": (numbers(Disclosure.METRIC), {"a": 1.0}, {"a": "text"}),
        "arrays": (arrays(Disclosure.METRIC), {"a": np.zeros(2)}, {"a": np.array(["text"])}),
        "tensors": (tensors(Disclosure.UPDATE, like="zero"), payload["zero"], {"w": np.zeros(3)}),
        "envelopes": (envelopes(), {"a": np.zeros(2, "u1")}, {"a": np.zeros(2)}),
    }
    for kind, (field, good, bad) in fields.items():
        told = declared_field(declaration(field))
        assert (told.kind, told.classes, told.like) == (kind, field.classes, field.like)
        told.check("x", good, payload)
        with pytest.raises(ReplyInvalid):
            told.check("x", bad, payload)
    for wrong in ({}, {"kind": "code"}, declaration(count()) | {"disclosure": "all"}):
        with pytest.raises(ReplyInvalid):
            declared_field(wrong)
    with pytest.raises(ReplyInvalid):
        _declared_elsewhere("v", {"patient 4711 is ill": count()})


def test_what_no_declaration_sizes_is_counted_with_its_names() -> None:
    verb = Verb("v", {"n": count(), "a": arrays(Disclosure.STATISTIC)}, dict)
    small = verb.unsized_bytes({"n": 1, "a": {"x": np.zeros(10)}})
    assert 80 <= small < 120
    assert verb.unsized_bytes({"n": 1, "a": {"x" * 500: np.zeros(10)}}) > small + 400
    assert verb.unsized_bytes({"n": 1, "a": {"x": 2**80_000}}) >= 10_000


def test_the_policys_template_says_the_limit(tmp_path: Path) -> None:
    assert "unsized_kib: 64" in TEMPLATE
