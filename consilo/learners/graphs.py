"""A model that somebody else's code computes, as a list of operations on one row.

Under differential privacy no code that a silo did not write may compute with two rows
(`consilo.horizontal.apart`), and a process for each row takes milliseconds. Most models need none:
what they do is the same for every row, and it can be written down. `traced` runs a model's code
once, on made-up rows, in a process that has no other, and says which operations of torch it took;
`Graph` does the same operations on real rows. So the code sees no row, and the rows no code.

What is written down is believed no further than its form. It is made of public numbers alone, so
that it can tell of no row; the operations are those of `OPERATIONS`, which compute the same
whatever the numbers are, fault on none, and read nothing but their arguments; and a `Graph` is
mapped over rows (`torch.vmap`), and must do on one row that is not mapped, so that none of them can
reach another, whatever it was told.

Not every model can be written down: one that branches on values, looks up rows in a table, or draws
otherwise than by dropout is told as `Untraceable`, and runs apart.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from consilo.errors import ReplyInvalid
from consilo.wire.params import Params

OPERATIONS = frozenset(
    """
    _log_softmax _safe_softmax _softmax _unsafe_view abs add.Scalar add.Tensor addmm alias amax
    amin atan avg_pool2d baddbmm bmm cat clamp clamp_max clamp_min clone constant_pad_nd
    convolution cos div.Scalar div.Tensor elu erf exp expand expm1 ge.Scalar gelu gt.Scalar
    hardsigmoid hardswish hardtanh le.Scalar leaky_relu log log1p log_sigmoid_forward lt.Scalar
    max_pool2d_with_indices maximum mean mean.dim minimum mish mm mul.Scalar mul.Tensor
    native_group_norm native_layer_norm neg permute pow.Tensor_Scalar reciprocal relu reshape
    rsqrt rsub.Scalar select.int sigmoid sign silu sin slice.Tensor softplus split.Tensor sqrt
    squeeze squeeze.dim squeeze.dims stack sub.Scalar sub.Tensor sum sum.dim_IntList t tan tanh
    threshold transpose.int unbind.int unsqueeze view where.self
    """.split()  # noqa: SIM905
)
"""Of torch's ``aten``, each in its default form unless said."""
_VIEWS = ("view", "_unsafe_view")
_PICK, _MASK = "pick", "mask"
"""Ours: an entry of a result that has several, and a mask of dropout."""
_MOST_NODES = 20_000
_MOST_NUMBER = 1 << 24
_MOST_CONSTANT = 1 << 20
_TOLERANCE, _TOLERANCE_32 = 1e-6, 1e-2
"""Relative, in float64 and in float32."""

_Node: TypeAlias = tuple[str, list[Any], dict[str, Any]]
Said: TypeAlias = Mapping[str, Any]
"""What travels: plain values and arrays, by `Graph`'s arguments."""


class Untraceable(Exception):
    """A model cannot be written down; says why."""


