"""What becomes of a run when something dies under it: stock Flower and Consilo, the same faults.

The faults are those of ``consilo job rehearse``, played the same way: three silos on this machine
train a perceptron of 2,114 parameters on the demo's rows, and a fault strikes in round 2, or before
the run. What lasts a minute or more there lasts a third of it here, on both sides. Stock Flower
(``--flower PYTHON`` runs that of another environment) is used as its documentation tells people
who want it to last: SuperLink with ``--database`` and TLS, SuperNodes with keys of their own,
processes that a service manager starts again a second after they died, and a strategy with
``min_train_nodes`` 2 of 3 and a ``timeout`` of 60 s a round; against poisoned updates FedMedian,
its robust mean. Consilo: the same job with ``min_silos: 2`` and the same deadline.

A model is right where all rounds are done, all its numbers are finite, and its loss over all rows
is within a quarter of that of the undisturbed run; Consilo's is held to what its rehearsal asks,
which is more: the bits that those who were there make.

    PEER.FAULT.ended    1 where the run ended by itself with a model, within seven minutes
    PEER.FAULT.right    1 where it is right
    PEER.FAULT.alone    1 where nobody had to ask for the run, or for its end, again
    PEER.FAULT.seconds  until it ended, from its start; the limit where it did not
    PEER.ended, PEER.right, PEER.alone  of how many faults
    faults              that were played
    flower_version      41 for 1.41
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from report import Report, load_now, options, say, sized
from rounds import (
    BATCH,
    LR,
    MOMENTUM,
    STEPS,
    arrays_of,
    copy_app,
    job_of,
    write_arrays,
)

from consilo.errors import ConsiloError, ServiceFailed
from consilo.machine.environment import child_environment, quieten
from consilo.machine.processes import Supervisor, listens
from consilo.membership.keys import load_or_create_authority, load_or_create_silo_key
from consilo.yaml_text import to_yaml

quieten()

from consilo.transports.flower.superlink import Registry  # noqa: E402
from flows.demo.demo_data import Hospital, write_hospitals  # noqa: E402
from flows.rehearsal import clocks, disks  # noqa: E402
from flows.rehearsal.acts import NotPossible, Undo, act, nothing  # noqa: E402
from flows.rehearsal.copies import Rehearsed, prepare  # noqa: E402
from flows.rehearsal.faults import CATALOGUE, EXPLODING, Fault  # noqa: E402
from flows.rehearsal.links import links  # noqa: E402
from flows.rehearsal.place import Place, rehearsal_place  # noqa: E402
from flows.rehearsal.rehearse import rehearse  # noqa: E402
from flows.rehearsal.standing import Standing  # noqa: E402
from flows.services.federation import wait_online  # noqa: E402
from flows.services.place import settle_place  # noqa: E402
from flows.services.watch import Watch  # noqa: E402

SILOS, ROUNDS, FEWEST, TIMEOUT_S = 3, 3, 2, 60
SCALE = 1 / 3
LIMIT_S = 420.0
NOT_THERE = {
    "silo-dead-after": "Flower's run ends with its last training round",
    "silo-disk-full": "a SuperNode writes nothing",
    "worker-killed": "no Prefect in it",
    "prefect-down": "no Prefect in it",
    "mlflow-down": "no MLflow in it",
    "silo-release-before": "needs a second environment",
    "checkpoint-corrupted": "no checkpoints in it",
    "budget-exhausted": "no ledger in it",
    "cache-deleted": "no cache in it",
    "machine-lost": "no backup in it",
}
"""Faults of the rehearsal that have no counterpart in stock Flower → why."""
_STRUCK = "east"
_LOOK_S, _STATUS_EVERY_S, _ONLINE_S = 0.1, 8.0, 120.0
_LOSS_TOLERANCE = 0.25


@dataclass(frozen=True)
class Fate:
    """What became of a run under a fault.

    Args:
        ended: by itself, with a model.
        right: whether the model is.
        alone: nobody had to ask again.
        seconds: until it ended.
        told: in words.
    """

    ended: bool
    right: bool
    alone: bool
    seconds: float
    told: str

    def figures(self, name: str) -> dict[str, float]:
        """Return the figures, below a name."""
        return {
            f"{name}.ended": float(self.ended),
            f"{name}.right": float(self.right),
            f"{name}.alone": float(self.alone),
            f"{name}.seconds": self.seconds,
        }


class StockFlower:
    """One federation of stock Flower, for one run.

    Args:
        at: where all of it is.
        hospitals: the silos.
        python: of the environment whose Flower it is.
        fault: that will strike, as far as it is there from the start.
    """

    def __init__(
        self, at: Place, hospitals: Sequence[Hospital], python: Path, fault: Fault | None
    ) -> None:
        self._at, self._hospitals, self._bin, self._fault = at, hospitals, python.parent, fault
        self._marks, self._result = at.folder / "marks.jsonl", at.folder / "model.npz"
        self._marks.touch()
        self._address, self._user = "", at.folder / "user"
        self._authority = load_or_create_authority(at.folder / "keys")

    def environment(self, home: Path) -> dict[str, str]:
        """Return the variables of a process of that environment."""
        environment = child_environment(home=home)
        environment["PATH"] = f"{self._bin}:{environment['PATH']}"
        return environment

    @contextmanager
    def up(self) -> Iterator[Standing]:
        """Start it for the block, with a service manager that starts again what died."""
        place = settle_place(self._at.home)
        self._address = f"127.0.0.1:{place.port}"
        names = [each.name for each in self._hospitals]
        with links(names, place.port) as ways, Supervisor() as supervisor:
            self._start_superlink(supervisor, place.port)
            silos = {}
            with Registry(self._address, self._authority.ca_certificate) as registry:
                for each in self._hospitals:
                    silos[each.name] = silo = self._at.silos / each.name
                    silo.mkdir(parents=True)
                    write_arrays(each, silo / "rows.npz")
                    key = load_or_create_silo_key(silo / "silo.key")
                    registry.register(each.name, key)
                    self._start_node(supervisor, each.name, f"127.0.0.1:{ways[each.name].port}")
            services = supervisor.services
            try:
                wait_online(self._address, self._authority.ca_certificate, silos, services)
            except ServiceFailed:
                if self._fault is None or self._fault.what != "shift clock":
                    raise
            rehearsed = Rehearsed(job_of(ROUNDS, SILOS), self._at.folder / "no.yaml", silos, "")
            watch = Watch(self._at.home, supervisor, lambda _: None)
            yield Standing(self._at, rehearsed, supervisor, ways, watch, lambda _: None)

    def _start_superlink(self, supervisor: Supervisor, port: int) -> None:
        folder = self._at.home / "superlink"
        folder.mkdir()
        command = [
            *(str(self._bin / "flower-superlink"), "--enable-supernode-auth", "--port", str(port)),
            *("--ssl-ca-certfile", str(self._authority.ca_certificate)),
            *("--ssl-certfile", str(self._authority.server_certificate)),
            *("--ssl-keyfile", str(self._authority.server_key)),
            *("--database", str(folder / "superlink.db")),
        ]
        supervisor.start(
            "the SuperLink",
            command,
            log=self._at.folder / "superlink.log",
            env=self.environment(self._at.folder / "flwr"),
            healthy=lambda: listens(port),
            timeout_s=_ONLINE_S,
            port=port,
            lasting=True,
        )

    def _start_node(self, supervisor: Supervisor, name: str, address: str) -> None:
        from consilo.machine.processes import free_port

        silo, fault = self._at.silos / name, self._fault
        config = f'data="{silo / "rows.npz"}"'
        is_struck = fault is not None and name == _STRUCK
        if fault is not None and is_struck and fault.what == "poison":
            config += f" lie={EXPLODING if fault.amount else 'nan'}"
        command = [
            *(str(self._bin / "flower-supernode"), "--superlink", address),
            *("--root-certificates", str(self._authority.ca_certificate)),
            *("--auth-supernode-private-key", str(silo / "silo.key")),
            *("--port", str(free_port()), "--node-config", config),
        ]
        if fault is not None and is_struck and fault.what == "shift clock":
            command = clocks.ahead(command, self._at.folder / "clock")
        supervisor.start(
            f"silo {name}",
            command,
            log=silo / "node.log",
            env=self.environment(silo / "flwr"),
            lasting=True,
        )

    def submit(self) -> str:
        """Ask for the run with ``flwr run``; return its id."""
        app = self._at.folder / "app"
        if not app.exists():
            copy_app(app)
            self._user.mkdir()
            (self._user / "config.toml").write_text(
                f'[superlink]\ndefault = "stock"\n\n[superlink.stock]\n'
                f'address = "{self._address}"\n'
                f'root-certificates = "{self._authority.ca_certificate}"\n'
            )
        strategy = "FedMedian" if self._fault and self._fault.what == "poison" else "FedAvg"
        settings = (
            f"rounds={ROUNDS} silos={SILOS} steps={STEPS} batch-size={BATCH} lr={LR} "
            f'momentum={MOMENTUM} marks="{self._marks}" min-silos={FEWEST} timeout={TIMEOUT_S} '
            f'strategy="{strategy}" result="{self._result}"'
        )
        asked = self._flwr("run", str(app), "stock", "--run-config", settings)
        return str(asked["run-id"])

    def _flwr(self, *words: str) -> Any:
        done = subprocess.run(
            [str(self._bin / "flwr"), *words, "--format", "json"],
            env=self.environment(self._user),
            capture_output=True,
            text=True,
            timeout=120,
        )
        try:
            told = json.loads(done.stdout)
        except ValueError:
            told = {"success": False}
        if done.returncode != 0 or not told.get("success", False):
            raise ServiceFailed(f"flwr {words[0]}: {done.stdout[-500:]}{done.stderr[-500:]}")
        return told

    def has_failed(self, run: str) -> str:
        """Return what Flower says of a run that ended without a model; empty where it has not."""
        try:
            (told,) = self._flwr("list", "stock", "--run-id", run)["runs"]
        except (ServiceFailed, KeyError, ValueError, subprocess.TimeoutExpired):
            return ""  # its SuperLink is away, or does not know the run
        status = str(told["status"])
        return status if status.startswith("finished") and not self._result.exists() else ""

    @property
    def rounds_done(self) -> int:
        """How many rounds are done."""
        return max(0, len(self._marks.read_text().splitlines()) - 1)

    def loss(self) -> float:
        """Return the loss of the model over all silos' rows; not finite where the model is not."""
        params = np.load(self._result)
        total, rows = 0.0, 0
        for each in self._hospitals:
            data = arrays_of(each)
            hidden = data["features"].astype(np.float64)
            for place in (0, 2, 4):
                hidden = hidden @ params[f"{place}.weight"].T.astype(np.float64)
                hidden += params[f"{place}.bias"]
                hidden = hidden if place == 4 else np.maximum(hidden, 0)
            hidden -= hidden.max(axis=1, keepdims=True)
            logs = hidden - np.log(np.exp(hidden).sum(axis=1, keepdims=True))
            labels = data["labels"].astype(int)
            total -= float(logs[np.arange(len(labels)), labels].sum())
            rows += len(labels)
        return total / rows

    def run(self, limit_s: float, undisturbed: float | None) -> tuple[Fate, float]:
        """Run it once under its fault; return what became of it, and the model's loss."""
        with self.up() as there:
            return self._followed(there, limit_s, undisturbed)

    def _followed(
        self, there: Standing, limit_s: float, undisturbed: float | None
    ) -> tuple[Fate, float]:
        fault, undo, over_at, struck = self._fault, nothing, float("inf"), False
        if fault is not None and fault.when == "before":
            undo, struck = self._strike(there, fault), True
        run, began = self.submit(), time.monotonic()
        asked_at, status = began + _STATUS_EVERY_S, ""
        while not self._result.exists() and not status and time.monotonic() < began + limit_s:
            now = time.monotonic()
            there.watch.look()
            if fault is not None and not struck and self.rounds_done >= (fault.round or ROUNDS) - 1:
                undo, struck = self._strike(there, fault), True
                over_at = now + (float("inf") if fault.lasts is None else fault.lasts * SCALE)
            if now >= over_at:
                undo()
                undo, over_at = nothing, float("inf")
            if now >= asked_at:
                status = self.has_failed(run)
                asked_at = time.monotonic() + _STATUS_EVERY_S
            time.sleep(_LOOK_S)
        seconds = time.monotonic() - began
        undo()
        ended = self._result.exists()
        loss = self.loss() if ended else float("nan")
        right = (
            ended
            and self.rounds_done >= ROUNDS
            and bool(np.isfinite(loss))
            and (undisturbed is None or loss <= undisturbed * (1 + _LOSS_TOLERANCE))
        )
        told = f"{self.rounds_done} of {ROUNDS} rounds" + (f", {status}" if status else "")
        if not ended and not status:
            told += ", not over"
        if ended:
            told += f", loss {loss:.3g}"
        return Fate(ended, right, ended, seconds, told), loss

    def _strike(self, there: Standing, fault: Fault) -> Undo:
        if fault.part == "pipeline" and fault.what == "kill":
            self._kill_server_app(there)
            return nothing
        if fault.what == "break contract":
            (there.rehearsed.silos[_STRUCK] / "rows.npz").unlink()
            return nothing
        if fault.what == "start twice":
            self.submit()
            return nothing
        if fault.what in ("poison", "shift clock"):
            return nothing  # so from its start
        return act(fault, there, _STRUCK)

    def _kill_server_app(self, there: Standing) -> None:
        import psutil

        for pid in there.service("superlink").pids():
            try:
                process = psutil.Process(pid)
                if "flwr-serverapp" in " ".join(process.cmdline()):
                    process.kill()
            except psutil.Error:
                continue


