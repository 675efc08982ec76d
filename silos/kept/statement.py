"""What the privacy ledger says, for people: accounts over time, and the signed file for an auditor.

The file is the ledger's own chain, one canonical JSON line an entry, closed by a line that states
how each account stands and is signed with the silo's key. Whoever has the file can follow every
link and compute every ε again. Entries hold names, hashes, counts and noise, never a value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.config import parse
from consilo.errors import InvalidInput, RecordTampered
from consilo.jobs.job import Unit
from consilo.machine.files import write_atomic
from consilo.privacy import composition
from consilo.privacy.account import Limit
from consilo.privacy.accounting import HistoryRow, adjacency
from consilo.privacy.unit import seen, unit_of
from consilo.record.chain import check_links, now_utc, read
from consilo.wire.payload import canonical_json
from consilo.wire.signing import is_signed, public_hex, sign
from silos.kept.budget import Budget, budget_of, units_of
from silos.kept.links import grouped

_PURPOSE = "privacy ledger"
_ROUNDING = 1e-6

Entry = Mapping[str, Any]
Ties = Mapping[str, Sequence[Mapping[str, Any]]]
"""``links``, lines of a chain, and ``elsewhere``, uses: see `silos.kept.links`."""
NO_TIES: Ties = {"links": (), "elsewhere": ()}


def uses(
    entries: Sequence[Entry], account: str, ties: Ties = NO_TIES, *, since: str = ""
) -> list[tuple[Unit, HistoryRow]]:
    """Return what an account and those linked with it have reserved after a time.

    Returns:
        What is hidden, and (noise multiplier, rate, steps), each use once.
    """
    group = grouped(ties["links"], account)
    own = [each["body"] for each in entries if each["kind"] == "reserved"]
    times = [each["time"] for each in entries if each["kind"] == "reserved"]
    known = {_use(each) for each in own}
    bodies = [*own, *(each for each in ties["elsewhere"] if _use(each) not in known)]
    times += [each["time"] for each in bodies[len(own) :]]
    return [
        (
            unit_of(str(body["mark"])),
            (float(body["sigma"]), float(body["sample_rate"]), int(body["steps"])),
        )
        for body, time in zip(bodies, times, strict=True)
        if time > since and body["account"] in group
    ]


def accounts(entries: Sequence[Entry]) -> list[str]:
    """Return the names of the data sets in the ledger, sorted."""
    return sorted({each["body"]["account"] for each in entries})


def standing(
    entries: Sequence[Entry],
    account: str,
    budget: Budget | None,
    *,
    at: str,
    ties: Ties = NO_TIES,
) -> dict[str, Any]:
    """Return how an account stands at a time, as plain JSON values.

    Args:
        entries: the whole ledger.
        account: the data set.
        budget: its budget; None has no limit to hold against.
        at: ISO 8601 in UTC.
        ties: which accounts hold the same rows, and what was spent elsewhere for them.
    """
    mine = [each for each in entries if each["body"]["account"] == account]
    found: dict[str, Any] = {
        "reserved": sum(each["kind"] == "reserved" for each in mine),
        "settled": sum(each["kind"] == "settled" for each in mine),
        "runs": len({each["body"]["run_id"] for each in mine}),
        "budget": None if budget is None else budget.to_json(),
        "limits": [],
        "linked": sorted(grouped(ties["links"], account)[1:]),
    }
    counts = Counter(unit for unit, _ in uses(entries, account, ties))
    if counts["subject"]:  # what an ε of subjects says nothing of
        found["about_rows"] = counts["record"]
    for limit, unit in _lines(entries, account, budget, at, ties):
        assert budget is not None
        those, is_tight = seen(uses(entries, account, ties, since=begin(limit, at)), unit)
        rows = composition.merged(those)
        renyi = bound(rows, budget.delta)
        spent = min(renyi, composition.by_prv(rows, budget.delta)) if is_tight else renyi
        found["limits"].append(
            {
                "unit": unit,
                "limit": str(limit),
                "days": limit.days,
                "budget": limit.epsilon,
                "delta": budget.delta,
                "spent": spent,
                "bound": renyi,
                "left": max(0.0, limit.epsilon - spent),
            }
        )
    return found


def _lines(
    entries: Sequence[Entry], account: str, budget: Budget | None, at: str, ties: Ties
) -> Iterator[tuple[Limit, Unit]]:
    """Yield each limit with each unit whose ε is told: what is bounded, and subjects' if any."""
    subjects = any(unit == "subject" for unit, _ in uses(entries, account, ties))
    for limit in () if budget is None else budget.limits:
        assert budget is not None
        units = units_of(uses(entries, account, ties, since=begin(limit, at)), budget)
        if subjects and "subject" not in units:
            units = (*units, "subject")
        for unit in units:
            yield limit, unit