class Graph(nn.Module):
    """A model that does what `traced` wrote down.

    Args:
        said: ``training`` and ``scoring``, each a list of nodes, ``[operation, arguments, named]``,
            of which the last is the output; ``entries``, the names of the model's state in order;
            and ``constants``, arrays.
        params: the model's state, by name.
        trained: names of those that training changes; the others are buffers.

    Raises:
        ReplyInvalid: where ``said`` has another form, or names another operation.
    """

    def __init__(self, said: Said, params: Params, trained: frozenset[str]) -> None:
        super().__init__()
        try:
            self._names = [str(each) for each in said["entries"]]
            self._constants = [torch.from_numpy(np.array(each)) for each in said["constants"]]
            self._nodes = {
                mode: _checked(said[mode], len(self._names), len(self._constants))
                for mode in ("training", "scoring")
            }
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as cause:
            raise ReplyInvalid("the job's own model writes itself down in no form") from cause
        if set(self._names) != set(params) or not trained <= set(params):
            raise ReplyInvalid("what the job's own model says it does is of other parameters")
        for name in self._names:
            self._hold(name, torch.from_numpy(np.array(params[name])), name in trained)
        self._tried: set[tuple[bool, torch.Size]] = set()
        self.draws_nothing = False
        """Take a mask's mean in its place, for tests of what was written down."""

    def _hold(self, name: str, value: Tensor, is_trained: bool) -> None:
        *folders, last = name.split(".")
        where: nn.Module = self
        for each in folders:
            if each not in where._modules:
                where.add_module(each, nn.Module())
            inner = where._modules[each]
            assert inner is not None
            where = inner
        if is_trained:
            where.register_parameter(last, nn.Parameter(value))
        else:
            where.register_buffer(last, value)

    def of(self, dtype: torch.dtype) -> Graph:
        """Return a copy that computes with another precision."""
        made = copy.deepcopy(self).to(dtype)
        made._constants = [
            each.to(dtype) if each.is_floating_point() else each for each in self._constants
        ]
        return made

    def entries(self) -> list[Tensor]:
        """Return the model's state in the order that `by_rows` takes it."""
        state = self.state_dict(keep_vars=True)
        return [state[name] for name in self._names]

    def forward(self, features: Tensor) -> Tensor:
        """Return the outputs of rows, each computed by itself."""
        return self._mapped((None, 0), self.entries(), features)

    def by_rows(self, entries: Sequence[Tensor], features: Tensor) -> Tensor:
        """Return the same where each row has a state of its own.

        Args:
            entries: as `entries` gives them, each (rows, ...).
            features: (rows, inputs).
        """
        return self._mapped((0, 0), list(entries), features)

    def _mapped(self, dims: tuple[int | None, int], entries: list[Tensor], rows: Tensor) -> Tensor:
        if not len(rows):
            one = self._mapped(
                (None, 0),
                [each.detach() for each in self.entries()],
                rows.new_zeros(1, *rows.shape[1:]),
            )
            return one[:0]
        self._require_of_one(rows.shape[1:], rows.dtype)
        found: Tensor = torch.vmap(self._row, in_dims=dims, randomness="different")(entries, rows)
        return found

    def _require_of_one(self, shape: torch.Size, dtype: torch.dtype) -> None:
        """Do everything once for one row that is not mapped; raise whatever it raises.

        torch maps some operations by handing all rows to them with one dimension more, and does not
        look whether their arguments fit one row: a norm over a shape of as many rows as there are
        would mix them. On one row that shape is no part of it.
        """
        if (self.training, shape) in self._tried:
            return
        was, self.draws_nothing = self.draws_nothing, True
        try:
            with torch.no_grad():
                entries = [each.detach() for each in self.entries()]
                self._row(entries, torch.zeros(shape, dtype=dtype), alone=True)
        finally:
            self.draws_nothing = was
        self._tried.add((self.training, shape))

    def _row(self, entries: list[Tensor], row: Tensor, *, alone: bool = False) -> Tensor:
        values: list[Any] = [*entries, row[None]]
        constants = self._constants

        def filled(argument: Any) -> Any:
            if not isinstance(argument, _Ref):
                return (
                    [filled(each) for each in argument] if isinstance(argument, list) else argument
                )
            return constants[argument.place] if argument.constant else values[argument.place]

        for operation, arguments, named in self._nodes["training" if self.training else "scoring"]:
            given = [filled(each) for each in arguments]
            if operation == _PICK:
                values.append(given[0][given[1]])
            elif operation == _MASK:
                mean = row.new_full(given[0], given[1])
                values.append(mean if self.draws_nothing else torch.bernoulli(mean))
            else:
                # A row that is not mapped has other strides, of which a view may make nothing.
                done = "reshape" if alone and operation in _VIEWS else operation
                values.append(
                    _found(done)(*given, **{key: filled(each) for key, each in named.items()})
                )
        output: Tensor = values[-1]
        return output[0]


class _Ref:
    """A value that was computed before, a parameter, the row, or a constant."""

    def __init__(self, place: int, constant: bool) -> None:
        self.place, self.constant = place, constant


def _found(operation: str) -> Any:
    name, _, form = operation.partition(".")
    return getattr(getattr(torch.ops.aten, name), form or "default")


def _checked(nodes: Any, entries: int, constants: int) -> list[_Node]:
    """Return nodes whose operations are ours and whose values came before them."""
    if not isinstance(nodes, list) or not 0 < len(nodes) <= _MOST_NODES:
        raise ValueError("no list of nodes")
    made = []
    for number, (operation, arguments, named) in enumerate(nodes):
        if operation not in OPERATIONS and operation not in (_PICK, _MASK):
            raise ValueError("another operation")
        known = entries + 1 + number

        def read(value: Any, known: int = known) -> Any:
            if value is None or isinstance(value, bool):
                return value
            if isinstance(value, int | float):
                if not abs(value) <= (_MOST_NUMBER if isinstance(value, int) else math.inf):
                    raise ValueError("a number too large")
                return value
            if isinstance(value, list) and len(value) <= _MOST_NODES:
                return [read(each) for each in value]
            kind, place = next(iter(value.items()))
            if kind not in ("value", "constant") or type(place) is not int or len(value) != 1:
                raise ValueError("no reference")
            if not 0 <= place < (constants if kind == "constant" else known):
                raise ValueError("a reference to what is not there yet")
            return _Ref(place, kind == "constant")

        if not isinstance(arguments, list) or not isinstance(named, dict):
            raise ValueError("no arguments")
        if not all(isinstance(key, str) and key.isidentifier() for key in named):
            raise ValueError("no names of arguments")
        given, also = read(arguments), {key: read(each) for key, each in named.items()}
        _require_known(operation, given, also)
        made.append((operation, given, also))
    return made


