"""The registered entry of a vertical model, as MLflow loads it: it says where the parts lie.

MLflow copies this file into the model ("models from code"); it needs nothing of Consilo.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class PartsElsewhere(PythonModel):  # type: ignore[misc]  # mlflow is not followed
    """References to a model's parts; ``predict`` says how rows are scored."""

    def load_context(self, context: Any) -> None:
        """Read the references."""
        folder = Path(context.artifacts["model"])
        self.about: dict[str, Any] = json.loads((folder / "parts.json").read_text())

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Raise: no process holds all parts."""
        silos = ", ".join(self.about["parts"])
        raise MlflowException(
            f"the parts of this model lie in the silos {silos} and never leave them. Score rows of "
            "a match by a job of kind 'scoring' with protocol.args.model: "
            f"{self.about['model']}",
            error_code=3,
        )


set_model(PartsElsewhere())
