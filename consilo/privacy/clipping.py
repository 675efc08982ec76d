"""The sum of clipped per-row gradients, by the fastest way that is exact for the model.

Which way is chosen by rule, never by the user (`clipped_sums`):

| way | for | how |
|---|---|---|
| `BookKeeping` | models of `LAYERS` only, each used once a forward | below |
| `MappedRows` | models that were written down (`Graph`) | parameters of its own for each row |
| `HookedRows` | every other model; groups of rows | Opacus' hooks; functorch for unknown layers |

Book-keeping (Bu, Wang, Zha, Karypis 2022, arXiv 2210.00038) keeps each layer's input ``a`` and the
gradient ``d`` of its output, from one backward pass that computes no parameter's gradient. Of a
linear layer on vectors the gradient of row i is the outer product of ``d_i`` and ``a_i``: its norm
is ``|d_i| |a_i|``, and the sum of the clipped ones is one matrix product, so that no row's gradient
is ever made.

Differences from the paper: for sequences and images, and for other layers, the rows' gradients of
one layer are made, measured and summed. The paper's "ghost norm" by Gram matrices is faster for
long rows of wide layers but subtracts large numbers: a row whose gradient cancels could be
measured too small, and move the sum by more than the clipping norm.

Exact at both ends: norms, factors and sums are float64, in which no square of a float32 vanishes or
overflows, and what is added is the very vector that was measured. A row whose gradient is not
finite adds nothing. So one row, added or removed, moves the sum of up to a million rows by at most
``max_norm * (1 + 2**-20)``, whatever the weights and the row are.

Groups: where subjects are hidden, the mean gradient of each subject's rows is clipped as one vector
(`clipped_groups`; ULS of Charles et al. 2024, arXiv 2407.07737). It is made, measured and added in
float64, so that one subject, with all of its rows, moves the sum by no more than a row would.

`benchmarks/dp_modes.py` measures both against Opacus' other modes (expanded weights, ghost
clipping, functorch) and checks all of them against one gradient at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from consilo.learners.graphs import Graph
from consilo.learners.torch_learner import backward

RowLosses = Callable[[Callable[[Tensor], Any]], Tensor]
"""Given the model to call, returns the loss of each row, (rows,), with its graph."""

_PROBE_TOLERANCE = 1e-3
_ROWS_AT_ONCE = 32
"""Rows whose gradients are in float64 at once: they take twice the room."""


class ClippedSums(Protocol):
    """Accumulates ``sum_i min(1, max_norm / |g_i|) * g_i`` over batches of rows, in float64.

    A row whose gradient is not finite adds nothing. Where rows come in groups, a group's mean
    gradient takes the place of a row's.
    """

    def add(
        self,
        losses: RowLosses,
        num_rows: int,
        *,
        places: Tensor | None = None,
        sizes: Sequence[int] = (),
    ) -> None:
        """Add the clipped gradients of some rows, or groups of rows.

        Args:
            losses: of ``num_rows`` rows.
            num_rows: how many.
            places: int64: which of them count; the others fill the batch, and add nothing. None is
                all of them.
            sizes: of the groups, whose rows lie together in ``places``; without it each row is one.

        Raises:
            NotBookable: where this way is not exact for what the model's forward just did.
        """
        ...

    def take(self) -> list[Tensor]:
        """Return the sums, float64, one per parameter in their order; start again from zero."""
        ...

    def close(self) -> None:
        """Leave the model as it was."""
        ...


class NotBookable(Exception):
    """Book-keeping is not exact for this model, or for what its forward just did."""


def clipped_sums(
    model: nn.Module,
    parameters: Iterable[nn.Parameter],
    max_norm: float,
    *,
    probe: RowLosses,
    num_probe_rows: int,
    probe_row: RowLosses,
    grouped: bool = False,
) -> ClippedSums:
    """Return the fastest way that is exact for ``model``.

    The layers' types decide; a probe on a few rows confirms. It finds parameters that are used
    outside their layer and rows that are not the first dimension, which no type can show.

    Args:
        model: in training mode.
        parameters: what is trained, in order.
        max_norm: L2 norm to which each row's gradient is clipped.
        probe: the losses of a few rows.
        num_probe_rows: how many.
        probe_row: the loss of the first of them alone.
        grouped: whether rows come in groups.
    """
    wanted = list(parameters)
    if isinstance(model, Graph):
        return MappedRows(model, wanted, max_norm)
    if grouped:
        return HookedRows(model, wanted, max_norm)
    try:
        made = BookKeeping(model, wanted, max_norm)
    except NotBookable:
        return HookedRows(model, wanted, max_norm)
    try:
        made.confirm(probe, num_probe_rows, probe_row)
    except NotBookable:
        made.close()
        return HookedRows(model, wanted, max_norm)
    except BaseException:
        made.close()
        raise
    return made


@dataclass
class _Used:
    """One use of a layer in a forward: its input, and where its output's gradient is to be had."""

    layer: nn.Module
    inputs: Tensor
    version: int
    edge: Any
    gradient: Tensor | None = None
    rows: list[tuple[nn.Parameter, Tensor]] | None = None

    def keep(self, places: Tensor) -> None:
        """Forget all rows but these."""
        self.inputs, self.gradient = self.inputs[places], _gradient(self)[places]

    def blank(self, rows: Tensor) -> None:
        """Make the gradients of some rows zero, whatever they are: what times 0 would be NaN.

        Args:
            rows: bool, (rows,).
        """
        self.gradient = _blanked(_gradient(self), rows)
        if self.inputs.is_floating_point():
            self.inputs = _blanked(self.inputs, rows)
        if self.rows is not None:
            self.rows = [(each, _blanked(made, rows)) for each, made in self.rows]


