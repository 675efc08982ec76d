"""A run of three signing silos whose model is registered by name, and the folder of its card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from three_silos import KEY, run_of, silos_in

from consilo.cards.model_files import digests_in, whole
from consilo.cards.pack import CONTRACT, RECORD, texts_of, write_pack
from consilo.cards.subject import Subject
from consilo.cards.told import Told
from consilo.record.run_record import read


def registered_run(place: Path, **changes: Any) -> tuple[Path, Path]:
    """Do a whole run and return its record and its model's folder."""
    silos = silos_in(place / "silos")
    run = run_of(place / "runs" / "clinic-1", silos, **changes)
    run.check_all()
    run.admit()
    run.standardize()
    run.train_all()
    run.evaluate()
    model = place / "model"
    model.mkdir()
    (model / "contract.json").write_text(run.contract.to_json())
    (model / "job.json").write_text(json.dumps(run.job.to_json(), indent=2))
    (model / "model.pt2").write_bytes(bytes(range(256)) * 16)  # what it is, a card does not ask
    (model / "scoring.py").write_text("class Model: ...\n")
    told = {"name": "clinic", "version": "3", "files": whole(digests_in(model))}
    result = run.close(model=told)
    assert result.status == "complete", result.reason
    return Path(result.record), model


def subject_of(record: Path, model: Path, **changes: Any) -> Subject:
    contract = json.loads((model / Path(CONTRACT).name).read_bytes())
    parts = {"contract": contract, "files": digests_in(model), **changes}
    return Subject("clinic", "3", Told(read(record)), **parts)


def card_folder(record: Path, model: Path, folder: Path, **changes: Any) -> Path:
    """Write the card's folder and return it."""
    subject = subject_of(record, model, **changes)
    write_pack(folder, texts_of(subject, KEY, {RECORD: record.read_bytes()}), model)
    return folder
