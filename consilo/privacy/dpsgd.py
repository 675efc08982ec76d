"""DP-SGD for one silo: per-record clipping and secret Gaussian noise (Abadi et al. 2016, Alg. 1).

Unit of privacy: one row, added or removed; the number of rows is released exactly beside it, and
rate, steps and noise are made of that number. Each step samples rows independently (Poisson), clips
each row's gradient to an L2 norm, adds Gaussian noise to the sum and divides by the expected
batch size. `consilo.privacy.clipping` makes the clipped sum, in the fastest exact way for the
model; sampling and noise come from a `SecretStream`, because the coordinator must not be able to
guess them.

Where subjects are hidden (``subjects``), one subject with all of its rows is what is added or
removed, and whatever is said of rows holds of subjects: each joins a step by itself with the
sampling rate, the mean of its rows' gradients is clipped as one vector, and rate, steps and the
expected batch are made of the number of subjects (ULS of Charles et al. 2024, arXiv 2407.07737).
One that has k rows so moves a step by no more than one that has a single row.

What the guarantee covers: the parameters after the fit, and whether there are any. So the training
loss is not reported; a row whose loss or gradient is not finite adds nothing, and what is not
finite is noticed after the noise; what a model is tried with before the fit are made-up rows; and a
model whose buffers change while training is refused.

Rounding: the last bit of a row's output depends on the row's place in its batch, since a matrix
product treats the rows of a tile and those beside it differently; and weights can be chosen that
make of a last bit whether a row's gradient points one way or the other. So nobody's place may
depend on who else was drawn. A step has a fixed number of places in batches of one size, of the job
and the number of rows alone; each row takes one at random, by secret numbers, and made-up rows that
add nothing fill the others. That is a random way to put rows into places of which the others' part
is the same, whether one row more is there or not: it takes a place that a made-up row would fill.
For each such way one row moves the sum by its own clipped gradient, and what holds for each holds
for their mixture. There are so many places that more rows are drawn once in 10**18 steps; those
over are left out. A subject takes a place for as many rows as the job lets one have. What a model
draws, such as dropout's masks, is secret, and belongs to the place.

Differences from the paper: Poisson sampling as the accountants assume, not fixed-size batches;
the noise is on a grid (see `consilo.privacy.noise`). An optimiser with momentum or adaptive steps
works on the noisy gradient, which is post-processing.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from consilo.errors import IncompatibleJob, JobInvalid
from consilo.jobs.job import LEAST_NORM, MOST_NORM
from consilo.learners.torch_learner import (
    FitHook,
    FitSession,
    Indices,
    call_loss,
)
from consilo.privacy.accounting import HistoryRow
from consilo.privacy.noise import SecretStream, add_gaussian, noise_std
from consilo.wire.params import Params, digest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from consilo.privacy.clipping import ClippedSums, RowLosses


_NOISE_AT_ONCE = 1 << 16
JUDGED_BY_OPACUS = frozenset(
    {"GRU", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "LSTM", "MultiheadAttention"}
)
"""Layers of torch that Opacus has a rule for, beside batch norms, which we refuse ourselves."""


class GradientSource(Protocol):
    """Makes clipped sums of gradients elsewhere than in the learner's model; one fit has one."""

    def begin(self, session: FitSession, max_norm: float, draws: SecretStream) -> None:
        """Run once before the first step.

        Args:
            session: the fit.
            max_norm: L2 norm to which each unit's gradient is clipped.
            draws: seeds what the model draws, such as dropout's masks.
        """
        ...

    def sums(self, session: FitSession, units: Sequence[Indices]) -> list[Tensor]:
        """Return ``sum_i min(1, max_norm / |g_i|) * g_i`` over units, float64, a parameter each.

        Args:
            session: the fit.
            units: of each its rows; the mean of their gradients is g_i.

        A unit whose gradient is not finite adds nothing, and one unit moves the sum by at most
        ``max_norm * (1 + ARITHMETIC)``, whatever the others are.
        """
        ...