def flower_fates(
    folder: Path, python: Path, faults: Sequence[Fault], limit_s: float
) -> dict[str, Fate]:
    """Return what becomes of a run of stock Flower under each fault."""
    made = write_hospitals(folder / "hospitals", count=SILOS + 1, seed=0)
    hospitals = [each for each in made if not each.broken][:SILOS]
    fates: dict[str, Fate] = {}
    undisturbed: float | None = None
    if disks.why_not() == "":
        disks.of_our_own()
    for fault in (None, *faults):
        name = "undisturbed" if fault is None else fault.name
        at = Place(folder / name)
        at.home.mkdir(parents=True, mode=0o700)
        if fault is not None and fault.what == "fill disk" and not disks.why_not():
            disks.mount(at.disk)
        try:
            fate, loss = StockFlower(at, hospitals, python, fault).run(limit_s, undisturbed)
        except NotPossible as why:
            say(f"flower {name}: not possible here: {why}")
            continue
        if fault is None:
            if not fate.right:
                raise ServiceFailed(f"stock Flower fails without any fault: {fate.told}")
            undisturbed = loss
        fates[name] = fate
        say(f"flower {name}: {fate}")
        shutil.rmtree(at.silos, ignore_errors=True)
    return fates


def our_fates(faults: Sequence[Fault]) -> dict[str, Fate]:
    """Return what becomes of a run of Consilo under each fault."""
    job = job_of(ROUNDS, FEWEST).changed(quorum={"deadline": float(TIMEOUT_S)})
    with rehearsal_place(None) as at:
        file = at.folder / "job.yaml"
        file.write_text(to_yaml(job.to_json()))
        rehearsed = prepare(file, at, None, rounds=None)
        struck = [
            (f.model_copy(update={"silo": _STRUCK if f.part == "silo" else None}),) for f in faults
        ]
        fates = {}
        began = [time.monotonic()]

        def told(survival: Any) -> None:
            ended = survival.status in ("complete", "degraded")
            seconds, began[0] = time.monotonic() - began[0], time.monotonic()
            alone = ended and "--resume" not in survival.happened
            fates[survival.fault] = Fate(
                ended, survival.equal is True, alone, seconds, survival.happened
            )
            say(f"consilo {survival.fault}: {fates[survival.fault]}")

        def heard(text: str) -> None:
            if text.startswith("a run without"):
                began[0] = time.monotonic()

        rehearse(at, rehearsed, struck, heard, scale=SCALE, told=told)
    return fates


