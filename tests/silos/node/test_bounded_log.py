"""A stream of bad requests does not fill a silo's node.log."""

from __future__ import annotations

import clinic
import warm_silo

from consilo.transports.flower.bundle import build_bundle


def test_requests_that_are_refused_alike_are_one_line(tmp_path, capfd):
    """Each is answered in a process of its own."""
    silo = warm_silo.make(tmp_path / "north")
    bundle = warm_silo.approved(silo, build_bundle({}))
    with warm_silo.warm(silo) as process:
        process.start()
        for number in range(4):
            header, _ = warm_silo.ask(process, bundle, clinic.job(), verb="none", round=number)
            assert header.code
    assert capfd.readouterr().err.count("answered with the fault") == 1