def _require_known(operation: str, arguments: list[Any], named: Mapping[str, Any]) -> None:
    """Raise `ValueError` where an entry, or a mask, of ours is not one that is known beforehand.

    A place that was computed of a row may lie beyond the end: one row would decide of a fault.
    """
    if operation == _PICK:
        value, place = arguments
        if named or not isinstance(value, _Ref) or type(place) is not int or place < 0:
            raise ValueError("no entry of a result")
    elif operation == _MASK:
        shape, mean = arguments
        whole = isinstance(shape, list) and all(type(each) is int and each >= 0 for each in shape)
        if named or not whole or not isinstance(mean, int | float) or not 0 <= mean <= 1:
            raise ValueError("no mask")


def traced(model: nn.Module, num_inputs: int) -> dict[str, Any]:
    """Return what a model does with one row; see `Graph`. Runs the model's code, on made-up rows.

    Args:
        model: takes (1, ``num_inputs``), float32.
        num_inputs: of a row.

    Raises:
        Untraceable: where it does what cannot be written down, or where what was written down
            computes something else than the model.
    """
    if callable(getattr(model, "loss", None)):
        raise Untraceable("it has a loss of its own")
    state = {name: each.detach() for name, each in model.state_dict().items()}
    kept = [each.data_ptr() for each in state.values() if each.numel()]
    if len(set(kept)) < len(kept):
        raise Untraceable("two of its parameters are one")
    if set(dict(model.named_buffers())) - set(state):
        raise Untraceable("it has buffers that are not in its state")
    constants: list[np.ndarray[Any, Any]] = []
    said: dict[str, Any] = {"entries": list(state), "constants": constants}
    row = torch.rand((1, num_inputs), generator=torch.Generator().manual_seed(0))
    was = model.training
    try:
        for mode in ("training", "scoring"):
            model.train(mode == "training")
            said[mode] = list(_nodes(model, state, row, constants))
        _require_same(model, said, num_inputs)
    finally:
        model.train(was)
    return said


def _require_same(model: nn.Module, said: Said, num_inputs: int) -> None:
    """Raise `Untraceable` where outputs or gradients on made-up rows are not the model's.

    In float64, where rounding is far below any other difference; a model that can compute in
    float32 only is held to what that allows.
    """
    trained = frozenset(name for name, each in model.named_parameters() if each.requires_grad)
    graph = Graph(
        said, {k: each.detach().numpy() for k, each in model.state_dict().items()}, trained
    )
    graph.draws_nothing = True
    draws = any(operation == _MASK for operation, *_ in said["training"])
    rows = torch.randn((4, num_inputs), generator=torch.Generator().manual_seed(1))
    for mode in (True, False):
        graph.train(mode)
        # Without masks a model does as it does when scoring.
        model.train(mode and not draws)
        try:
            wanted = _row_by_row(copy.deepcopy(model).double(), rows.double(), trained)
            tolerance = _TOLERANCE
        except Exception:
            wanted = _row_by_row(model, rows, trained)
            tolerance = _TOLERANCE_32
        found = _computed(graph.of(wanted[0].dtype), rows.to(wanted[0].dtype), trained)
        for ours, theirs in zip(found, wanted, strict=True):
            size = float(theirs.abs().max()) if theirs.numel() else 0.0
            if ours.shape != theirs.shape or not torch.allclose(
                ours, theirs, rtol=tolerance, atol=tolerance * size
            ):
                raise Untraceable("what was written down computes something else")


def _row_by_row(model: nn.Module, rows: Tensor, trained: frozenset[str]) -> list[Tensor]:
    outputs, *gradients = zip(*(_computed(model, row[None], trained) for row in rows), strict=True)
    return [torch.cat(outputs), *(torch.stack(each).sum(dim=0) for each in gradients)]