def chosen_faults(chosen: Namespace) -> list[Fault]:
    """Return the faults that are played."""
    there = [each for each in CATALOGUE if each.name not in NOT_THERE]
    if chosen.faults:
        known = {each.name: each for each in there}
        return [known[name] for name in chosen.faults.split(",")]
    names = sized(chosen, full=None, quick=("silo-dead-during", "flow-killed"), smoke=())
    return [each for each in there if names is None or each.name in names]


def table_of(faults: Sequence[Fault], fates: Mapping[str, Mapping[str, Fate]]) -> str:
    """Return a table for people, in Markdown."""
    peers = list(fates)
    head = ["fault", *(f"{peer}: model right" for peer in peers)]
    head += [f"{peer}: by itself, after" for peer in peers] + [
        f"{peer}: what happened" for peer in peers
    ]
    lines = [head, ["---"] * len(head)]
    for fault in faults:
        found = [fates[peer].get(fault.name) for peer in peers]
        right = ["" if f is None else "yes" if f.right else "no" for f in found]
        after = [_after(f) for f in found]
        told = ["" if f is None else f.told.replace("|", "/")[:90] for f in found]
        lines.append([fault.name, *right, *after, *told])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _after(fate: Fate | None) -> str:
    if fate is None:
        return ""
    return f"{fate.seconds:.0f} s" if fate.alone else f"no ({fate.seconds:.0f} s)"


