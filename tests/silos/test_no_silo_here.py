"""A command about a silo in a directory that is not there says so; it was an empty list, exit 0."""

import pytest

from consilo.errors import ConfigInvalid
from silos.commands.data import list_
from silos.commands.features import describe
from silos.commands.models import models
from silos.commands.oversight import bundles


@pytest.mark.parametrize(
    "command",
    [list_, models, bundles, lambda directory: describe("rows", directory=directory)],
    ids=["list", "models", "bundles", "describe"],
)
def test_a_directory_that_is_not_there(command, tmp_path):
    with pytest.raises(ConfigInvalid, match="no silo here: give its directory with --dir"):
        command(directory=tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
