"""Models for tables: linear ones and a small perceptron, with logits or values as outputs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class LogisticRegression(nn.Module):
    """One linear layer that gives logits.

    Args:
        num_inputs: columns of the features.
        num_outputs: 1 for two classes, else the number of classes.
        zero_init: start from zeros, which makes the convex problem independent of the seed;
            False keeps PyTorch's random start.
    """

    def __init__(self, num_inputs: int, num_outputs: int = 1, *, zero_init: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(num_inputs, num_outputs)
        if zero_init:
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits, (n, num_outputs)."""
        logits: Tensor = self.linear(features)
        return logits


class LinearRegression(LogisticRegression):
    """One linear layer that gives values."""


class MLP(nn.Module):
    """A perceptron with ReLU between its layers.

    With 30 inputs and two outputs the default has 2,114 parameters; with one output 2,081.

    Args:
        num_inputs: columns of the features.
        num_outputs: logits or values to give.
        hidden: width of each hidden layer.
        dropout: probability of dropping a hidden unit while training.
    """

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int = 1,
        *,
        hidden: Sequence[int] = (32, 32),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = num_inputs
        for each in hidden:
            layers += [nn.Linear(width, each), nn.ReLU()]
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
            width = each
        layers.append(nn.Linear(width, num_outputs))
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """Return (n, num_outputs)."""
        outputs: Tensor = self.layers(features)
        return outputs
