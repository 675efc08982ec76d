from __future__ import annotations

import numpy as np
import pytest

from consilo.errors import IncompatibleJob, ModelDiverged
from consilo.wire import params as tree
from consilo.wire.params import Params


def _params(seed: int) -> Params:
    rng = np.random.default_rng(seed)
    return {
        "b": rng.normal(size=(2, 3)).astype(np.float32),
        "a": rng.normal(size=()).astype(np.float64),
    }


def test_subtract_undoes_add_and_keeps_order_and_dtypes() -> None:
    one, two = _params(1), _params(2)
    back = tree.subtract(tree.add(one, two), two)
    assert list(back) == ["b", "a"]
    for name in one:
        assert back[name].dtype == one[name].dtype
        np.testing.assert_allclose(back[name], one[name], atol=1e-6)


def test_scale_keeps_dtypes_and_refuses_integers() -> None:
    assert tree.scale(_params(1), 0.5)["b"].dtype == np.float32
    with pytest.raises(IncompatibleJob, match="steps"):
        tree.scale({"steps": np.zeros(1, np.int64)}, 0.5)


def test_unlike_trees_are_refused() -> None:
    with pytest.raises(IncompatibleJob, match="entries a"):
        tree.add(_params(1), {"b": np.zeros((2, 3))})
    with pytest.raises(IncompatibleJob, match="shape"):
        tree.add(_params(1), _params(1) | {"b": np.zeros(3)})


def test_check_finite_names_the_entry() -> None:
    tree.check_finite(_params(1) | {"n": np.array(3)}, where="here")
    with pytest.raises(ModelDiverged, match=r"silo north.* in b"):
        tree.check_finite(_params(1) | {"b": np.array([np.inf])}, where="silo north")


def test_digest_sees_names_order_shapes_and_values() -> None:
    one = _params(1)
    assert tree.digest(one) == tree.digest({k: v.copy() for k, v in one.items()})
    changed = [
        one | {"b": one["b"] + 1},
        one | {"b": one["b"].reshape(3, 2)},
        {"c": one["b"], "a": one["a"]},
        one | {"b": one["b"].astype(np.float64)},
    ]
    assert len({tree.digest(each) for each in [one, *changed]}) == 5


def test_num_bytes_and_select() -> None:
    assert tree.num_bytes(_params(1)) == 6 * 4 + 8
    assert list(tree.select(_params(1), ("a",))) == ["a"]
