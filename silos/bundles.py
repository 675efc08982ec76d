"""The bundles that a silo's operator has approved: ``bundles.yaml``, a list of SHA-256."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from consilo.config import read_yaml
from consilo.errors import ConfigInvalid
from consilo.files import write_atomic

_DIGEST = re.compile(r"[0-9a-f]{64}")


def approved_bundles(folder: Path) -> set[str]:
    """Return the hashes that the operator has approved; none where there is no file.

    Raises:
        ConfigInvalid: where ``bundles.yaml`` is not a list of SHA-256 in hexadecimal.
    """
    path = folder / "bundles.yaml"
    if not path.exists():
        return set()
    listed = read_yaml(path) or []
    if not isinstance(listed, list):
        raise ConfigInvalid(str(path), ["expected a list of SHA-256"])
    wrong = [entry for entry in listed if not _DIGEST.fullmatch(str(entry))]
    if wrong:
        raise ConfigInvalid(
            str(path), [f"{entry}: expected 64 hexadecimal digits in lower case" for entry in wrong]
        )
    return {str(entry) for entry in listed}


def approve(folder: Path, digest: str) -> bool:
    """Add a bundle to the approved ones; return whether it was new.

    Raises:
        ConfigInvalid: where ``digest`` is no SHA-256, or the file is not valid.
    """
    if not _DIGEST.fullmatch(digest):
        raise ConfigInvalid(digest, ["a bundle's hash has 64 hexadecimal digits in lower case"])
    known = approved_bundles(folder)
    if digest in known:
        return False
    listed = yaml.safe_dump(sorted({*known, digest}))
    write_atomic(folder / "bundles.yaml", listed.encode(), mode=0o600)
    return True


def declared_disclosures(bundle: Path) -> frozenset[str] | None:
    """Return the classes that an unpacked bundle declares; None for one without modules."""
    path = bundle / "BUNDLE.json"
    if not path.exists():
        return None
    return frozenset(json.loads(path.read_text())["disclosures"])