class DPHook(FitHook):
    """Makes a fit differentially private.

    Args:
        sigma: noise multiplier; the noise's standard deviation is `noise_std` of it and of
            ``max_grad_norm``. 0 is no privacy, for tests.
        max_grad_norm: L2 norm to which each row's gradient is clipped, from `LEAST_NORM` to
            `MOST_NORM`.
        sample_rate: probability of each row to join a step, in (0, 1]; the plan's ``batch_size``
            only says how many steps an epoch has.
        stream: secret randomness whose context names run, step and the fingerprint of the data.
            The hook adds the starting parameters and its own settings to it, so that noise is
            never used twice for two different questions; a `ReproducibleStream` leaves them out.
        max_physical_batch: rows whose gradients are held in memory at once.
        subjects: of each row its subject, numbered from 0 without gaps; None hides rows.
        max_rows_per_subject: most rows that any subject has, as the job says: batches have room
            for as many.
        source: where the clipped gradients come from; None takes the learner's own model.

    After the fit `history` is what the ledger keeps.
    """

    def __init__(
        self,
        *,
        sigma: float,
        max_grad_norm: float,
        sample_rate: float,
        stream: SecretStream,
        max_physical_batch: int = 256,
        subjects: Indices | None = None,
        max_rows_per_subject: int = 1,
        source: GradientSource | None = None,
    ) -> None:
        findings = []
        if not (math.isfinite(sigma) and sigma >= 0):
            findings.append(f"sigma: must be 0 or more, found {sigma}")
        if not LEAST_NORM <= max_grad_norm <= MOST_NORM:
            findings.append(
                f"max_grad_norm: must be in [{LEAST_NORM:g}, {MOST_NORM:g}], found {max_grad_norm}"
            )
        if not 0 < sample_rate <= 1:
            findings.append(f"sample_rate: must be in (0, 1], found {sample_rate}")
        if max_physical_batch < 1:
            findings.append(f"max_physical_batch: must be 1 or more, found {max_physical_batch}")
        if subjects is not None and np.bincount(subjects).max(initial=0) > max_rows_per_subject:
            findings.append(f"max_rows_per_subject: a subject has more than {max_rows_per_subject}")
        if findings:
            raise JobInvalid("privacy", findings)
        self._subjects = subjects
        self._most_rows = max_rows_per_subject
        self.sigma = sigma
        self.max_grad_norm = max_grad_norm
        self.sample_rate = sample_rate
        self.max_physical_batch = max_physical_batch
        self._stream = stream
        self._source = source
        self._steps_taken = 0
        self._num_places, self._places_a_batch = 0, 0
        self._places: SecretStream | None = None
        self._sums: ClippedSums | None = None
        self._noise: SecretStream | None = None
        self._buffers: Params = {}

    @property
    def history(self) -> list[HistoryRow]:
        """``[(sigma, sample_rate, steps)]`` of the steps whose noisy gradient was made."""
        return [(self.sigma, self.sample_rate, self._steps_taken)] if self._steps_taken else []

    def prepare(self, session: FitSession) -> None:
        """Wrap the model, and take over sampling and gradient.

        Raises:
            IncompatibleJob: where the model or the loss mixes rows.
        """
        session.replace_gradient("differential privacy", lambda rows: self._gradient(session, rows))
        if self._source is None:
            check_private(session.model)
            _check_rows_apart(session)
        if self._subjects is not None:
            session.num_steps = session.plan.num_steps(self._num_units(session))
        question = "/".join(
            [
                digest(session.learner.parameters()),
                f"{len(session.data)} {session.num_steps}",
                f"{self.sigma!r} {self.max_grad_norm!r} {self.sample_rate!r} {session.plan!r}",
                *([] if self._subjects is None else [digest({"subjects": self._subjects})]),
            ]
        )
        sampling = self._stream.child("sampling", question)
        drawn = poisson_batches(self._num_units(session), self.sample_rate, sampling)
        session.batches = drawn if self._subjects is None else _rows_of(drawn, self._subjects)
        self._buffers = _buffers(session.model)
        self._noise = self._stream.child("noise", question)
        self._places = self._stream.child("places", question)
        self._num_places, self._places_a_batch = _num_places(
            self._num_units(session), self.sample_rate, self.max_physical_batch // self._most_rows
        )
        secret_draws = self._stream.child("draws", question)
        if self._source is None:
            grouped = self._subjects is not None
            self._sums = _clipped_sums(session, self.max_grad_norm, grouped=grouped)
        else:
            self._source.begin(session, self.max_grad_norm, secret_draws)
        import torch

        draws = secret_draws.bytes(8)
        torch.manual_seed(int.from_bytes(draws, "big") >> 1)  # `seeded` puts back what was there

    def finish(self, session: FitSession) -> None:
        """Give the plain module back."""
        if self._sums is None:
            return
        self._sums.close()
        self._sums = self._noise = None
        for name, value in _buffers(session.model).items():
            if not np.array_equal(value, self._buffers[name], equal_nan=True):
                raise IncompatibleJob(
                    f"the model's buffer {name!r} changes while training, outside the privacy"
                    " mechanism; remove it, or train without differential privacy"
                )

    def _gradient(self, session: FitSession, rows: Indices) -> None:
        from consilo.privacy.clipping import HookedRows, NotBookable

        parameters = list(session.parameters().values())
        if self._source is not None:
            sums = self._source.sums(session, self._units(rows))
        else:
            assert self._places is not None
            places = drawn_places(self._num_places, self._places)
            try:
                sums = self._clipped(session, rows, places)
            except NotBookable:
                # The forward took another way than for the rows that were tried before the fit.
                assert self._sums is not None
                self._sums.close()
                self._sums = HookedRows(session.model, parameters, self.max_grad_norm)
                sums = self._clipped(session, rows, places)
        self._release(parameters, sums, self.sample_rate * self._num_units(session))
        self._steps_taken += 1

    def _units(self, rows: Indices) -> list[Indices]:
        """Return what was drawn: single rows, or those of each subject, which lie together."""
        starts = np.flatnonzero(np.diff(self._whose(rows))) + 1
        return np.split(rows, starts) if len(rows) else []

    def _whose(self, rows: Indices) -> Indices:
        """Return of each row the number of its unit, from 0 in the order that they have."""
        if self._subjects is None:
            return np.arange(len(rows))
        return np.append([0], np.cumsum(np.diff(self._subjects[rows]) != 0))[: len(rows)]

    def _clipped(self, session: FitSession, rows: Indices, places: Indices) -> list[Tensor]:
        """Return the sum of the units' clipped gradients, each in its place.

        Args:
            session: the fit.
            rows: of the units that were drawn, those of one together.
            places: the first unit's, the second's, and so on; of the last ones there may be none.
        """
        import torch

        assert self._sums is not None
        width, size = self._most_rows, self._places_a_batch
        whose = self._whose(rows)
        rows, whose = rows[whose < len(places)], whose[whose < len(places)]
        within = np.arange(len(rows)) - np.searchsorted(whose, whose)
        batches = places[whose] // size
        others = [
            each.repeat(size * width, *[1] * (each.ndim - 1)) for each in _made_up(session, 1)
        ]
        for number in range(self._num_places // size):
            here = np.flatnonzero(batches == number)
            at = (places[whose[here]] - number * size) * width + within[here]
            batch, where = [each.clone() for each in others], torch.from_numpy(at)
            for whole, part in zip(batch, session.batch(rows[here]), strict=True):
                whole[where] = part
            sizes = () if self._subjects is None else np.unique(whose[here], return_counts=True)[1]
            self._sums.add(
                _losses(session, (batch[0], batch[1])),
                size * width,
                places=where,
                sizes=tuple(map(int, sizes)),
            )
        return self._sums.take()

    def _num_units(self, session: FitSession) -> int:
        """Return how many rows, or subjects, there are."""
        return len(session.data) if self._subjects is None else int(self._subjects.max()) + 1

    def _release(
        self, parameters: list[nn.Parameter], sums: list[Tensor], expected_batch_size: float
    ) -> None:
        """Put the noisy mean gradient into ``parameter.grad``."""
        import torch

        assert self._noise is not None
        num_entries = sum(each.numel() for each in parameters)
        std = noise_std(self.sigma, sensitivity=self.max_grad_norm, size=num_entries)
        for group in _groups([each.numel() for each in parameters]):
            members, flat = parameters[group], [each.detach().reshape(-1) for each in sums[group]]
            noisy = add_gaussian(torch.cat(flat).numpy(), std, self._noise)
            mean = torch.from_numpy(noisy / expected_batch_size)
            parts = torch.split(mean, [len(each) for each in flat])
            for parameter, part in zip(members, parts, strict=True):
                parameter.grad = part.to(parameter.dtype).view_as(parameter)


def _groups(sizes: list[int]) -> Iterator[slice]:
    """Yield runs of parameters of at most `_NOISE_AT_ONCE` entries together, or one larger one.

    Noise costs some 50 µs a call besides its numbers, as much as a small layer's whole gradient.
    """
    start, total = 0, 0
    for place, size in enumerate(sizes):
        if place > start and total + size > _NOISE_AT_ONCE:
            yield slice(start, place)
            start, total = place, 0
        total += size
    yield slice(start, len(sizes))


def drawn_places(count: int, stream: SecretStream) -> Indices:
    """Return the numbers below ``count`` in a random order."""
    return np.argsort(stream.uniform(count), kind="stable").astype(np.int64)


def _num_places(num_units: int, sample_rate: float, most: int) -> tuple[int, int]:
    """Return how many places a step has, and a batch: of what is public alone, never of rows.

    More units are drawn with a probability of exp(-42) at most (Bernstein's inequality).

    Args:
        num_units: rows, or subjects.
        sample_rate: of each.
        most: of a batch; less than 1 counts as 1.
    """
    mean = sample_rate * num_units
    spare = 14.0 + math.sqrt(196.0 + 84.0 * mean)
    wanted = max(1, min(num_units, math.ceil(mean + spare)))
    batches = math.ceil(wanted / max(1, most))
    size = math.ceil(wanted / batches)
    return batches * size, size


def _clipped_sums(session: FitSession, max_norm: float, *, grouped: bool) -> ClippedSums:
    from consilo.privacy.clipping import clipped_sums

    features, targets = _made_up(session, 3)
    return clipped_sums(
        session.model,
        session.parameters().values(),
        max_norm,
        probe=_losses(session, (features, targets)),
        num_probe_rows=3,
        probe_row=_losses(session, (features[:1], targets[:1])),
        grouped=grouped,
    )


def _made_up(session: FitSession, count: int) -> tuple[Tensor, Tensor]:
    """Return made-up rows of the data's form, to try a model with: no fault may depend on a row.

    Features are in [0, 1), so that a model that reads them as tokens finds the first of them.
    """
    import torch

    rng, data, task = np.random.default_rng(0), session.data, session.learner.task
    features = rng.random((count, *data.features.shape[1:]), dtype=np.float32)
    targets: np.ndarray[Any, Any] = rng.random((count, *data.targets.shape[1:]))
    if task.num_classes:
        targets = np.arange(count, dtype=np.float64) % task.num_classes
    told = task.in_own_units(targets).astype(data.targets.dtype)
    return torch.from_numpy(features), task.encode(told)


def _losses(session: FitSession, batch: tuple[Tensor, Tensor]) -> RowLosses:
    """Return the function that gives the loss of each row of a batch under a model."""
    features, targets = batch
    row_losses = session.learner.task.row_losses(session.model)

    def losses(model: Any) -> Tensor:
        return call_loss(row_losses, session.learner.forward(model, features), targets)

    return losses


def _rows_of(drawn: Iterator[Indices], subjects: Indices) -> Iterator[Indices]:
    """Yield the rows of the subjects of each step, those of one subject together."""
    order = np.argsort(subjects, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(subjects))])
    for step in drawn:
        parts = [order[starts[each] : starts[each + 1]] for each in step]
        yield np.concatenate(parts) if parts else np.zeros(0, np.int64)


