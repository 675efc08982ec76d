"""``consilo predict``: a trained model's answers for the rows of a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consilo.errors import ConfigInvalid, SchemaDrift
from flows.commands.terminal import Directory, JsonFlag

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from consilo.contracts.contract import Contract


def predict(
    model: Annotated[
        str, typer.Argument(help="A saved model's folder, or with --dir: models:/NAME@ALIAS.")
    ],
    data: Annotated[Path, typer.Option(help="A CSV or Parquet file.")],
    out: Annotated[
        Path | None, typer.Option(help="Write them here, .csv or .parquet; else to stdout.")
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="How the file's columns become the contract's.")
    ] = None,
    invalid: Annotated[
        str, typer.Option(help="Rows outside of the contract: refuse all, or flag these.")
    ] = "refuse",
    directory: Directory = None,
    as_json: JsonFlag = False,
) -> None:
    """Answer each row of a file by a trained model; rows outside of its contract are refused.

    Example: consilo predict study/out/model --data new.csv --out predictions.csv
    """
    from consilo.contracts.contract import Contract
    from consilo.models.scoring import Model, OutsideContract

    if invalid not in ("refuse", "flag"):
        raise ConfigInvalid("--invalid", [f"expected refuse or flag, found '{invalid}'"])
    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise ConfigInvalid("--out", [f"expected a name that ends in .csv or .parquet: {out}"])
    folder = _folder(model, directory)
    with _whole(folder):
        contract = Contract.from_json((folder / "contract.json").read_bytes())
        scoring = Model(folder)
    frame, unreadable = _read(data, mapping, contract, list(scoring.spec["columns"]))
    kind: Any = invalid
    try:
        answers = scoring.predict(frame, invalid=kind, unreadable=unreadable)
    except OutsideContract as error:
        raise SchemaDrift(str(error).replace("invalid: flag", "--invalid flag")) from None
    except ValueError as error:
        raise SchemaDrift(str(error)) from None
    answers.index.name = "row"
    if out is not None and out.suffix == ".parquet":
        answers.reset_index().to_parquet(out, index=False)
    elif out is not None:
        answers.to_csv(out)
    flagged = int((answers.iloc[:, -1] != "").sum()) if invalid == "flag" else 0
    told = {"rows": len(answers), "invalid": flagged, "out": None if out is None else str(out)}
    if as_json:
        rows = answers.reset_index().to_json(orient="records") if out is None else "null"
        print(json.dumps({**told, "predictions": json.loads(rows)}))
        return
    if out is None:
        answers.to_csv(sys.stdout)
    print(f"{len(answers)} rows, {flagged} of them outside of {contract.ref}", file=sys.stderr)


@contextmanager
def _whole(folder: Path) -> Iterator[None]:
    """Say of a model's folder whose files lack something that it is damaged.

    What reads it needs nothing of Consilo, and raises whatever json, zipfile and torch do.
    """
    try:
        yield
    except Exception as cause:
        which = getattr(cause, "filename", None)
        told = f"{Path(which).name} is missing" if which else f"a file is cut or changed: {cause!r}"
        hint = "write it again with `result.save`, `job run --out`, or take it from the registry"
        raise ConfigInvalid(str(folder), [f"the model is damaged: {told[:200]}; {hint}"]) from cause


def _folder(model: str, directory: Path | None) -> Path:
    """Return where a model's files are."""
    if model.startswith("models:/"):
        from flows.registry.model_lookup import fetched
        from flows.services.federation import Addresses

        if directory is None:
            raise ConfigInvalid(model, ["say with --dir whose registry has it"])
        return fetched(model, Addresses.load(directory.resolve()).tracking_uri)
    folder = Path(model)
    places = (folder, folder / "model")  # what `job run --out` made holds it
    found = next((each for each in places if (each / "scoring.json").is_file()), None)
    if found is None:
        raise ConfigInvalid(
            model,
            ["no model here; give a folder that `job run --out` or `result.save` wrote, "
             "or models:/NAME@ALIAS with --dir"],
        )  # fmt: skip
    return found


def _read(
    data: Path, mapping: Path | None, contract: Contract, wanted: Sequence[str]
) -> tuple[pd.DataFrame, dict[str, np.ndarray[Any, Any]]]:
    """Return the contract's columns of a file, and what of them could not be read.

    A file is read by the rules that a silo reads its own by; separator and encoding of a CSV file
    are found out as `consilo silo data add` does.
    """
    from consilo.contracts.rules import TableRules
    from silos.proposals.onboard import file_source
    from silos.rows.mapping import Mapping

    source = file_source(data)
    how = Mapping(contract=contract.ref) if mapping is None else Mapping.load(mapping, contract)
    columns = {name: contract.columns[name] for name in wanted}
    part = contract.model_copy(update={"columns": columns, "rules": TableRules()})
    local = how.local_columns(part)
    there = source.columns()
    absent = [
        f"column {name}: {data.name} has no '{each}'"
        for name, several in local.items()
        for each in several
        if each not in there and columns[name].nullable_share < 1.0
    ]
    if absent:
        hint = "a mapping says which column is which: --mapping FILE"
        raise ConfigInvalid(str(data), absent if mapping else [*absent, hint])
    names = sorted({each for several in local.values() for each in several if each in there})
    raw = source.read(names, text=sorted({n for n in how.text_columns(part) if n in names}))
    table = how.apply(raw, part)
    rows = dict(raw.items())
    lost = {name: how.lost(rows, table, columns[name]) for name in table.columns}
    return table, {name: which for name, which in lost.items() if which.any()}