def measure(folder: Path, chosen: Namespace, load: float) -> tuple[Report, str]:
    """Return the report and the table; everything that is started is stopped again."""
    faults = chosen_faults(chosen)
    fates: dict[str, dict[str, Fate]] = {}
    left_out: dict[str, str] = {}
    if chosen.size == "smoke":
        left_out |= dict.fromkeys(_PER_PEER, "stock Flower takes a minute a run")
    else:
        if not chosen.ours_only:
            fates["flower"] = flower_fates(folder, chosen.flower, faults, LIMIT_S)
        if not chosen.theirs_only:
            fates["consilo"] = our_fates(faults)
    figures: dict[str, float] = {"faults": float(len(faults))}
    figures["flower_version"] = float(_version(chosen.flower).split(".")[1])
    for peer, each in fates.items():
        for name, fate in each.items():
            figures |= fate.figures(f"{peer}.{name}")
        struck = [fate for name, fate in each.items() if name != "undisturbed"]
        figures |= {
            f"{peer}.ended": float(sum(each.ended for each in struck)),
            f"{peer}.right": float(sum(each.right for each in struck)),
            f"{peer}.alone": float(sum(each.alone for each in struck)),
        }
    report = Report("peers_faults", chosen.size, load, figures, {}, left_out)
    return report, table_of(faults, fates) if fates else ""


_PER_PEER = (
    *("PEER.FAULT.ended", "PEER.FAULT.right", "PEER.FAULT.alone", "PEER.FAULT.seconds"),
    *("PEER.ended", "PEER.right", "PEER.alone"),
)


def _version(python: Path) -> str:
    told = "import importlib.metadata as m; print(m.version('flwr'))"
    done = subprocess.run([str(python), "-c", told], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main() -> int:
    """Run from the command line."""
    parser = options(__doc__)
    parser.add_argument("--faults", help="names between commas, in place of all")
    parser.add_argument("--flower", type=Path, default=Path(sys.executable), help="its Python")
    parser.add_argument("--ours-only", action="store_true", help="leave stock Flower out")
    parser.add_argument("--theirs-only", action="store_true", help="leave Consilo out")
    chosen = parser.parse_args()
    load = load_now()
    try:
        with tempfile.TemporaryDirectory(prefix="consilo-peers-") as folder:
            report, table = measure(Path(folder), chosen, load)
    except ConsiloError as cause:
        print(cause, file=sys.stderr)
        return 1
    report.show(as_json=chosen.json, table=table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