def _computed(model: nn.Module, rows: Tensor, trained: frozenset[str]) -> list[Tensor]:
    """Return outputs, and the gradients of a weighted sum of them, parameter by parameter."""
    outputs = model(rows)
    weights = torch.linspace(0.5, 1.5, outputs[0].numel()).reshape(outputs[0].shape)
    named = dict(model.named_parameters())
    wanted = [named[name] for name in sorted(trained)]
    made = torch.autograd.grad((outputs * weights).sum(), wanted, allow_unused=True)
    gradients = [
        torch.zeros_like(each) if found is None else found
        for each, found in zip(wanted, made, strict=True)
    ]
    return [outputs.detach(), *gradients]


def _nodes(
    model: nn.Module,
    state: Mapping[str, Tensor],
    row: Tensor,
    constants: list[np.ndarray[Any, Any]],
) -> Iterator[list[Any]]:
    from torch.func import functional_call, functionalize
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.nn.attention import SDPBackend, sdpa_kernel

    names = list(state)

    def forward(*given: Tensor) -> Any:
        return functional_call(model, dict(zip(names, given[:-1], strict=True)), (given[-1],))

    try:
        with sdpa_kernel(SDPBackend.MATH):
            module = make_fx(functionalize(forward))(*state.values(), row)
            if any(_writes(node.target) for node in module.graph.nodes):  # below a composite
                module = make_fx(functionalize(module))(*state.values(), row)
    except Exception as cause:
        first = str(cause).strip().splitlines()[:1]
        raise Untraceable(f"{type(cause).__name__}: {' '.join(first)[:200]}") from cause
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target is torch.ops.aten.bernoulli.p:
            node.args = (None, node.args[1])  # whatever it was filled over
    module.graph.eliminate_dead_code()
    known: dict[Any, dict[str, int]] = {}
    fixed: dict[Any, Any] = {}
    count = len(names) + 1

    def plain(value: Any) -> Any:
        if isinstance(value, torch.fx.Node):
            if value in known:
                return known[value]
            constants.append(_constant(fixed[value]))
            known[value] = {"constant": len(constants) - 1}
            return known[value]
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, float) and math.isfinite(value):
            return value
        if isinstance(value, list | tuple):
            return [plain(each) for each in value]
        raise Untraceable(f"an operation has the argument {type(value).__name__}")

    places = iter(range(len(names) + 1))
    output: Any = None
    for node in module.graph.nodes:
        if node.op == "placeholder":
            known[node] = {"value": next(places)}
        elif node.op == "get_attr":
            fixed[node] = getattr(module, node.target)
        elif node.op == "output":
            (output,) = node.args if not isinstance(node.args[0], list | tuple) else node.args[0]
        elif node.target is torch.ops.aten.bernoulli.p:
            shape = [int(each) for each in node.meta["val"].shape]
            yield [_MASK, [shape, float(node.args[1])], {}]
            known[node] = {"value": count}
            count += 1
        else:
            inputs = node.all_input_nodes
            tags = getattr(node.target, "tags", ())
            if torch.Tag.nondeterministic_seeded in tags:
                raise Untraceable(f"it draws by {node.target}, which is not dropout")
            if all(each in fixed for each in inputs):
                fixed[node] = node.target(
                    *torch.fx.node.map_arg(node.args, fixed.__getitem__),
                    **torch.fx.node.map_arg(node.kwargs, fixed.__getitem__),
                )
                continue
            named = {key: each for key, each in node.kwargs.items() if key != "memory_format"}
            named = {key: plain(each) for key, each in named.items()}
            yield [_name(node.target), plain(node.args), named]
            known[node] = {"value": count}
            count += 1
    if known.get(output) != {"value": count - 1}:
        # The last node is the output: an alias of it where it is another one.
        yield ["alias", [plain(output)], {}]


def _writes(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def _constant(value: Any) -> np.ndarray[Any, Any]:
    if not isinstance(value, Tensor) or value.numel() > _MOST_CONSTANT:
        raise Untraceable("it makes something that is no array of a million numbers at most")
    found: np.ndarray[Any, Any] = value.detach().numpy()
    return found


def _name(target: Any) -> str:
    if target is operator.getitem:
        return _PICK
    packet, form = str(target).removeprefix("aten.").rsplit(".", 1)
    name = packet if form == "default" else f"{packet}.{form}"
    if not str(target).startswith("aten.") or name not in OPERATIONS:
        raise Untraceable(f"it uses {target}, which is not known to treat all rows alike")
    return name