def begin(limit: Limit, at: str) -> str:
    """Return the time after which what was reserved counts at a limit."""
    if limit.days is None:
        return ""
    first = datetime.fromisoformat(at) - timedelta(days=limit.days)
    return first.isoformat(timespec="seconds")


def bound(rows: Sequence[HistoryRow], delta: float) -> float:
    """Return the ε of a history by Rényi moments."""
    if not rows:
        return 0.0
    first, *others = (
        steps * composition.moments(sigma=sigma, sample_rate=rate) for sigma, rate, steps in rows
    )
    return composition.by_renyi(sum(others, start=first), delta)


def burn_down(
    entries: Sequence[Entry],
    account: str,
    limit: Limit,
    delta: float,
    ties: Ties = NO_TIES,
    *,
    unit: Unit = "record",
) -> list[dict[str, Any]]:
    """Return, run by run, what was left of a limit after it, by Rényi moments, for a unit.

    What linked accounts had spent by then counts.

    Returns:
        Run, time of its last use, uses, steps, most rows, spent, left; in the order of the runs'
        last uses.
    """
    runs: dict[str, list[Entry]] = {}
    for each in entries:
        if each["kind"] == "reserved" and each["body"]["account"] == account:
            runs.setdefault(each["body"]["run_id"], []).append(each)
    points = []
    for run, mine in sorted(runs.items(), key=lambda item: item[1][-1]["seq"]):
        last = mine[-1]
        upto = [each for each in entries if each["seq"] <= last["seq"]]
        by_then = {
            "links": ties["links"],
            "elsewhere": [each for each in ties["elsewhere"] if each["time"] <= last["time"]],
        }
        those, _ = seen(uses(upto, account, by_then, since=begin(limit, last["time"])), unit)
        spent = bound(composition.merged(those), delta)
        points.append(
            {
                "run": run,
                "time": last["time"],
                "mechanisms": sorted({each["body"]["mechanism"] for each in mine}),
                "uses": len(mine),
                "steps": sum(each["body"]["steps"] for each in mine),
                "rows": max(each["body"]["num_rows"] for each in mine),
                "spent": spent,
                "left": max(0.0, limit.epsilon - spent),
            }
        )
    return points


def export(
    path: Path,
    entries: Sequence[Entry],
    *,
    silo: str,
    budgets: Mapping[str, Budget],
    key: Ed25519PrivateKey,
    ties: Ties = NO_TIES,
    now: str | None = None,
) -> dict[str, Any]:
    """Write the signed file of a ledger; return the statement in it.

    Args:
        path: written whole or not at all, mode 0600.
        entries: of `silos.kept.ledger.Ledger.entries`.
        silo: its name.
        budgets: of the policy.
        key: the silo's signing key.
        ties: of `silos.kept.ledger.Ledger.ties`.
        now: ISO 8601 in UTC.
    """
    at = now or now_utc()
    said = {
        "silo": silo,
        "exported": at,
        "entries": len(entries),
        "head": check_links(entries, "ledger.db"),
        "accounts": {
            name: standing(entries, name, budget_of(dict(budgets), name), at=at, ties=ties)
            for name in accounts(entries)
        },
        "ties": {name: [dict(each) for each in ties[name]] for name in sorted(ties)},
        "adjacency": {each: adjacency(each) for each in mechanisms(entries)},
        "signing_key": public_hex(key),
    }
    closing = {"statement": said, "signature": sign(key, _PURPOSE, said)}
    lines = [canonical_json(each) + b"\n" for each in (*entries, closing)]
    write_atomic(path, b"".join(lines), mode=0o600)
    return said


