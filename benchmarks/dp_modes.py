"""What DP-SGD costs beside plain SGD, by model family and by way to clip per row.

One training step on made-up rows: forward, backward, and with privacy also clipping per row, noise
from the silo's secret stream, and the optimiser. Ratios are of CPU seconds in one thread; ways take
turns, and the median of their steps counts. Each way's clipped sum is first compared with the
oracle, one gradient at a time.

    mlp_*, cnn_*, transformer_*    of a family, where a way can take the model:
    *_chosen                       over plain SGD: what `clipped_sums` picks by rule
    *_picked_bookkeeping           1 where that is book-keeping
    *_hooks                        Opacus' default
    *_functorch                    Opacus, every layer by torch.func
    *_expanded                     Opacus, torch's expanded weights
    *_ghost                        Opacus' ghost clipping: two backward passes
    *_written_down                 a list of operations on one row, mapped over rows: what a silo
                                   makes of a model of the job's own (one of rows of numbers)
    *_subjects                     what `clipped_sums` takes where subjects are hidden: hooks, and
                                   the mean gradient of each four rows is clipped
    *_ms                           CPU of a step, plain SGD's and that of each way
    *_noise_ms                     of which the noise
    *_error                        largest difference of the clipped sum from the oracle's
    rows                           of a batch
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from report import Report, columns, load_now, options, say, sized
from torch import Tensor, nn
from torch.nn import functional

from consilo.learners.graphs import Graph, traced
from consilo.learners.tabular import MLP
from consilo.privacy.clipping import (
    BookKeeping,
    ClippedSums,
    HookedRows,
    MappedRows,
    RowLosses,
    clipped_sums,
)
from consilo.privacy.noise import SecretStream, add_gaussian

MAX_NORM = 0.7
SIGMA = 1.1
ROWS_PER_SUBJECT = 4


class Convolutional(nn.Module):
    """A small network for 28 by 28 images: about 26,000 parameters, as in Opacus' examples."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 8, 2, padding=3),
            nn.ReLU(),
            nn.MaxPool2d(2, 1),
            nn.Conv2d(16, 32, 4, 2),
            nn.ReLU(),
            nn.MaxPool2d(2, 1),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 32),
            nn.ReLU(),
            nn.Linear(32, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (n, 10)."""
        logits: Tensor = self.layers(images)
        return logits


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        rows, length, width = tokens.shape
        parts = self.attend(self.before(tokens)).reshape(rows, length, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.join(mixed.transpose(1, 2).reshape(rows, length, width))
        return tokens + self.narrow(functional.gelu(self.widen(self.between(tokens))))


class Transformer(nn.Module):
    """Two blocks of width 64 over 32 tokens of a vocabulary of 500: about 130,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(500, 64)
        self.blocks = nn.Sequential(_Block(64, 4), _Block(64, 4))
        self.head = nn.Linear(64, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits, (n, 10)."""
        logits: Tensor = self.head(self.blocks(self.embed(tokens)).mean(dim=1))
        return logits


class Expanded(HookedRows):
    """Opacus' mode "ew"."""

    def __init__(self, model: nn.Module, parameters: list[nn.Parameter], max_norm: float) -> None:
        from opacus.grad_sample import GradSampleModuleExpandedWeights

        self._parameters, self._max_norm, self._sums = parameters, max_norm, None
        self._wrapped = GradSampleModuleExpandedWeights(model, loss_reduction="sum")


class Ghost:
    """Opacus' ghost clipping: norms in one backward pass, the clipped sum in a second."""

    def __init__(self, model: nn.Module, parameters: list[nn.Parameter], max_norm: float) -> None:
        from opacus.grad_sample import GradSampleModuleFastGradientClipping

        self._parameters = parameters
        self._wrapped: Any = GradSampleModuleFastGradientClipping(
            model, loss_reduction="sum", max_grad_norm=max_norm, use_ghost_clipping=True
        )

    def add(
        self,
        losses: RowLosses,
        num_rows: int,
        *,
        places: Tensor | None = None,
        sizes: Sequence[int] = (),
    ) -> None:
        """Add the clipped gradients of some rows, which fill the batch."""
        assert places is None
        assert not sizes
        self._wrapped.enable_hooks()
        found = losses(self._wrapped)
        found.sum().backward(retain_graph=True)
        factors = self._wrapped.get_clipping_coef()
        for each in self._parameters:
            each.grad = None
        self._wrapped.disable_hooks()
        (factors * found).sum().backward()

    def take(self) -> list[Tensor]:
        """Return the sums."""
        sums = [torch.zeros_like(e) if e.grad is None else e.grad for e in self._parameters]
        for each in self._parameters:
            each.grad = None
        return sums

    def close(self) -> None:
        """Unwrap the model."""
        self._wrapped.cleanup()


def written_down(model: nn.Module, parameters: list[nn.Parameter], max_norm: float) -> ClippedSums:
    """Clip as a silo does whose code a model is not: from a list of operations on one row."""
    (first, *_) = parameters
    state = {name: each.detach().numpy() for name, each in model.state_dict().items()}
    graph = Graph(traced(model, first.shape[1]), state, frozenset(state))
    held = dict(graph.named_parameters())
    for name, each in model.named_parameters():
        held[name].data = each.data  # a step of the one is a step of the other
    return MappedRows(graph, [held[name] for name, _ in model.named_parameters()], max_norm)


WAYS: dict[str, Callable[[nn.Module, list[nn.Parameter], float], ClippedSums]] = {
    "hooks": HookedRows,
    "functorch": lambda *given: HookedRows(*given, functorch=True),
    "expanded": Expanded,
    "ghost": Ghost,
    "written_down": written_down,
}


def families(rows: int) -> dict[str, tuple[Callable[[], nn.Module], Tensor, Tensor]]:
    """Return each family's model, features and labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (rows,), generator=generator)
    return {
        "mlp": (lambda: MLP(30, 10), torch.randn(rows, 30, generator=generator), labels),
        "cnn": (Convolutional, torch.randn(rows, 1, 28, 28, generator=generator), labels),
        "transformer": (
            Transformer,
            torch.randint(0, 500, (rows, 32), generator=generator),
            labels,
        ),
    }


def losses_of(features: Tensor, labels: Tensor) -> RowLosses:
    """Return the loss of each row under a model."""
    return lambda model: functional.cross_entropy(model(features), labels, reduction="none")


def oracle(model: nn.Module, features: Tensor, labels: Tensor, *, unit: int = 1) -> list[Tensor]:
    """Return the clipped sum, one gradient at a time: of a row, or the mean of ``unit`` rows."""
    parameters = list(model.parameters())
    sums = [torch.zeros_like(each, dtype=torch.float64) for each in parameters]
    for row in range(0, len(features), unit):
        loss = losses_of(features[row : row + unit], labels[row : row + unit])(model).mean()
        found = [each.double() for each in torch.autograd.grad(loss, parameters)]
        norm = torch.stack([each.norm() for each in found]).norm()
        factor = min(1.0, MAX_NORM / (float(norm) + 1e-6))
        for total, each in zip(sums, found, strict=True):
            total.add_(factor * each)
    return sums


def private_step(
    sums: ClippedSums,
    losses: RowLosses,
    rows: int,
    sizes: tuple[int, ...],
    model: nn.Module,
    stream: SecretStream,
) -> Callable[[], None]:
    """Return a DP-SGD step over rows, or over subjects of the given sizes."""
    units = len(sizes) or rows
    parameters = list(model.parameters())
    numbers = [each.numel() for each in parameters]
    optimizer = torch.optim.SGD(parameters, lr=1e-3)

    def step() -> None:
        sums.add(losses, rows, sizes=sizes)
        flat = torch.cat([each.reshape(-1) for each in sums.take()])
        noisy = add_gaussian(flat.numpy(), SIGMA * MAX_NORM, stream) / units
        for parameter, part in zip(parameters, torch.from_numpy(noisy).split(numbers), strict=True):
            parameter.grad = part.float().view_as(parameter)
        optimizer.step()

    return step


def plain_step(losses: RowLosses, model: nn.Module) -> Callable[[], None]:
    """Return a step of plain SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        losses(model).mean().backward()
        optimizer.step()

    return step


def chosen(
    model: nn.Module, losses: RowLosses, features: Tensor, labels: Tensor, *, grouped: bool
) -> ClippedSums:
    """Return what the rule picks, for rows or for subjects."""
    return clipped_sums(
        model,
        model.parameters(),
        MAX_NORM,
        probe=losses_of(features[:3], labels[:3]),
        num_probe_rows=3,
        probe_row=losses_of(features[:1], labels[:1]),
        grouped=grouped,
    )


def measure(family: str, rows: int, steps: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return figures and ratios of one family."""
    make, features, labels = families(rows)[family]
    losses = losses_of(features, labels)
    stream = SecretStream(bytes(32), "benchmark")
    figures: dict[str, float] = {}
    running: dict[str, Callable[[], None]] = {}
    torch.manual_seed(0)
    start = make().state_dict()

    def fresh() -> nn.Module:
        model = make()
        model.load_state_dict(start)
        return model

    of_rows = oracle(fresh(), features, labels)
    of_subjects = oracle(fresh(), features, labels, unit=ROWS_PER_SUBJECT)
    running["plain"] = plain_step(losses, fresh())
    for name in ("chosen", *WAYS, "subjects"):
        model, grouped = fresh(), name == "subjects"
        sizes = (ROWS_PER_SUBJECT,) * (rows // ROWS_PER_SUBJECT) if grouped else ()
        try:
            sums = (
                WAYS[name](model, list(model.parameters()), MAX_NORM)
                if name in WAYS
                else chosen(model, losses, features, labels, grouped=grouped)
            )
            sums.add(losses, rows, sizes=sizes)
        except Exception as cause:  # a mode that cannot take the model is a finding, not a fault
            say(f"{family}: {name} cannot take it: {type(cause).__name__}")
            continue
        if name == "chosen":
            figures[f"{family}_picked_bookkeeping"] = float(isinstance(sums, BookKeeping))
        found = zip(sums.take(), of_subjects if grouped else of_rows, strict=True)
        figures[f"{family}_{name}_error"] = max(float((a - b).abs().max()) for a, b in found)
        running[name] = private_step(sums, losses, rows, sizes, model, stream)
    times: dict[str, list[float]] = {name: [] for name in running}
    for turn in range(steps + 2):
        for name, step in running.items():
            started = time.process_time()
            step()
            if turn >= 2:
                times[name].append(time.process_time() - started)
    middle = {name: statistics.median(values) for name, values in times.items()}
    noise_s = _noise_s(fresh(), stream)
    figures |= {f"{family}_{name}_ms": 1000 * value for name, value in middle.items()}
    figures[f"{family}_noise_ms"] = 1000 * noise_s
    plain = middle.pop("plain")
    return figures, {f"{family}_{name}": value / plain for name, value in middle.items()}


def _noise_s(model: nn.Module, stream: SecretStream) -> float:
    values = torch.cat([each.detach().reshape(-1) for each in model.parameters()]).numpy()
    times = []
    for _ in range(5):
        started = time.process_time()
        add_gaussian(values, SIGMA, stream)
        times.append(time.process_time() - started)
    return statistics.median(times)


def main() -> int:
    """Run from the command line."""
    parser = options(__doc__)
    parser.add_argument("--rows", type=int, help="of a batch; default 64")
    given = parser.parse_args()
    load = load_now()
    torch.set_num_threads(1)
    rows, steps = sized(given, full=(64, 60), quick=(64, 5), smoke=(8, 1))
    rows = given.rows or rows
    if rows % ROWS_PER_SUBJECT:
        parser.error(f"--rows: expected a multiple of {ROWS_PER_SUBJECT}, found {rows}")
    figures: dict[str, float] = {"rows": float(rows)}
    ratios: dict[str, float] = {}
    names = ["chosen", *WAYS, "subjects"]
    table: list[tuple[str, ...]] = [("model", "plain ms", "noise ms", *names)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for family in families(2):
            found, compared = measure(family, rows, steps)
            figures |= found
            ratios |= compared
            cells = [compared.get(f"{family}_{name}") for name in names]
            shown = ["–" if each is None else f"{each:.2f}" for each in cells]
            plain, noise = found[f"{family}_plain_ms"], found[f"{family}_noise_ms"]
            table.append((family, f"{plain:.2f}", f"{noise:.2f}", *shown))
            say(f"{family} done")
    Report("dp_modes", given.size, load, figures, ratios).show(
        as_json=given.json, table=columns(table)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
