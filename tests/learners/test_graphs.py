"""A model that is written down does what its code does, and nothing that it says of itself can do
more than compute with one row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from consilo.errors import ReplyInvalid
from consilo.learners import graphs
from consilo.learners.graphs import Graph, Untraceable, traced
from consilo.privacy.clipping import MappedRows, clipped_sums
from consilo.wire.payload import pack, unpack

INPUTS = 6
NORM = 0.5


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(1, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.out = nn.Linear(8, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.out(self.layer(self.into(features[:, :, None])).mean(1))


class Own(nn.Module):
    """Parameters of its own, a constant, a buffer, and a layer that is used twice."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(INPUTS, INPUTS)
        self.weight = nn.Parameter(torch.ones(INPUTS) / 3)
        self.register_buffer("scale", torch.arange(1.0, INPUTS + 1))

    def forward(self, features: Tensor) -> Tensor:
        hidden = torch.tanh(self.layer(features)) * self.scale
        hidden = torch.where(hidden > 0, hidden, 0.1 * hidden) + torch.linspace(0, 1, INPUTS)
        return (self.layer(hidden) * self.weight).sum(dim=1)


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, INPUTS)), nn.Conv1d(1, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(),
        nn.MaxPool1d(2), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def mlp(*, dropout: float = 0.0) -> nn.Module:
    return nn.Sequential(
        nn.Linear(INPUTS, 16), nn.LayerNorm(16), nn.ReLU(inplace=True), nn.Dropout(dropout),
        nn.Linear(16, 2), nn.ELU(),
    )  # fmt: skip


def embedding() -> nn.Module:
    return nn.Sequential(nn.Linear(INPUTS, 4), nn.LogSoftmax(dim=1))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "attention": Attention, "own": Own, "conv": conv, "mlp": mlp, "softmax": embedding,
}  # fmt: skip


def written(model: nn.Module) -> Graph:
    """What a silo makes of the bytes that a model's process sends."""
    said = unpack(pack(traced(model, INPUTS)))
    state = {name: each.detach().numpy() for name, each in model.state_dict().items()}
    trained = frozenset(name for name, each in model.named_parameters() if each.requires_grad)
    return Graph(said, state, trained)


def loss(model: Callable[[Tensor], Any], rows: Tensor) -> Tensor:
    return (model(rows).reshape(len(rows), -1) ** 2).sum(dim=1)


def one_by_one(model: nn.Module, rows: Tensor, groups: list[list[int]], norm: float) -> Any:
    """The sum over groups of the mean of their rows' gradients, clipped: each by autograd."""
    total = 0.0
    for group in groups:
        parts = [
            torch.autograd.grad(loss(model, rows[place : place + 1]).sum(), [*model.parameters()])
            for place in group
        ]
        flat = [torch.cat([each.reshape(-1).double() for each in part]) for part in parts]
        mean = torch.stack(flat).mean(dim=0)
        total = total + mean * min(1.0, norm / float(mean.norm()))
    return total


@pytest.mark.parametrize("name", sorted(MODELS))
def test_clipped_sums_are_those_of_the_models_code(name: str) -> None:
    torch.manual_seed(3)
    model = MODELS[name]()
    graph, rows = written(model), torch.randn(9, INPUTS)
    assert [*graph.state_dict()] == [*model.state_dict()]
    assert torch.allclose(graph(rows), model(rows), rtol=1e-4, atol=1e-5)
    names = [name for name, _ in model.named_parameters()]
    held = dict(graph.named_parameters())
    ours = clipped_sums(
        graph,
        [held[each] for each in names],
        NORM,
        probe=lambda _: rows,
        num_probe_rows=0,
        probe_row=lambda _: rows,
    )
    assert isinstance(ours, MappedRows)
    for groups, more in (
        ([[each] for each in range(9)], {}),
        ([[1, 2], [3, 5, 8]], {"places": torch.tensor([1, 2, 3, 5, 8]), "sizes": (2, 3)}),
    ):
        ours.add(lambda way: loss(way, rows), len(rows), **more)
        found = torch.cat([each.reshape(-1) for each in ours.take()])
        right = one_by_one(model, rows, groups, NORM)
        assert right.norm() > 0.1
        torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-5)
    ours.close()