def mechanisms(entries: Sequence[Entry]) -> list[str]:
    """Return what ever added noise, sorted."""
    bodies = (each["body"] for each in entries)
    return sorted({str(body["mechanism"]) for body in bodies if "mechanism" in body})


def verify(path: Path, key: str | None = None) -> dict[str, Any]:
    """Return the statement of an exported ledger in which everything holds.

    Args:
        path: of the file.
        key: the silo's public signing key in hexadecimal; None takes the one in the file, which
            then says only that the file is whole, not whose it is.

    Raises:
        RecordTampered: naming what does not hold: a link, the signature, an ε.
    """
    *entries, closing = read(path) or [{}]
    said = closing.get("statement")
    if not isinstance(said, dict):
        raise RecordTampered(f"{path.name}: the signed statement at the end is missing")
    signer = str(said.get("signing_key"))
    if key is not None and key.lower() != signer:
        raise RecordTampered(
            f"{path.name}: signed with the key {signer[:16]}…, expected {key[:16].lower()}…"
        )
    if not is_signed(signer, _PURPOSE, said, str(closing.get("signature"))):
        raise RecordTampered(f"{path.name}: the signature is not that of the silo's key")
    if check_links(entries, path.name) != said["head"] or len(entries) != said["entries"]:
        raise RecordTampered(f"{path.name}: entries at the end are missing, or too many")
    _check_uses(entries, path.name)
    check_links(said.get("ties", NO_TIES)["links"], f"{path.name}, links")
    _check_accounts(entries, said, path.name)
    return said


def _use(body: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(body[each] for each in ("step_id", "mark", "sigma", "sample_rate", "steps"))


def _check_uses(entries: Sequence[Entry], name: str) -> None:
    """Check that no use was reserved twice, nor settled before, and that time does not go back."""
    latest, reserved = "", set()
    for number, entry in enumerate(entries, start=1):
        body = entry["body"]
        use = _use(body)
        if entry["kind"] == "reserved" and use in reserved:
            raise RecordTampered(f"{name}, line {number}: this use was reserved before")
        if entry["kind"] == "settled" and use not in reserved:
            raise RecordTampered(f"{name}, line {number}: settled, but never reserved")
        if entry["time"] < latest:
            raise RecordTampered(f"{name}, line {number}: before the line above it")
        latest = entry["time"]
        reserved.add(use)


def _check_accounts(entries: Sequence[Entry], said: Mapping[str, Any], name: str) -> None:
    """Compute every figure of the statement again."""
    stated = said["accounts"]
    if sorted(stated) != accounts(entries):
        raise RecordTampered(f"{name}: the statement is about other data sets than the entries")
    for account, claim in stated.items():
        try:
            budget = claim["budget"] and parse(Budget, claim["budget"], where=name)
        except InvalidInput as cause:
            raise RecordTampered(f"{name}: the budget of '{account}' is none") from cause
        ties = said.get("ties", NO_TIES)
        found = standing(entries, account, budget or None, at=said["exported"], ties=ties)
        if "ties" not in said:  # a release that knew of none
            del found["linked"]
        for mine, theirs in zip(found.pop("limits"), claim.get("limits", ()), strict=True):
            for figure in ("spent", "bound", "left"):
                if abs(mine[figure] - theirs[figure]) > _ROUNDING * max(1.0, mine[figure]):
                    raise RecordTampered(
                        f"{name}: '{account}' {mine['limit']}: '{figure}' is {mine[figure]:.6g} "
                        f"by the entries, the statement says {theirs[figure]:.6g}"
                    )
        if any(found[each] != claim.get(each) for each in found):
            raise RecordTampered(f"{name}: the counts of '{account}' are not those of the entries")