def poisson_batches(num_rows: int, sample_rate: float, stream: SecretStream) -> Iterator[Indices]:
    """Yield the rows of each step: each row joins with probability ``sample_rate``, on its own."""
    while True:
        if sample_rate >= 1.0:
            yield np.arange(num_rows, dtype=np.int64)
        else:
            yield np.flatnonzero(stream.uniform(num_rows) < sample_rate).astype(np.int64)


def check_private(model: nn.Module) -> None:
    """Check that each layer treats the rows of a batch apart from one another.

    Raises:
        IncompatibleJob: naming every layer that does not, and what to use instead.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    findings = []
    for name, layer in model.named_modules():
        where = f"{name or 'the model'} ({type(layer).__name__})"
        if isinstance(layer, _BatchNorm):
            findings.append(
                f"{where} mixes the rows of a batch: use torch.nn.GroupNorm or LayerNorm instead"
            )
            continue
        faults = _opacus_faults(layer)
        findings += [f"{where}: {str(fault).split('. ')[0]}" for fault in faults]
        trained = any(each.requires_grad for each in layer.parameters(recurse=False))
        if trained and not faults and list(layer.buffers()):
            findings.append(f"{where} has buffers beside its parameters: put them in a layer apart")
    if findings:
        raise IncompatibleJob(
            "the model cannot be trained with differential privacy: " + "; ".join(findings)
        )


def _opacus_faults(layer: nn.Module) -> list[Any]:
    """Return what Opacus has against a layer; it is imported where it has a rule for one only.

    A coordinator that trains nothing needs it for nothing else, and its import costs over a second.
    """
    kind = type(layer)
    judged = kind.__module__.startswith("torch.nn.") and kind.__name__ in JUDGED_BY_OPACUS
    if not judged and "opacus" not in sys.modules:
        return []
    from opacus.validators import ModuleValidator

    validate = ModuleValidator.VALIDATORS.get(kind)
    return list(validate(layer)) if validate is not None else []


def _check_rows_apart(session: FitSession) -> None:
    """Check on made-up rows that no row's output, or loss, depends on another row.

    The layers are known by `check_private`; this finds what a user's own forward or loss does.
    """
    import torch

    features, targets = _made_up(session, 4)
    features.requires_grad_(True)
    outputs = session.learner.forward(session.model, features)
    if outputs.requires_grad:
        (reached,) = torch.autograd.grad(outputs[0].sum(), features, allow_unused=True)
        if reached is not None and bool((reached[1:] != 0).any()):
            raise IncompatibleJob(
                "the model's forward mixes the rows of a batch, so that no row's influence can be"
                " bounded; differential privacy needs outputs that depend on their own row only"
            )
    task = session.learner.task
    if not task.has_own_loss(session.model):
        return
    settled = outputs.detach()
    whole = call_loss(task.loss_of(session.model), settled, targets)
    apart = call_loss(task.row_losses(session.model), settled, targets).mean()
    if not torch.allclose(whole, apart, rtol=1e-3, atol=1e-5, equal_nan=True):
        raise IncompatibleJob(
            "the loss of a batch is not the mean of the losses of its rows (a ranking or a Cox"
            " loss is not); differential privacy of records needs a loss that is"
        )


def _buffers(model: nn.Module) -> Params:
    return {name: value.detach().numpy().copy() for name, value in model.named_buffers()}
