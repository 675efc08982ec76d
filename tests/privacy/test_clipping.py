"""Ways to sum clipped gradients equal one gradient at a time, and the rule picks one that does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from consilo.privacy.clipping import BookKeeping, HookedRows, NotBookable, RowLosses, clipped_sums

NORM = 0.3
ROWS = 6


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8, padding_idx=0)
        self.norm = nn.LayerNorm(8)
        self.parts = nn.Linear(8, 24)
        self.join = nn.Linear(8, 8, bias=False)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.parts(self.norm(self.embed(tokens))).chunk(3, dim=-1)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        result: Tensor = self.head(self.join(mixed).mean(dim=1))
        return result


class SharedLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.head(self.layer(torch.tanh(self.layer(features))))
        return result


class OutsideItsLayer(SharedLayer):
    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.head(self.layer(features) @ self.layer.weight)
        return result


class SequenceFirst(nn.Module):
    """Its linear layer sees (tokens, rows, width), with as many tokens as rows in the probe."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(2, 5), nn.Linear(5, 3)

    def forward(self, features: Tensor) -> Tensor:
        tokens = features.reshape(len(features), -1, 2).transpose(0, 1)
        result: Tensor = self.head(torch.tanh(self.layer(tokens)).mean(dim=0))
        return result


class OwnParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.5, 2.0, 1.0, 1.5]))
        self.head = nn.Linear(4, 3)

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.head(features * self.scale)
        return result


def conv(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))


IMAGE, SERIES, VECTOR = (ROWS, 2, 9, 8), (ROWS, 3, 12), (ROWS, 4)
BOOKED = {
    "linear": (lambda: nn.Linear(4, 3), VECTOR),
    "perceptron": (
        lambda: nn.Sequential(nn.Linear(4, 7), nn.ReLU(inplace=True), nn.Linear(7, 3)),
        VECTOR,
    ),
    "no bias": (lambda: nn.Sequential(nn.Linear(4, 7, bias=False), nn.Linear(7, 3)), VECTOR),
    "layer norm": (lambda: nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3)), VECTOR),
    "conv2d": (
        lambda: conv(nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0)), nn.ReLU()),
        IMAGE,
    ),
    "dilated": (lambda: conv(nn.Conv2d(2, 4, 2, dilation=2, padding="valid", bias=False)), IMAGE),
    "group norm": (lambda: conv(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU()), IMAGE),
    "conv1d": (lambda: conv(nn.Conv1d(3, 5, 4, stride=2, padding=1), nn.Tanh()), SERIES),
    "attention": (Attention, None),
}
OTHERS = {
    "a layer used twice": (SharedLayer, VECTOR),
    "a parameter outside its layer": (OutsideItsLayer, VECTOR),
    "a parameter in no layer": (OwnParameter, VECTOR),
    "grouped convolution": (lambda: conv(nn.Conv2d(2, 4, 3, groups=2)), IMAGE),
    "circular padding": (
        lambda: conv(nn.Conv1d(3, 4, 3, padding=1, padding_mode="circular")),
        SERIES,
    ),
}


def _case(make, shape) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(3)
    model = make()
    features = torch.randint(0, 11, (ROWS, 5)) if shape is None else torch.randn(shape)
    model(features)
    return model, features, torch.randint(0, 3, (ROWS,))


def _losses(features: Tensor, labels: Tensor) -> RowLosses:
    return lambda model: functional.cross_entropy(model(features), labels, reduction="none")


def _oracle(model: nn.Module, features: Tensor, labels: Tensor, norm: float = NORM) -> list[Tensor]:
    parameters = [each for each in model.parameters() if each.requires_grad]
    sums = [torch.zeros_like(each, dtype=torch.float64) for each in parameters]
    for row in range(len(features)):
        loss = _losses(features[row : row + 1], labels[row : row + 1])(model).sum()
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        parts = [
            torch.zeros_like(t) if g is None else g.double()
            for t, g in zip(sums, found, strict=True)
        ]
        size = torch.stack([each.norm() for each in parts]).norm()
        factor = min(1.0, norm / max(float(size), 1e-300))
        sums = [total + factor * each for total, each in zip(sums, parts, strict=True)]
    return sums


