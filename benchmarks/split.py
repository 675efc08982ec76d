"""A split network on handwritten digits cut into a left and a right half, beside the joined one.

Two silos, each a process of its own over its own directory, with policy, audit log, signatures,
sealed envelopes and kept state, as in a federation; this process is the coordinator between them.
With ``--data`` the digits are MNIST's (5,000 to learn from, the 10,000 test digits to judge), else
scikit-learn's (1,797 of 8 by 8 pixels, a third held out). The joined network is plain PyTorch with
the same sizes, settings, start and batches, so that the bits are all that differs.

    accuracy_joined            on digits that were not learnt from
    accuracy_BITS              of the split network, by bits per number that crosses the cut: 32
                               as they are, 8, 4, 2
    bytes_per_sample_BITS      sealed, up and down, per row that was learnt from
    minibatches_per_s          at 32 bits, the first epoch left out: two asks each
    accuracy_joined_sd         over five starts, the first of which is that of the split networks
    accuracy_mean_BITS         over the five starts: the joined network, its cut in these bits
    cpu_ms                     of both silos per minibatch; the contract check before is in it
    points_below_joined        (accuracy_joined - accuracy_32) in points

    python benchmarks/split.py --data DIR      DIR holds mnist/
"""

from __future__ import annotations

import gzip
import hashlib
import multiprocessing as mp
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from psi import Pipes
from report import Report, columns, load_now, options, say, sized

from consilo.machine.environment import quieten

SILOS = ("left", "right")
LABEL_SILO = "left"
WIDTH, HIDDEN, TOP = 32, 64, 32
BATCH, EPOCHS, SMALL_EPOCHS = 100, 12, 30
LOCAL = {"batch_size": BATCH, "lr": 0.05, "momentum": 0.9}
MLP = "consilo.learners.tabular:MLP"
BITS = (32, 8, 4, 2)
RUN = "benchmark"
POLICY = """
allow: [{jobs: ["*"]}]
disclosures: {sealed: yes, statistic: yes, metric: yes, embedding: yes, label: yes}
"""


@dataclass(frozen=True)
class Digits:
    """Images with their labels.

    Args:
        pixels: float32 in [0, 1], [images, pixels]; those to learn from first.
        labels: 0 to 9.
        num_learnt: how many to learn from.
        side: pixels of an image's side.
    """

    pixels: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]
    num_learnt: int
    side: int

    @property
    def halves(self) -> dict[str, tuple[str, ...]]:
        """Silo → names of its pixels."""
        names = np.array([f"p{at}" for at in range(self.side**2)]).reshape(self.side, -1)
        middle = self.side // 2
        cut = {"left": names[:, :middle], "right": names[:, middle:]}
        return {silo: tuple(map(str, each.ravel())) for silo, each in cut.items()}

    @property
    def table(self) -> pd.DataFrame:
        """All of it, row by row."""
        names = [f"p{at}" for at in range(self.side**2)]
        return pd.DataFrame(self.pixels, columns=names).assign(digit=self.labels)

    @property
    def holdout(self) -> float:
        """Share of the images that judge."""
        return 1 - self.num_learnt / len(self.labels)


