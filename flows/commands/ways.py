"""The ways to run a job: in this process, cut from a table, on a federation made for it, or on one.

Each is a block that hands out `Once`: what runs a job once, as often as it is called.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from consilo.errors import ConfigInvalid
from flows.commands.terminal import teller

Once: TypeAlias = Callable[[Any, Mapping[str, Any], str], dict[str, Any]]
"""Runs a job and returns its summary. It is given the job, what else the flow is asked for, and a
name for what this run leaves below ``--dir`` and ``--out``; empty where it is the only one."""


@contextmanager
def in_process(
    job: Path, silos: Path | None, directory: Path | None, out: Path | None
) -> Iterator[Once]:
    """Run over directories of silos, in this process."""
    from consilo.machine.environment import quieten
    from flows.services.federation import find_silos
    from silos import simulate

    if silos is None:
        raise ConfigInvalid("job run --local", ["give the silos with --silos"])
    folders = find_silos(silos)
    quieten()

    def once(loaded: Any, asked: Mapping[str, Any], name: str) -> dict[str, Any]:
        home = _below(directory, name)
        modules = (job.parent,)
        result = simulate(loaded, folders, directory=home, search_path=modules, say=teller())
        return _kept(result, _below(out, name))

    yield once


@contextmanager
def cut_from(
    job: Path,
    data: Path | None,
    cut: tuple[int, str],
    *,
    mapping: Path | None,
    directory: Path | None,
    out: Path | None,
    workers: int | None,
    engine: Any,
) -> Iterator[Once]:
    """Run over one table, cut into as many silos as ``cut`` says, by its rule."""
    from consilo.horizontal.partition import Partition
    from consilo.machine.environment import quieten
    from silos.simulation.simulation import simulate_cut

    if data is None:
        raise ConfigInvalid("job run --simulate", ["give the rows with --data"])
    quieten()

    def once(loaded: Any, asked: Mapping[str, Any], name: str) -> dict[str, Any]:
        say = teller()
        result = simulate_cut(
            loaded,
            data,
            Partition.parse(cut[1], silos=cut[0], seed=loaded.seed),
            directory=_below(directory, name),
            search_path=(job.parent,),
            engine=engine,
            workers=workers,
            mapping=mapping,
            say=say,
        )
        about = result.extra["simulation"]
        say(f"{about['silo_rounds']} silo-rounds, {about['silo_rounds_per_s']:g} a second")
        return _kept(result, _below(out, name))

    yield once


@contextmanager
def alone(
    loaded: Any, job: Path, silos: Path, directory: Path | None, parameters: Mapping[str, Any]
) -> Iterator[Once]:
    """Start a federation of these silos, run on it, and stop it."""
    from consilo.machine.environment import quieten
    from consilo.machine.processes import Supervisor
    from consilo.membership.keys import load_or_create_signing_key
    from consilo.transports.flower.bundle import bundle_hash
    from flows.services.federation import (
        carried_bundle,
        find_silos,
        job_bundle,
        rise,
    )
    from flows.services.launch import launch
    from flows.services.place import taken_down, workplace
    from flows.services.watch import Watch
    from silos.gate.bundles import approve

    quieten()
    say = teller()
    folders = find_silos(silos)
    with workplace(directory, "consilo-") as home:
        if "bundle" in parameters:
            content = carried_bundle(Path(parameters["bundle"]), loaded, (job.parent,))
        else:
            signer = load_or_create_signing_key(home / "keys" / "record.key")
            content = job_bundle(loaded, (job.parent,), signer)
        digest = bundle_hash(content)
        for place in folders.values():
            approve(place, digest)  # all these silos are ours: we gave them by their directories
        say(f"coordinator in {home}; bundle {digest[:12]} approved in {len(folders)} silos")
        with taken_down(home), Supervisor() as supervisor:
            rising = rise(supervisor, home, folders, say=say)
            is_up = False

            def once(asked_job: Any, asked: Mapping[str, Any], name: str) -> dict[str, Any]:
                nonlocal is_up
                # The first one's process starts while the federation still comes up.
                running = launch(supervisor, home, asked_job, {**parameters, **asked})
                if not is_up:
                    rising.wait()
                    is_up = True
                summary = running.wait(say, Watch(home, supervisor, say).look)
                return {**summary, "notes": [*(summary.get("notes") or ()), _stopped(home)]}

            yield once


@contextmanager
def connected(directory: Path, parameters: Mapping[str, Any]) -> Iterator[Once]:
    """Run on the federation that is up in ``directory``."""
    from consilo.machine.processes import Supervisor
    from flows.services.launch import launch
    from flows.services.turns import turn
    from flows.services.watch import Absence

    home, say = directory.resolve(), teller()
    absence = Absence(home, say)
    with Supervisor() as supervisor:

        def once(loaded: Any, asked: Mapping[str, Any], name: str) -> dict[str, Any]:
            with turn(home, say, look=absence.look):
                running = launch(supervisor, home, loaded, {**parameters, **asked})
                return running.wait(say, absence.look)

        yield once


def _stopped(home: Path) -> str:
    """Return how what a run left can be looked at, whose services stop with it."""
    return (
        f"Prefect and MLflow stop now; 'consilo up --dir {shlex.quote(str(home))}' starts them "
        "again, at these addresses"
    )


def _below(folder: Path | None, name: str) -> Path | None:
    return folder if folder is None or not name else folder / name


def _kept(result: Any, out: Path | None) -> dict[str, Any]:
    """Return the summary of a run without services, with what it left and what it did not."""
    from consilo.machine.environment import quieten

    quieten()
    written = {} if out is None else result.save(out)
    summary: dict[str, Any] = result.to_json()
    summary["record"] = written.get("record", summary["record"])
    summary["kept"] = written
    if "model" in written:
        summary["model"] = {"path": written["model"]}
    ask = "; --out DIR keeps it" if out is None else ""
    absent = {
        "model": f"a model, which is not kept{ask}" if result.build else "no model",
        "record": f"a record, which went with a temporary directory{ask}",
    }
    told = [text for name, text in absent.items() if not summary[name]]
    told.append("nothing in MLflow or Prefect, and no baselines: no services ran")
    return {**summary, "notes": [*summary["notes"], f"this run left {'; '.join(told)}"]}
