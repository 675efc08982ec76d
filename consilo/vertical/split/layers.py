"""The parts of a split neural network, and one step of each; plain torch, no silo and no message.

A bottom model turns a silo's own columns into an embedding; the top model takes all embeddings.
Without privacy the parts learn exactly as one joined network would, each with its own optimiser.

With privacy the unit is one row in one silo, against the other silos (replacing its values). What a
row touches is noisy at every place: its embedding, or the gradient that a label silo sends for it,
is clipped to ``clip`` and gets Gaussian noise; so does the sum of the rows' gradients that updates
a silo's own weights (DP-SGD, Abadi et al. 2016), or the embeddings of other rows would tell of it.
Replacing a row moves either by twice the clipping norm at most. Each row is in one batch of an
epoch, so that an epoch is two Gaussian mechanisms per silo, without amplification by sampling.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from consilo.learners.tasks import Task
from consilo.privacy.clipping import finite, weights_within
from consilo.privacy.noise import SecretStream, add_gaussian, noise_std

Array = npt.NDArray[Any]

_ROWS = 8192
"""Rows that are judged or scored at once."""


@dataclass(frozen=True)
class Noise:
    """How a silo's share is hidden.

    Args:
        sigma: standard deviation over sensitivity.
        clip: largest L2 norm of a row's embedding, or of all gradients sent for a row.
        clip_update: largest L2 norm of a row's gradient by a silo's own weights.
        stream: of the noise; the silo's secret.
    """

    sigma: float
    clip: float
    clip_update: float
    stream: SecretStream

    def on_rows(self, values: Tensor) -> Tensor:
        """Return clipped rows with noise."""
        # Each row is hidden by itself, so that what is noised together is one row.
        std = noise_std(self.sigma, sensitivity=2.0 * self.clip, size=values[0].numel())
        exact = weights_within(values, self.clip)[:, None] * finite(values).double()
        noisy = add_gaussian(exact.numpy(), std, self.stream.child("rows"))
        return torch.from_numpy(noisy.astype(np.float32))

    def on_update(self, sums: Sequence[Tensor]) -> list[Tensor]:
        """Return sums of clipped gradients with noise."""
        stream, size = self.stream.child("update"), sum(each.numel() for each in sums)
        std = noise_std(self.sigma, sensitivity=2.0 * self.clip_update, size=size)
        return [
            torch.from_numpy(add_gaussian(each.numpy(), std, stream).astype(np.float32))
            for each in sums
        ]


def clipped(rows: Tensor, limit: float | None) -> Tensor:
    """Return rows whose L2 norm is ``limit`` at most; None leaves them."""
    if limit is None:
        return rows
    norms = rows.flatten(1).norm(dim=1).clamp_min(1e-12)
    scale: Tensor = (limit / norms).clamp(max=1.0)
    return rows * scale[:, None]


def embed(bottom: nn.Module, features: Tensor, clip: float | None) -> Tensor:
    """Return the embeddings of some rows, float32, [rows, width]."""
    embeddings: Tensor = bottom(features)
    return clipped(embeddings, clip)


def embed_apart(bottom: nn.Module, features: Tensor, clip: float | None) -> Tensor:
    """Return what `embed` returns, each row by itself: none can depend on another row."""
    params = {name: each.detach() for name, each in bottom.named_parameters()}

    def one(row: Tensor) -> Tensor:
        return clipped(functional_call(bottom, params, (row[None],)), clip)[0]

    if not len(features):
        return embed(bottom, features, clip)
    embeddings: Tensor = vmap(one, randomness="different")(features)
    return embeddings


def learn_bottom(
    bottom: nn.Module,
    optimizer: torch.optim.Optimizer,
    features: Tensor,
    gradients: Tensor,
    clip: float | None,
    noise: Noise | None,
) -> None:
    """Update a bottom model by what came back for its embeddings of these rows.

    Args:
        bottom: changed in place.
        optimizer: of its parameters.
        features: [rows, columns].
        gradients: of each row's own loss by its embedding, [rows, width].
        clip: of the embeddings.
        noise: None learns without privacy.
    """
    optimizer.zero_grad()
    if noise is None:
        embeddings = embed(bottom, features, clip)
        torch.autograd.backward([embeddings], [gradients / len(features)])
    else:

        def along(params: dict[str, Tensor], row: Tensor, back: Tensor) -> Tensor:
            embedding = functional_call(bottom, params, (row[None],))
            return (clipped(embedding, clip) * back).sum()

        _private_gradient(bottom, along, (features, gradients), noise)
    optimizer.step()


class Joined(nn.Module):
    """The label silo's own part: its bottom model and the top model.

    Args:
        bottom: of the label silo's columns.
        top: of all embeddings, the label silo's first.
        clip: of the embeddings.
    """

    def __init__(self, bottom: nn.Module, top: nn.Module, clip: float | None) -> None:
        super().__init__()
        self.bottom = bottom
        self.top = top
        self._clip = clip

    def forward(self, features: Tensor, others: Tensor) -> Tensor:
        """Return the raw outputs.

        Args:
            features: of the label silo, [rows, columns].
            others: embeddings of the feature silos side by side, [rows, their widths].
        """
        own = embed(self.bottom, features, self._clip)
        outputs: Tensor = self.top(torch.cat([own, others], dim=1))
        return outputs


def learn_top(
    model: Joined,
    optimizer: torch.optim.Optimizer,
    task: Task,
    features: Tensor,
    others: Tensor,
    targets: Tensor,
    labelled: Tensor,
    noise: Noise | None,
) -> Tensor:
    """Update the label silo's part; return what goes back to the feature silos.

    Args:
        model: changed in place.
        optimizer: of its parameters.
        task: gives the loss.
        features: of the label silo, [rows, columns].
        others: embeddings of the feature silos, [rows, their widths].
        targets: [rows, …]; any where there is no label.
        labelled: bool, [rows]; a row without a label has no loss. The batch's is the mean over
            those that have one; under ``noise`` over all, since how many have one is theirs.
        noise: None learns without privacy.

    Returns:
        The gradient of each row's own loss by the others' embeddings, [rows, their widths],
        multiplied so that its mean over the rows is that of the batch's loss.
    """
    optimizer.zero_grad()
    if noise is not None:
        # Row by row: a batch's loss may be one of which a row moves the others' gradients.
        row_losses = task.row_losses(model.top)

        def loss_of(
            params: dict[str, Tensor], row: Tensor, other: Tensor, y: Tensor, weight: Tensor
        ) -> Tensor:
            outputs = functional_call(model, params, (row[None], other[None]))
            return row_losses(task.shape_outputs(outputs), y[None]).sum() * weight

        fixed = {name: each.detach() for name, each in model.named_parameters()}
        by_other = vmap(grad(loss_of, argnums=2), (None, 0, 0, 0, 0), randomness="different")
        rows = (features, others, targets, labelled.float())
        back = noise.on_rows(by_other(fixed, *rows))
        _private_gradient(model, loss_of, rows, noise)
        optimizer.step()
        return back
    others = others.clone().requires_grad_(True)
    outputs = task.shape_outputs(model(features, others))
    if labelled.any():
        loss = task.loss_of(model.top)(outputs[labelled], targets[labelled])
    else:
        loss = 0.0 * outputs.sum()
    torch.autograd.backward([loss])
    assert others.grad is not None
    optimizer.step()
    return others.grad * len(features)


def _private_gradient(
    model: nn.Module, row_loss: Any, rows: tuple[Tensor, ...], noise: Noise
) -> None:
    """Set the model's gradients to the noisy mean of the rows' clipped ones."""
    params = {n: each.detach() for n, each in model.named_parameters() if each.requires_grad}
    each_row = vmap(grad(row_loss), (None, *(0 for _ in rows)), randomness="different")
    gradients: dict[str, Tensor] = each_row(params, *rows)
    flat = torch.cat([each.flatten(1) for each in gradients.values()], dim=1)
    scale, usable = weights_within(flat, noise.clip_update), finite(flat).double()
    parts = torch.split(scale @ usable, [each[0].numel() for each in gradients.values()])
    sums = [part.view(each.shape[1:]) for part, each in zip(parts, gradients.values(), strict=True)]
    owner = dict(model.named_parameters())
    for name, total in zip(gradients, noise.on_update(sums), strict=True):
        owner[name].grad = total / len(rows[0])


@dataclass(frozen=True)
class Learner:
    """One network's part in a silo, with what updates it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer


def saved(learners: Mapping[str, Learner]) -> Array:
    """Return weights and optimisers' states as bytes (uint8)."""
    buffer = io.BytesIO()
    value = {
        name: {"model": each.model.state_dict(), "optimizer": each.optimizer.state_dict()}
        for name, each in learners.items()
    }
    torch.save(value, buffer)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def load(learners: Mapping[str, Learner], state: Array) -> None:
    """Put what `saved` wrote back."""
    value = torch.load(io.BytesIO(state.tobytes()), weights_only=True)
    for name, each in learners.items():
        each.model.load_state_dict(value[name]["model"])
        each.optimizer.load_state_dict(value[name]["optimizer"])


def weights_of(model: nn.Module) -> dict[str, Array]:
    """Return a model's parameters and buffers as arrays by name."""
    return {name: each.detach().numpy().copy() for name, each in model.state_dict().items()}


def set_weights(model: nn.Module, weights: Mapping[str, Array]) -> None:
    """Put what `weights_of` returned back."""
    model.load_state_dict({name: torch.tensor(each) for name, each in weights.items()})


def in_pieces(model: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """Return what a model gives for many rows, as for judging and scoring: nothing is learnt."""
    if isinstance(model, nn.Module):
        model.eval()
    count = max(len(rows[0]), 1)
    with torch.no_grad():
        pieces = ([each[at : at + _ROWS] for each in rows] for at in range(0, count, _ROWS))
        return torch.cat([model(*piece) for piece in pieces])
