"""The registered model, as MLflow loads it: canonical columns in, predictions out.

MLflow copies this file into the model and runs it there ("models from code"). It needs nothing of
Consilo: what answers is ``scoring.py``, which lies in the model's own folder.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class ScoringModel(PythonModel):  # type: ignore[misc]  # mlflow is not followed
    """A trained model with the encoding of its inputs; ``scoring.py`` says what it answers."""

    def load_context(self, context: Any) -> None:
        """Read the model's folder."""
        folder = Path(context.artifacts["model"])
        spec = importlib.util.spec_from_file_location("consilo_scoring", folder / "scoring.py")
        if spec is None or spec.loader is None:
            raise ImportError("the model's scoring.py cannot be read")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        self.model = module.Model(folder)

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return one row of predictions per row of canonical columns.

        The parameter ``invalid`` says what becomes of rows outside of the contract: ``refuse``
        them all (so unless said), or ``flag`` these and answer the others.
        """
        answers: pd.DataFrame = self.model.predict(
            model_input, invalid=(params or {}).get("invalid", "refuse")
        )
        return answers


set_model(ScoringModel())