def _picked(model: nn.Module, features: Tensor, labels: Tensor, norm: float = NORM):
    return clipped_sums(
        model,
        [each for each in model.parameters() if each.requires_grad],
        norm,
        probe=_losses(features[:3], labels[:3]),
        num_probe_rows=3,
        probe_row=_losses(features[:1], labels[:1]),
    )


def _compare(sums, expected: list[Tensor]) -> None:
    for mine, known in zip(sums.take(), expected, strict=True):
        torch.testing.assert_close(mine.double(), known, atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm", [0.05, 0.3, 1e6])
@pytest.mark.parametrize("name", BOOKED)
def test_book_keeping_equals_one_gradient_at_a_time(name: str, norm: float) -> None:
    model, features, labels = _case(*BOOKED[name])
    expected = _oracle(model, features, labels, norm)
    sums = _picked(model, features, labels, norm)
    assert isinstance(sums, BookKeeping)
    sums.add(_losses(features[:4], labels[:4]), 4)
    sums.add(_losses(features[4:], labels[4:]), 2)
    _compare(sums, expected)
    assert all(not bool(each.any()) for each in sums.take())  # starts again from zero
    sums.close()
    assert not any(each._forward_hooks for each in model.modules())


@pytest.mark.parametrize("name", OTHERS)
def test_the_rule_leaves_other_models_to_opacus(name: str) -> None:
    model, features, labels = _case(*OTHERS[name])
    sums = _picked(model, features, labels)
    assert isinstance(sums, HookedRows)
    sums.close()


def test_what_opacus_takes_over_is_exact_too() -> None:
    model, features, labels = _case(*OTHERS["a layer used twice"])
    expected = _oracle(model, features, labels)
    sums = _picked(model, features, labels)
    sums.add(_losses(features, labels), ROWS)
    _compare(sums, expected)
    sums.close()


def test_rows_that_are_not_the_first_dimension_are_noticed() -> None:
    """The sum of the gradients is right there, and each row's norm is wrong."""
    torch.manual_seed(0)
    model, features, labels = SequenceFirst(), torch.randn(3, 6), torch.tensor([0, 1, 2])
    sums = BookKeeping(model, list(model.parameters()), NORM)
    with pytest.raises(NotBookable, match=r"one row per row|first dimension"):
        sums.confirm(_losses(features, labels), 3, _losses(features[:1], labels[:1]))


def test_an_input_that_is_changed_in_place_is_noticed() -> None:
    class Overwrites(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, features: Tensor) -> Tensor:
            hidden = features.clone()
            self.first(hidden)
            result: Tensor = self.head(self.first(hidden) + hidden.mul_(2.0))
            return result

    model, features, labels = _case(Overwrites, VECTOR)
    sums = BookKeeping(model, list(model.parameters()), NORM)
    with pytest.raises(NotBookable):
        sums.add(_losses(features, labels), ROWS)


def test_frozen_parameters_are_left_out() -> None:
    model, features, labels = _case(*BOOKED["perceptron"])
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    expected = _oracle(model, features, labels)
    sums = _picked(model, features, labels)
    assert isinstance(sums, BookKeeping)
    sums.add(_losses(features, labels), ROWS)
    _compare(sums, expected)


def test_one_rows_part_is_never_longer_than_the_norm() -> None:
    for make, shape in BOOKED.values():
        model, features, labels = _case(make, shape)
        wild = features if features.dtype == torch.int64 else features * 1e4
        sums = BookKeeping(model, list(model.parameters()), NORM)
        for row in range(ROWS):
            sums.add(_losses(wild[row : row + 1], labels[row : row + 1]), 1)
            size = torch.stack([each.norm() for each in sums.take()]).norm()
            assert float(size) <= NORM * (1 + 1e-5)
        sums.close()
