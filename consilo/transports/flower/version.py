"""Which Flower this transport was written against and measured on."""

from __future__ import annotations

from importlib import metadata

from consilo.errors import VersionUnsupported

SUPPORTED = "1.41"


def require_flower() -> None:
    """Check that the installed Flower is one whose internals we know.

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
