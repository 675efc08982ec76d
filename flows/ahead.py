"""Import what the end of a run needs while the silos train and this process waits for them."""

from __future__ import annotations

import contextlib
import importlib
import threading
import warnings

_AT_THE_END = (
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "mlflow.pyfunc",
    "torch.export",
    "torch._export.serde.serialize",
)


def import_ahead() -> threading.Thread:
    """Start importing in a thread; whoever needs a module that is not there says so then."""

    def work() -> None:
        for module in _AT_THE_END:
            with contextlib.suppress(ImportError):
                importlib.import_module(module)

    # MLflow says so of a class of its own when it is imported.
    warnings.filterwarnings("ignore", message=".*Any type hint is inferred as AnyType.*")
    thread = threading.Thread(target=work, name="import-ahead", daemon=True)
    thread.start()
    return thread