def test_dropout_draws_a_mask_for_each_row() -> None:
    """And keeps the mean, which is the model's without dropout."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.25), nn.Linear(INPUTS, 1, bias=False))
    graph = written(model)
    same = torch.randn(1, INPUTS).expand(20_000, INPUTS)
    graph.train()
    found = graph(same)
    assert len(found.unique()) > 32
    deviation = found.std() / len(found) ** 0.5
    assert abs(found.mean() - model.eval()(same[:1])[0]) < 5 * deviation
    assert torch.equal(graph.eval()(same[:5]), model(same[:5]))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(INPUTS, 1)
        self.calls = 0


class Branches(Twice):
    def forward(self, features: Tensor) -> Tensor:
        return self.layer(features) * (2 if float(features[0, 0]) > 50 else 1)


class Counts(Twice):
    def forward(self, features: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(features) * self.calls


class Stops(Twice):
    def forward(self, features: Tensor) -> Tensor:
        with torch.no_grad():
            half = self.layer(features)
        return half + self.layer(features)


class Draws(Twice):
    def forward(self, features: Tensor) -> Tensor:
        return self.layer(features + torch.randn_like(features))


class Looks(Twice):
    def forward(self, features: Tensor) -> Tensor:
        return self.layer(torch.eye(INPUTS)[features[:, 0].long()])


class Tied(Twice):
    def __init__(self) -> None:
        super().__init__()
        self.again = self.layer

    def forward(self, features: Tensor) -> Tensor:
        return self.again(features)


@pytest.mark.parametrize("kind", [Branches, Counts, Stops, Draws, Looks, Tied])
def test_what_cannot_be_written_down_is_not(kind: type[nn.Module]) -> None:
    with pytest.raises(Untraceable):
        traced(kind(), INPUTS)


GOOD = traced(nn.Linear(INPUTS, 1), INPUTS)
VALUE = {"value": 0}


def forged(*nodes: Any) -> dict[str, Any]:
    return {**GOOD, "training": list(nodes)}


@pytest.mark.parametrize(
    "said",
    [
        {},
        {**GOOD, "training": []},
        {**GOOD, "entries": ["other"]},
        {**GOOD, "entries": GOOD["entries"][:1]},
        forged(["set_", [VALUE, VALUE], {}]),
        forged(["empty.memory_format", [[4]], {}]),
        forged(["embedding", [VALUE, VALUE], {}]),
        forged(["_local_scalar_dense", [VALUE], {}]),
        forged(["relu.__class__", [VALUE], {}]),
        forged(["relu_", [VALUE], {}]),
        forged(["relu", [{"value": 3}], {}]),
        forged(["relu", [{"value": -1}], {}]),
        forged(["relu", [{"value": True}], {}]),
        forged(["relu", [{"constant": 0}], {}]),
        forged(["relu", [{"file": 0}], {}]),
        forged(["relu", ["text"], {}]),
        forged(["expand", [VALUE, [1 << 40]], {}]),
        forged(["relu", [VALUE], {"out of": 1}]),
        forged(["relu", {"value": 0}, {}]),
        forged("relu"),
    ],
)
def test_what_is_no_such_list_is_refused(said: Any) -> None:
    state = {
        name: np.zeros((1, INPUTS) if name == "weight" else 1, "f4") for name in ("weight", "bias")
    }
    with pytest.raises(ReplyInvalid):
        Graph(said, state, frozenset(state))


def test_no_operation_can_write_draw_or_read_elsewhere() -> None:
    """By torch's own word of each: its schema names nothing that it changes, and it is no random
    one; none reads memory that nobody has written."""
    for name in graphs.OPERATIONS:
        found = graphs._found(name)
        assert not found._schema.is_mutable, name
        assert torch.Tag.nondeterministic_seeded not in found.tags, name
        assert torch.Tag.data_dependent_output not in found.tags, name
        assert torch.Tag.dynamic_output_shape not in found.tags, name
        assert not name.startswith(("empty", "new_empty", "as_strided", "set_"))


def test_an_operation_over_all_rows_has_one() -> None:
    """Whatever was told, it is mapped over rows: a sum over the first dimension is of one row."""
    model = nn.Linear(INPUTS, 1)
    said = forged(
        ["sum.dim_IntList", [{"value": 2}, [0], True], {}],
        ["expand", [{"value": 3}, [4, INPUTS]], {}],
        ["sum.dim_IntList", [{"value": 4}, [1]], {}],
    )
    state = {name: each.detach().numpy() for name, each in model.state_dict().items()}
    graph = Graph(said, state, frozenset(state))
    rows = torch.randn(5, INPUTS, requires_grad=True)
    (reached,) = torch.autograd.grad(graph(rows)[2].sum(), rows)
    assert reached[2].abs().sum() > 0
    assert reached[[0, 1, 3, 4]].abs().sum() == 0