def mnist(folder: Path) -> Digits:
    """Return MNIST's digits from ``mnist/``."""
    learnt = pd.read_csv(folder / "mnist_5k.csv.gz", header=None).to_numpy()
    order = np.random.default_rng(0).permutation(len(learnt))
    with gzip.open(folder / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784)
    with gzip.open(folder / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    pixels = np.concatenate([learnt[order, :-1], images]).astype(np.float32) / 255
    truth = np.concatenate([learnt[order, -1], labels]).astype(np.int64)
    return Digits(pixels, truth, len(learnt), 28)


def small_digits() -> Digits:
    """Return scikit-learn's digits."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    ready = pixels[order].astype(np.float32) / 16
    return Digits(ready, labels[order].astype(np.int64), len(labels) * 2 // 3, 8)


def contract_of(digits: Digits) -> dict[str, Any]:
    """Return the contract over all pixels."""
    pixels: dict[str, Any] = {f"p{at}": {"type": "float"} for at in range(digits.side**2)}
    target = {"type": "integer", "role": "target", "allowed": list(range(10))}
    return {"name": "digits", "version": 1, "columns": {**pixels, "digit": target}}


def job_of(digits: Digits, *, bits: int, epochs: int) -> dict[str, Any]:
    """Return the job of a split network."""
    args = {
        "match": "digits",
        "label_silo": LABEL_SILO,
        "columns": {silo: list(names) for silo, names in digits.halves.items()},
        "width": WIDTH,
        "bottom": {"name": MLP, "args": {"hidden": [HIDDEN]}},
        "bits": None if bits == 32 else bits,
        "controls": False,
    }
    return {
        "name": "digits",
        "kind": "vertical",
        "contract": "digits@1",
        "task": "multiclass",
        "model": {"name": MLP, "args": {"hidden": [TOP]}},
        "features": {"standardize": "none"},
        "protocol": {"name": "vertical_split", "rounds": epochs, "args": args},
        "local": LOCAL,
        "evaluation": {"holdout": digits.holdout},
    }


def make_silo(folder: Path, name: str, rows: pd.DataFrame) -> Path:
    """Write a silo's directory."""
    place = folder / name
    place.mkdir()
    rows.to_parquet(place / "rows.parquet")
    source = {"digits": {"type": "parquet", "path": "rows.parquet"}}
    (place / "silo.yaml").write_text(yaml.safe_dump({"name": name, "data": source}))
    (place / "policy.yaml").write_text(POLICY)
    secret = place / "secrets" / f"{hashlib.sha256(RUN.encode()).hexdigest()[:32]}.key"
    secret.parent.mkdir(mode=0o700)
    secret.write_bytes(secret_of(name, 0))
    return place


def serve(
    place: Path,
    contract: Mapping[str, Any],
    num_rows: int,
    coordinator: str,
    partners: Mapping[str, str],
    pipe: Connection,
) -> None:
    """Be a silo that holds its half of the match: answer until it is told to end."""
    quieten()
    import torch

    from consilo.contracts.contract import Contract
    from consilo.jobs.match import Match
    from consilo.protocols.dispatch import answerer
    from consilo.wire.parcel import Parcel
    from silos.gate.partners import Partner
    from silos.node.warm_up import warm
    from silos.silo import Silo

    torch.set_num_threads(1)
    warm()
    known = {name: Partner(signing_key=key) for name, key in partners.items()}
    silo = Silo.open(place, signing_keys=[coordinator], partners=known)
    now, others = datetime.now(UTC), tuple(partners)
    whole = Contract.parse(contract, where="here")
    (place / "mapping.yaml").write_text(f"contract: {whole.ref}\nagreed: {whole.digest}\n")
    match = Match(
        "digits",
        np.arange(num_rows, dtype=np.int64),
        others,
        "recipe",
        whole.ref,
        "digits",
        "unstated",
        now,
        now + timedelta(days=1),
    )
    silo.matches.keep_match(match)
    answer = answerer(silo)
    before = time.process_time()
    pipe.send(None)
    while (asked := pipe.recv()) is not None:
        reply = answer(Parcel(*asked))
        pipe.send((bytes(reply.header), bytes(reply.body)))
    pipe.send(time.process_time() - before)


@dataclass
class Measured:
    """What a run showed."""

    accuracy: float
    bytes_per_sample: float
    minibatches_per_s: float
    cpu_ms: float


def split(digits: Digits, *, bits: int, epochs: int) -> Measured:
    """Train the split network between two silos."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from consilo.contracts.contract import Contract
    from consilo.jobs.job import Job
    from consilo.kernel.loop import Party
    from consilo.membership.keys import load_or_create_signing_key
    from consilo.runs.vertical import VerticalRun
    from consilo.wire.signing import public_hex

    key, contract = Ed25519PrivateKey.generate(), contract_of(digits)
    job = Job.from_json(job_of(digits, bits=bits, epochs=epochs))
    context, table, halves = mp.get_context("spawn"), digits.table, digits.halves
    with tempfile.TemporaryDirectory(prefix="split-") as named, children_of(context) as start:
        folder = Path(named)
        places = {}
        for name in SILOS:
            held = [*halves[name], "digit"] if name == LABEL_SILO else list(halves[name])
            places[name] = make_silo(folder, name, table[held])
        public = {
            name: public_hex(load_or_create_signing_key(place / "signing.key"))
            for name, place in places.items()
        }
        pipes = {}
        for name, place in places.items():
            others = {other: each for other, each in public.items() if other != name}
            pipes[name] = start(serve, place, contract, len(table), public_hex(key), others)
        for pipe in pipes.values():
            pipe.recv()
        run = VerticalRun(
            job,
            Contract.parse(contract, where="here"),
            Pipes(pipes),
            silos=SILOS,
            directory=folder / "runs",
            run_id=RUN,
            key=key,
            parties={name: Party(each) for name, each in public.items()},
        )
        run.wait_for_silos(seconds=0)
        for name in SILOS:
            run.check(name)
        run.admit()
        run.match()
        run.train_round()
        started, first = time.perf_counter(), len(run.exchanges)
        while run.rounds_left:
            run.train_round()
        seconds = time.perf_counter() - started
        exchanges = run.exchanges[first:]
        metrics = run.evaluate()
        run.close()
        for pipe in pipes.values():
            pipe.send(None)
        cpu_s = sum(pipe.recv() for pipe in pipes.values())
    batches = run.state.facts["batches"]
    sent = sum(each.bytes_up for each in exchanges)
    return Measured(
        metrics["joined/accuracy"],
        sent / (digits.num_learnt * (epochs - 1)),
        batches * (epochs - 1) / epochs / seconds,
        1000 * cpu_s / batches,
    )


class children_of:
    """A scope for child processes with a pipe each; none of them survives it."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._children: list[Any] = []

    def __enter__(self) -> Any:
        return self._start

    def _start(self, target: Any, *args: Any) -> Connection:
        mine, theirs = self._context.Pipe()
        child = self._context.Process(target=target, args=(*args, theirs))
        child.start()
        self._children.append(child)
        return mine  # type: ignore[no-any-return]

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.join(timeout=10)
            if child.is_alive():
                child.terminate()
                child.join()


def secret_of(silo: str, start: int) -> bytes:
    """Return what a silo's networks start from: fixed here, so that all runs begin alike."""
    return hashlib.sha256(f"{silo} {start}".encode()).digest()


def joined(digits: Digits, *, epochs: int, start: int = 0, bits: int = 32) -> float:
    """Return the accuracy of the network that sees both halves, in plain PyTorch.

    Args:
        digits: what is learnt.
        epochs: how long.
        start: which secrets it starts from; 0 is the silos'.
        bits: per number of the right half's embeddings and of their gradients.
    """
    import torch
    from torch import nn

    from consilo.jobs.job import Job
    from consilo.kernel import seeds
    from consilo.learners.modules import build_model
    from consilo.vertical.split.cut_layer import quantized, restored
    from consilo.vertical.split.plan import Plan, SplitSettings

    rng = np.random.default_rng(start)

    def crossed(values: Any) -> Any:
        sent = quantized(values.detach().numpy(), None if bits == 32 else bits, rng)
        return torch.from_numpy(restored(sent, *values.shape))

    class Cut(torch.autograd.Function):
        """What the embeddings, and back again their gradients, go through."""

        @staticmethod
        def forward(ctx: Any, values: Any) -> Any:
            return crossed(values)

        @staticmethod
        def backward(ctx: Any, gradients: Any) -> Any:
            return crossed(gradients)

    def built(silo: str, purpose: str, hidden: int, inputs: int, outputs: int) -> nn.Module:
        seed = seeds.seed32(secret_of(silo, start).hex(), "vertical_split", purpose)
        spec = {"class": MLP, "args": {"hidden": [hidden]}}
        return build_model(spec, num_inputs=inputs, num_outputs=outputs, seed=seed)

    halves = [[int(name[1:]) for name in names] for names in digits.halves.values()]
    bottoms = [
        built(silo, "bottom", HIDDEN, len(half), WIDTH)
        for silo, half in zip(SILOS, halves, strict=True)
    ]
    top = built(LABEL_SILO, "top", TOP, 2 * WIDTH, 10)
    net = nn.ModuleList([*bottoms, top])
    optimizer = torch.optim.SGD(net.parameters(), lr=LOCAL["lr"], momentum=LOCAL["momentum"])
    pixels, labels = torch.tensor(digits.pixels), torch.tensor(digits.labels)

    def outputs(rows: Any) -> Any:
        seen = pixels[rows]
        parts = [bottom(seen[:, each]) for bottom, each in zip(bottoms, halves, strict=True)]
        return top(torch.cat([parts[0], Cut.apply(parts[1])], dim=1))

    job = Job.from_json(job_of(digits, bits=32, epochs=epochs))
    settings = SplitSettings.model_validate(job.protocol.args)
    plan = Plan.of(job, settings, len(digits.labels))
    for step in range(1, plan.total + 1):
        rows = torch.tensor(plan.batch(plan.networks[0], step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(outputs(rows), labels[rows]).backward()
        optimizer.step()
    held = torch.tensor(plan.held_out(plan.networks[0]))
    with torch.no_grad():
        found = outputs(held).argmax(dim=1)
    return float((found == labels[held]).float().mean())


def main() -> int:
    """Measure and report."""
    parser = options(__doc__)
    parser.add_argument("--data", type=Path, help="a folder that has mnist/")
    given = parser.parse_args()
    if given.data is not None and not (given.data / "mnist").is_dir():
        print(f"there is no mnist/ in {given.data}; name a folder that has it", file=sys.stderr)
        return 2
    quieten()
    import torch

    torch.set_num_threads(1)  # as the silos have it; several wait for one another here
    load = load_now()
    digits = small_digits() if given.data is None else mnist(given.data / "mnist")
    whole = SMALL_EPOCHS if given.data is None else EPOCHS
    all_bits, num_starts, epochs = sized(
        given, full=(BITS, 5, whole), quick=(BITS, 5, 3), smoke=((32,), 2, 2)
    )
    say("the joined network …")
    figures, rows = {}, [("bits", "accuracy", "mean of starts", "bytes per sample")]
    for bits in all_bits:
        starts = [joined(digits, epochs=epochs, start=at, bits=bits) for at in range(num_starts)]
        figures[f"accuracy_mean_{bits}"] = float(np.mean(starts))
        if bits == 32:
            figures["accuracy_joined"] = starts[0]
            figures["accuracy_joined_sd"] = float(np.std(starts, ddof=1))
        say(f"split, {bits} bits …")
        found = split(digits, bits=bits, epochs=epochs)
        figures |= {
            f"accuracy_{bits}": found.accuracy,
            f"bytes_per_sample_{bits}": found.bytes_per_sample,
        }
        if bits == 32:
            figures["minibatches_per_s"] = found.minibatches_per_s
            figures["cpu_ms"] = found.cpu_ms
            figures["points_below_joined"] = 100 * (starts[0] - found.accuracy)
        mean = figures[f"accuracy_mean_{bits}"]
        size = f"{found.bytes_per_sample:.0f}"
        rows.append((str(bits), f"{found.accuracy:.4f}", f"{mean:.4f}", size))
    rows.append(("joined", f"{figures['accuracy_joined']:.4f}", "", ""))
    table = columns(rows) + f"\n{figures['minibatches_per_s']:.1f} minibatches a second"
    Report("split", given.size, load, figures).show(as_json=given.json, table=table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