class BookKeeping:
    """Clipped sums without any parameter's gradient; see the module.

    Args:
        model: whose layers are watched until `close`.
        parameters: what is trained, in order.
        max_norm: L2 norm to which each row's gradient is clipped.

    Raises:
        NotBookable: where a trained parameter belongs to a layer of another kind.
    """

    def __init__(self, model: nn.Module, parameters: list[nn.Parameter], max_norm: float) -> None:
        self._model = model
        self._parameters = parameters
        self._max_norm = max_norm
        self._sums: dict[int, Tensor] = {}
        self._used: list[_Used] = []
        self._odd = ""
        self._handles: list[Any] = []
        known: list[int] = []
        watched = []
        for layer in model.modules():
            own = [each for each in layer.parameters(recurse=False) if each.requires_grad]
            if own and not (type(layer) in LAYERS and LAYERS[type(layer)].fits(layer)):
                raise NotBookable(f"{type(layer).__name__} is not among the layers that are known")
            if own:
                watched.append(layer)
                known += map(id, own)
        if sorted(known) != sorted(map(id, parameters)):
            raise NotBookable("a parameter is shared by layers, or belongs to none")
        for layer in watched:
            self._handles.append(layer.register_forward_hook(self._note))

    def add(
        self,
        losses: RowLosses,
        num_rows: int,
        *,
        places: Tensor | None = None,
        sizes: Sequence[int] = (),
    ) -> None:
        """Add the clipped gradients of some rows."""
        if sizes:
            raise NotBookable("the gradients of groups are made row by row")
        self._used.clear()
        try:
            total = losses(self._model).sum()
            self._differentiate(total, num_rows)
            if places is not None:
                num_rows = len(places)
                for used in self._used:
                    used.keep(places)
            factors, unusable = _factors(self._norms(num_rows), self._max_norm)
            if unusable is not None:
                for used in self._used:
                    used.blank(unusable)
            self._accumulate(factors)
        finally:
            self._used.clear()

    def take(self) -> list[Tensor]:
        """Return the sums and start again."""
        sums, self._sums = self._sums, {}
        return [
            sums[id(each)] if id(each) in sums else torch.zeros_like(each, dtype=torch.float64)
            for each in self._parameters
        ]

    def close(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._used.clear()

    def confirm(self, probe: RowLosses, num_rows: int, row: RowLosses) -> None:
        """Compare with autograd: the sum over a few rows, and one row's norm alone.

        Raises:
            NotBookable: where they differ, or where a layer is used twice.
        """
        self._used.clear()
        try:
            total = probe(self._model).sum()
            expected = torch.autograd.grad(
                total, self._parameters, retain_graph=True, allow_unused=True
            )
            self._differentiate(total, num_rows)
            self._accumulate(torch.ones(num_rows, dtype=torch.float64))
            for mine, gradient in zip(self.take(), expected, strict=True):
                known = torch.zeros_like(mine) if gradient is None else gradient.double()
                scale = float(known.abs().max())
                if not torch.allclose(mine, known, rtol=_PROBE_TOLERANCE, atol=1e-5 * scale):
                    raise NotBookable("a parameter is used outside its layer")
            training = self._model.training
            self._model.eval()  # without dropout, whose masks differ
            try:
                together = self._first_norm(probe, num_rows)
                alone = self._first_norm(row, 1)
            finally:
                self._model.train(training)
            if not abs(together - alone) <= _PROBE_TOLERANCE * max(together, alone):
                raise NotBookable("rows are not the first dimension of every layer's input")
        finally:
            self._used.clear()
            self._sums.clear()

    def _first_norm(self, losses: RowLosses, num_rows: int) -> float:
        self._used.clear()
        self._differentiate(losses(self._model).sum(), num_rows)
        return float(self._norms(num_rows)[0])

    def _note(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        # Nothing is raised from here, inside the user's forward.
        if not torch.is_grad_enabled():
            return
        if len(inputs) != 1 or not isinstance(output, Tensor) or not output.requires_grad:
            self._odd = f"a {type(layer).__name__} is called in an unusual way"
            return
        if any(each.layer is layer for each in self._used):
            self._odd = f"a {type(layer).__name__} is used twice in a forward"
            return
        given = inputs[0].detach()
        # The edge of this moment: an in-place activation afterwards does not move it.
        edge = torch.autograd.graph.get_gradient_edge(output)
        self._used.append(_Used(layer, given, given._version, edge))

    def _differentiate(self, total: Tensor, num_rows: int) -> None:
        odd, self._odd = self._odd, ""
        if odd:
            raise NotBookable(odd)
        if not self._used:
            backward(total)  # says what is wrong where no parameter is reached
            raise NotBookable("no trained layer was used")
        found = torch.autograd.grad(total, [each.edge for each in self._used], allow_unused=True)
        for used, gradient in zip(self._used, found, strict=True):
            if len(used.inputs) != num_rows or used.inputs._version != used.version:
                raise NotBookable("an input was changed, or is not one row per row")
            used.gradient = gradient
        self._used = [each for each in self._used if each.gradient is not None]

    def _norms(self, num_rows: int) -> Tensor:
        squares = [LAYERS[type(each.layer)].squares(each) for each in self._used]
        found = torch.stack(squares).sum(dim=0).sqrt() if squares else torch.zeros(num_rows)
        return found.double()

    def _accumulate(self, factors: Tensor) -> None:
        for used in self._used:
            for parameter, value in LAYERS[type(used.layer)].sums(used, factors):
                known = self._sums.get(id(parameter))
                self._sums[id(parameter)] = value if known is None else known.add_(value)


def finite(rows: Tensor) -> Tensor:
    """Return rows of a float32 matrix, zeros in place of those that are not finite."""
    return _blanked(rows, ~torch.isfinite(rows).all(dim=1))


def weights_within(rows: Tensor, max_norm: float) -> Tensor:
    """Return what each row of a float32 matrix is multiplied by, to be within a norm: float64."""
    return _factors(_norms_of(rows), max_norm)[0]


def _factors(norms: Tensor, max_norm: float) -> tuple[Tensor, Tensor | None]:
    """Return what each row's gradient is multiplied by, and which rows have none; None: all have.

    Args:
        norms: of the rows' gradients; float64, so that no float32's square vanishes or overflows.
        max_norm: to which they are clipped.
    """
    usable = torch.isfinite(norms)
    factors = torch.where(usable, (max_norm / norms).clamp(max=1.0), 0.0)
    return factors, None if bool(usable.all()) else ~usable


def _blanked(values: Tensor, rows: Tensor) -> Tensor:
    blank: Tensor = values.masked_fill(rows.reshape(-1, *[1] * (values.ndim - 1)), 0.0)
    return blank


def _norms_of(rows: Tensor) -> Tensor:
    """Return the norm of each row of a float32 matrix, float64."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return norms


def _weighted(factors: Tensor, rows: Tensor) -> Tensor:
    """Return the sum of the rows of a float32 matrix, each times its factor, in float64."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        total += factors[part] @ rows[part].double()
    return total


def _clipped_rows(rows: list[Tensor], _: Sequence[int], max_norm: float) -> list[Tensor]:
    """Return the sum of the rows' gradients, each clipped; see `clipped_groups`."""
    norms = torch.stack([_norms_of(each) for each in rows]).norm(dim=0)
    factors, unusable = _factors(norms, max_norm)
    if unusable is not None:
        rows = [_blanked(each, unusable) for each in rows]
    return [_weighted(factors, each) for each in rows]


def clipped_groups(rows: list[Tensor], sizes: Sequence[int], max_norm: float) -> list[Tensor]:
    """Return the sum of the groups' mean gradients, each clipped as one vector: float64.

    A group whose mean is not finite adds nothing. What is added is the very vector that was
    measured: rows that cancel one another leave no rounding behind that is longer than the norm.

    Args:
        rows: per parameter its rows' gradients, float32, (rows, size), wherever they were made.
        sizes: of the groups, 1 or more each; the rows of a group lie together, in this order.
        max_norm: L2 norm to which the mean over a group's rows, over all parameters, is clipped.
    """
    if any(len(each) != sum(sizes) for each in rows):
        raise ValueError(f"{len(rows[0])} rows, but the groups have {sum(sizes)}")
    totals = [torch.zeros(each.shape[1], dtype=torch.float64) for each in rows]
    start, held = 0, []
    for place, size in enumerate(sizes):
        held.append(size)
        if sum(held) < _ROWS_AT_ONCE and place < len(sizes) - 1:
            continue
        stop = start + sum(held)
        means = [_means(each[start:stop], held) for each in rows]
        norms = torch.stack([torch.linalg.vector_norm(each, dim=1) for each in means]).norm(dim=0)
        factors, unusable = _factors(norms, max_norm)
        for total, each in zip(totals, means, strict=True):
            total.add_(factors @ (each if unusable is None else _blanked(each, unusable)))
        start, held = stop, []
    return totals


def _means(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the mean of each group's rows of a float32 matrix: float64, (groups, size)."""
    counts = torch.tensor(sizes)
    place = torch.repeat_interleave(torch.arange(len(counts)), counts)
    sums = torch.zeros(len(counts), rows.shape[1], dtype=torch.float64)
    means: Tensor = sums.index_add_(0, place, rows.double()) / counts[:, None]
    return means


class _RowSums:
    """Clipped sums from gradients of single rows, which subclasses make."""

    def __init__(self, parameters: list[nn.Parameter], max_norm: float) -> None:
        self._parameters = parameters
        self._max_norm = max_norm
        self._sums: list[Tensor] | None = None

    def sum_up(self, found: list[Tensor], places: Tensor | None, sizes: Sequence[int]) -> None:
        """Clip and add gradients, each (rows, size), of the rows at ``places``."""
        rows = found if places is None else [each[places] for each in found]
        summed = clipped_groups if sizes else _clipped_rows
        made = [
            each.view_as(parameter)
            for each, parameter in zip(
                summed(rows, sizes, self._max_norm), self._parameters, strict=True
            )
        ]
        self._sums = (
            made
            if self._sums is None
            else [old.add_(new) for old, new in zip(self._sums, made, strict=True)]
        )

    def take(self) -> list[Tensor]:
        """Return the sums and start again."""
        sums, self._sums = self._sums, None
        if sums is None:
            return [torch.zeros_like(each, dtype=torch.float64) for each in self._parameters]
        return sums


class MappedRows(_RowSums):
    """Clipped sums from a backward pass in which each row has a copy of the parameters.

    Args:
        model: called row by row.
        parameters: of it, what is trained, in order.
        max_norm: L2 norm to which each row's gradient is clipped.
    """

    def __init__(self, model: Graph, parameters: list[nn.Parameter], max_norm: float) -> None:
        super().__init__(parameters, max_norm)
        self._model = model

    def add(
        self,
        losses: RowLosses,
        num_rows: int,
        *,
        places: Tensor | None = None,
        sizes: Sequence[int] = (),
    ) -> None:
        """Add the clipped gradients of some rows, or groups of rows."""
        copies: dict[int, Tensor] = {}

        def of_each(entry: Tensor) -> Tensor:
            made = entry.detach().expand(num_rows, *entry.shape)
            copies[id(entry)] = made
            return made.requires_grad_(entry.requires_grad)

        entries = [of_each(each) for each in self._model.entries()]
        total = losses(lambda features: self._model.by_rows(entries, features)).sum()
        wanted = [copies[id(each)] for each in self._parameters]
        found = torch.autograd.grad(total, wanted, allow_unused=True)
        flat = [
            (torch.zeros_like(each) if made is None else made).reshape(num_rows, -1)
            for each, made in zip(wanted, found, strict=True)
        ]
        self.sum_up(flat, places, sizes)

    def close(self) -> None:
        """Leave the model as it was: nothing was done to it."""


class HookedRows(_RowSums):
    """Clipped sums from Opacus' per-row gradients, for any model that Opacus can take apart.

    Args:
        model: wrapped until `close`.
        parameters: what is trained, in order.
        max_norm: L2 norm to which each row's gradient is clipped.
        functorch: take every layer's gradients by ``torch.func``, not only those of unknown ones.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: list[nn.Parameter],
        max_norm: float,
        *,
        functorch: bool = False,
    ) -> None:
        from opacus.grad_sample import GradSampleModule

        super().__init__(parameters, max_norm)
        self._wrapped: Any = GradSampleModule(
            model, loss_reduction="sum", force_functorch=functorch
        )

    def add(
        self,
        losses: RowLosses,
        num_rows: int,
        *,
        places: Tensor | None = None,
        sizes: Sequence[int] = (),
    ) -> None:
        """Add the clipped gradients of some rows, or groups of rows."""
        total = losses(self._wrapped).sum()
        with warnings.catch_warnings():
            # Opacus hooks the backward pass of the first layer, whose inputs are data and
            # need no gradient; torch mentions it, Opacus does not use them.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            backward(total)
        self.clip(num_rows, places=places, sizes=sizes)

    def clip(
        self, num_rows: int, *, places: Tensor | None = None, sizes: Sequence[int] = ()
    ) -> None:
        """Clip and sum what the backward pass left in ``grad_sample``."""
        flat = []
        for parameter in self._parameters:
            held: Any = getattr(parameter, "grad_sample", None)
            found = torch.cat(held) if isinstance(held, list) else held
            if found is None:  # the forward did not use it
                found = parameter.new_zeros((num_rows, *parameter.shape))
            flat.append(found.reshape(num_rows, -1))
            parameter.grad_sample = None  # type: ignore[attr-defined]
            parameter.grad = None
        self.sum_up(flat, places, sizes)

    def close(self) -> None:
        """Unwrap the model."""
        self._wrapped.cleanup()


class _Layer(Protocol):
    """How one kind of layer is taken apart."""

    def fits(self, layer: Any) -> bool:
        """Return whether this layer's settings are among those that are known."""
        ...

    def squares(self, used: _Used) -> Tensor:
        """Return the squared norm of each row's gradient, float64, (rows,)."""
        ...

    def sums(self, used: _Used, factors: Tensor) -> list[tuple[nn.Parameter, Tensor]]:
        """Return the float64 sum of the rows' gradients, each times its factor, per parameter."""
        ...


class _Linear:
    """A linear layer; of vectors without making a row's gradient, of sequences by making it."""

    def fits(self, layer: Any) -> bool:
        return True

    def squares(self, used: _Used) -> Tensor:
        layer: Any = used.layer
        given, gradient = used.inputs, _gradient(used)
        if given.ndim > 2:
            return _ROWS.squares(used)
        squares = _norms_of(gradient).square()
        weight = _norms_of(given).square() if layer.weight.requires_grad else 0.0
        bias = 1.0 if layer.bias is not None and layer.bias.requires_grad else 0.0
        return squares * (weight + bias)

    def sums(self, used: _Used, factors: Tensor) -> list[tuple[nn.Parameter, Tensor]]:
        layer: Any = used.layer
        if used.inputs.ndim > 2:
            return _ROWS.sums(used, factors)
        found = []
        gradient = _gradient(used).double() * factors[:, None]
        if layer.weight.requires_grad:
            found.append((layer.weight, gradient.t() @ used.inputs.double()))
        if layer.bias is not None and layer.bias.requires_grad:
            found.append((layer.bias, gradient.sum(dim=0)))
        return found


class _Rows:
    """Layers whose rows' gradients are made, measured and summed: (rows, size) per parameter."""

    def fits(self, layer: Any) -> bool:
        if isinstance(layer, nn.Conv1d | nn.Conv2d):
            return layer.groups == 1 and layer.padding_mode == "zeros" and layer.padding != "same"
        return True

    def squares(self, used: _Used) -> Tensor:
        # One pass over memory, where squaring and summing takes three.
        norms = [_norms_of(each) for _, each in self._made(used)]
        return torch.stack(norms).square().sum(dim=0)

    def sums(self, used: _Used, factors: Tensor) -> list[tuple[nn.Parameter, Tensor]]:
        return [(each, _weighted(factors, rows).view_as(each)) for each, rows in self._made(used)]

    def _made(self, used: _Used) -> list[tuple[nn.Parameter, Tensor]]:
        if used.rows is None:
            used.rows = [(e, r.reshape(len(r), -1)) for e, r in _per_row(used) if e.requires_grad]
        return used.rows


class _Embedding:
    """A lookup: the gradients of equal tokens of a row are added before they are measured."""

    def fits(self, layer: Any) -> bool:
        return layer.max_norm is None and not layer.scale_grad_by_freq and not layer.sparse

    def squares(self, used: _Used) -> Tensor:
        rows, _, values = self._tokens(used)
        found = torch.zeros(len(used.inputs), dtype=torch.float64)
        return found.index_add_(0, rows, _norms_of(values).square())

    def sums(self, used: _Used, factors: Tensor) -> list[tuple[nn.Parameter, Tensor]]:
        layer: Any = used.layer
        rows, tokens, values = self._tokens(used)
        total = torch.zeros_like(layer.weight, dtype=torch.float64)
        total.index_add_(0, tokens, values.double() * factors[rows, None])
        return [(layer.weight, total)]

    def _tokens(self, used: _Used) -> tuple[Tensor, Tensor, Tensor]:
        """Return row, token and summed gradient of each distinct pair of row and token."""
        layer: Any = used.layer
        gradient = _gradient(used).reshape(-1, layer.embedding_dim)
        tokens = used.inputs.reshape(len(used.inputs), -1)
        starts = torch.arange(len(tokens))[:, None] * layer.num_embeddings
        pairs, place = torch.unique((tokens + starts).reshape(-1), return_inverse=True)
        values = gradient.new_zeros(len(pairs), layer.embedding_dim).index_add_(0, place, gradient)
        rows, tokens = pairs // layer.num_embeddings, pairs % layer.num_embeddings
        if layer.padding_idx is not None:
            values[tokens == layer.padding_idx] = 0.0
        return rows, tokens, values


def _per_row(used: _Used) -> list[tuple[nn.Parameter, Tensor]]:
    layer: Any = used.layer
    given, gradient = used.inputs, _gradient(used)
    rows = len(given)
    if isinstance(layer, nn.Linear):
        given, gradient = given.flatten(1, -2), gradient.flatten(1, -2)
        weight, bias = gradient.transpose(1, 2) @ given, gradient.sum(dim=1)
    elif isinstance(layer, nn.Conv1d | nn.Conv2d):
        patches = _patches(layer, given)
        gradient = gradient.reshape(rows, layer.out_channels, -1)
        weight, bias = gradient @ patches.transpose(1, 2), gradient.sum(dim=2)
    elif isinstance(layer, nn.LayerNorm):
        normal = functional.layer_norm(given, layer.normalized_shape, eps=layer.eps)
        shape = (rows, -1, layer.weight.numel())
        weight = (gradient * normal).reshape(shape).sum(dim=1)
        bias = gradient.reshape(shape).sum(dim=1)
    else:  # GroupNorm
        normal = functional.group_norm(given, layer.num_groups, eps=layer.eps)
        shape = (rows, layer.num_channels, -1)
        weight = (gradient * normal).reshape(shape).sum(dim=2)
        bias = gradient.reshape(shape).sum(dim=2)
    found = [(layer.weight, weight)]
    return found if layer.bias is None else [*found, (layer.bias, bias)]


def _patches(layer: Any, given: Tensor) -> Tensor:
    """Return what the kernel saw at each place: (rows, in_channels * kernel, places)."""
    if isinstance(layer, nn.Conv1d):
        return functional.unfold(
            given[:, :, None, :],
            (1, *layer.kernel_size),
            dilation=(1, *layer.dilation),
            padding=(0, *_pads(layer)),
            stride=(1, *layer.stride),
        )
    return functional.unfold(
        given, layer.kernel_size, dilation=layer.dilation, padding=_pads(layer), stride=layer.stride
    )


def _pads(layer: Any) -> tuple[int, ...]:
    return (0,) * len(layer.kernel_size) if layer.padding == "valid" else tuple(layer.padding)


def _gradient(used: _Used) -> Tensor:
    assert used.gradient is not None
    return used.gradient


_ROWS = _Rows()
LAYERS: dict[type[nn.Module], _Layer] = {
    nn.Linear: _Linear(),
    nn.Conv1d: _ROWS,
    nn.Conv2d: _ROWS,
    nn.LayerNorm: _ROWS,
    nn.GroupNorm: _ROWS,
    nn.Embedding: _Embedding(),
}
"""The kinds of layers that book-keeping takes apart; a subclass is another kind."""
