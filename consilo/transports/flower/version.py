"""Which Flower this transport was written against and measured on."""

from __future__ import annotations

import importlib
import warnings
from importlib import metadata

from consilo.errors import VersionUnsupported

SUPPORTED = "1.41"


def require_flower() -> None:
    """Check that the installed Flower is one whose internals we know, and import its base.

    Its base imports typer, whose click is ahead of it and warns; the warning is nobody's here.

    Raises:
        VersionUnsupported: with what to install.
    """
    try:
        found = metadata.version("flwr")
    except metadata.PackageNotFoundError:
        raise VersionUnsupported(
            f"the flower transport needs flwr {SUPPORTED}; install it: pip install 'consilo[silo]'"
        ) from None
    if not found.startswith(f"{SUPPORTED}."):
        raise VersionUnsupported(
            f"the flower transport was written for flwr {SUPPORTED}, found {found}; "
            f"install it: pip install 'flwr=={SUPPORTED}.*'"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        importlib.import_module("flwr.supercore.logger")
