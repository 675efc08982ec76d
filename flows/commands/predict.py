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
    data: Annotated[
        Path,
        typer.Option(help="A CSV or Parquet file, a folder of such, or a source's YAML file."),
    ],
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
    frame, unreadable = rows_of(data, mapping, contract, list(scoring.spec["columns"]))
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
        from consilo.machine.environment import quieten

        quieten()  # before MLflow is imported
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


def rows_of(
    data: Path, mapping: Path | None, contract: Contract, wanted: Sequence[str]
) -> tuple[pd.DataFrame, dict[str, np.ndarray[Any, Any]]]:
    """Return the contract's columns of a file, and what of them could not be read.

    They are read as a silo reads its own; see `silos.rows.sources.found_out.source_at`.
    """
    import tempfile

    import numpy as np

    from consilo.contracts.rules import TableRules
    from silos.rows.arrow import to_pandas
    from silos.rows.mapping import Mapping
    from silos.rows.sources.found_out import source_at
    from silos.rows.standardise import standardise

    source = source_at(data)
    how = Mapping(contract=contract.ref) if mapping is None else Mapping.given(mapping, contract)
    columns = {name: contract.columns[name] for name in wanted}
    part = contract.model_copy(update={"columns": columns, "rules": TableRules()})
    there = source.columns()
    absent = [
        f"column {name}: {data.name} has no '{each}'"
        for name, several in how.local_columns(part).items()
        for each in several
        if each not in there and columns[name].nullable_share < 1.0
    ]
    if absent:
        hint = "a mapping says which column is which: --mapping FILE"
        raise ConfigInvalid(str(data), absent if mapping else [*absent, hint])
    with tempfile.TemporaryDirectory(prefix="consilo-predict-") as spool:
        made, unreadable = standardise(source, how, part, Path(spool), rows_shown=None)
        table = to_pandas(made)
    lost = {name: np.zeros(len(table), bool) for name in unreadable}
    for name, each in unreadable.items():
        lost[name][each["rows"]] = True
    return table, lost
