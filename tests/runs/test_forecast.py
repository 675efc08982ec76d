from consilo.kernel.loop import Exchange
from consilo.runs.forecast import Traffic, forecast, link_rates, probe
from consilo.wire.parcel import Arrival, Fault, Parcel


def exchange(silo, moved, seconds, *, fault=None, silo_seconds=0.0):
    return Exchange(
        1, "fedavg", "train", silo, fault, moved // 2, moved // 2, seconds, silo_seconds
    )


def test_seconds_are_bytes_over_the_slowest_known_link():
    moved = Traffic(500_000_000, 100_000_000)
    found = forecast(moved, ["a", "b", "c"], {"a": 1e6, "b": 1e8})
    assert found.seconds == {"a": 600.0, "b": 6.0}
    assert found.seconds_per_round == 600.0
    assert found.unknown == ("c",)
    assert str(found) == (
        "600.0 MB a round and silo (500.0 MB down, 100.0 MB up); slowest link: a, 10 min a round; "
        "no measured rate: c"
    )
    assert forecast(Traffic(5, 5), ["a"], {}).seconds_per_round is None
    assert "does not say" in str(forecast(None, ["a"], {"a": 1e6}))


def test_rates_come_from_exchanges_that_moved_enough_without_the_silos_computing():
    rates = link_rates(
        [
            exchange("a", 10_000_000, 12.0, silo_seconds=2.0),
            exchange("a", 30_000_000, 10.0),
            exchange("a", 20_000_000, 10.0),
            exchange("a", 1_000, 0.1),
            exchange("b", 10_000_000, 1.0, fault=Fault("crashed", "")),
        ]
    )
    assert rates == {"a": 2e6}


class Links:
    """A transport of links with a rate each, and 0.2 s for anything at all."""

    def __init__(self, rates):
        self.rates = rates

    def exchange(self, parcels, *, deadline_s):
        for silo, parcel in parcels.items():
            if silo in self.rates:
                seconds = 0.2 + len(parcel.body) / self.rates[silo]
                yield Arrival(silo, Parcel(b"", b""), None, seconds)
            else:
                yield Arrival(silo, None, Fault("unreachable", ""), 0.0)


def test_a_probe_tells_rate_from_latency():
    found = probe(Links({"a": 1e6, "b": 5e6}), ["a", "b", "gone"])
    assert {silo: round(rate) for silo, rate in found.items()} == {"a": 1_000_000, "b": 5_000_000}
