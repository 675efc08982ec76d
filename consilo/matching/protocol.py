"""Entity matching: which rows of several silos are the same people, by private set intersection.

Diffie-Hellman PSI (Meadows 1986; Huberman, Franklin and Hogg 1999) between a hub, the silo with the
labels, and each other silo, a spoke. Both blind the values of their keys with a secret, exchange
them, and blind the other's again: equal values, equal tags. Differences from the papers: both sides
commit to tags before either sends them (`consilo.matching.side`); tags come back sorted, so that at
first both sides learn only how many are common and can still stop; then the spoke tells the hub
which of the hub's values matched, and the hub, once it knows who matches in all silos, tells each
spoke which of its rows those are. Several keys are matched at once and made one to one by the hub
(`consilo.matching.resolve`).

Everything between silos travels sealed (`consilo.kernel.letters`). docs/vertical.md says who learns
what.

Messages, each an `Ask` of all members, whose envelopes the next one brings to their receivers:

    hello      public relay keys, signed
    agree      recipe, sizes, salt, and a commitment to a share of the order's key
    exchange   shard by shard: own values blinded, a commitment to the partner's blinded again,
               then these
    join       the hub: who matches in all silos; to each spoke its part
    reveal     the shares of the order's key, now that the hub's list is fixed
    finish     the match is kept in each silo; keys are erased
    report     how many, for the coordinator, where a silo's policy lets statistics leave
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
from collections.abc import Generator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import numpy as np

from consilo.errors import IncompatibleJob, Refused, ReplyInvalid
from consilo.jobs.job import Job, MatchSpec
from consilo.jobs.match import Match, MatchQuestion
from consilo.jobs.quorum import Quorum
from consilo.kernel.federation import Federation
from consilo.kernel.letters import Mailbox
from consilo.kernel.protocol import Protocol
from consilo.kernel.steps import Answers, Ask, Publish, Step
from consilo.kernel.verbs import Disclosure, FromRows, count, envelopes, numbers, verb
from consilo.kernel.view import Message, SiloView
from consilo.matching import group
from consilo.matching.entities import people, shuffle, sketch
from consilo.matching.key_shapes import key_shapes, lost_parts
from consilo.matching.roles import MATCHES, match_of
from consilo.matching.side import MAX_VALUES, Side, integers, last_step, turns_name, values_name
from consilo.wire.payload import canonical_json, digest, pack, unpack

log = logging.getLogger(__name__)

SHARD = 1 << 16
"""Values in one message, about: it bounds what a silo holds besides its keys' digests."""
TURNS = 2
"""By which way the exchange goes; the first one sent tags that nobody had committed to."""
_EXCHANGE_S = 1800.0
_STATE = "psi"
_LISTS = ("values", "ambiguous")
_TEXTS = ("recipe", "commitment", "hub")

Letters = Mapping[str, Any]


class Psi(Protocol[None]):
    """Matches the rows of all silos of the run.

    Args:
        spec: recipe, handle and hub.
        handle: the match's name.
        shard: values in one message, about.
    """

    runs_job_code = False
    rows = "all"

    def __init__(self, spec: MatchSpec, handle: str, *, shard: int = SHARD) -> None:
        self.spec = spec
        self.handle = handle
        self.shard = shard

    @classmethod
    def from_job(cls, job: Job) -> Self:
        """Return the protocol with the job's ``match`` section."""
        spec = job.match_spec
        return cls(spec, spec.handle or job.name)

    @classmethod
    def serves(cls, job: Job) -> bool:
        """Return whether the job is over matched rows."""
        return job.matching is not None

    def coordinate(self, fed: Federation, state: None) -> Generator[Step, Any, dict[str, Any]]:
        """Carry the envelopes; return what the silos let the coordinator know."""
        members = fed.cohort()
        missing = {name: fed.why_away(name) for name in fed.silos if name not in members}
        fed.job.cohort_quorum.require(
            members, missing={**missing, **fed.left}, num_examples={}, where="the match"
        )
        hub = self.hub(members)
        quorum = Quorum(len(members))

        def asked(verb_: str, answers: Answers | None) -> Ask:
            own = {} if answers is None else _inboxes(members, answers)
            return Ask(members, verb_, {}, own, quorum, _EXCHANGE_S)

        answers = yield asked("hello", None)
        answers = yield asked("agree", answers)
        more = 1
        while more:
            answers = yield asked("exchange", answers)
            said = {reply.fields["more"] for reply in answers.replies.values()}
            if len(said) != 1:
                raise ReplyInvalid("the silos do not agree on how many shards there are")
            (more,) = said
        answers = yield asked("join", answers)
        answers = yield asked("reveal", answers)
        yield asked("finish", answers)
        reports: Answers = yield Ask(members, "report", {}, deadline_s=60.0)
        known = {name: dict(each.fields["sizes"]) for name, each in reports.replies.items()}
        result = {
            "handle": self.handle,
            "hub": hub,
            "recipe": self.spec.recipe.hash,
            "silos": known,
        }
        yield Publish("match", result)
        return result

    def hub(self, members: Sequence[str]) -> str:
        """Return the silo that all others are matched with."""
        if len(members) < 2:
            raise IncompatibleJob("a match needs two silos at least")
        hub = self.spec.hub or members[0]
        if hub not in members:
            raise IncompatibleJob(
                f"match.hub: '{hub}' does not take part; here are {', '.join(members)}"
            )
        return hub

    @verb("hello", replies={"envelopes": envelopes()})
    def hello(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Introduce this silo to the others."""
        self.hub(message.cohort)
        return {"envelopes": Mailbox(silo).introduce(message.cohort)}

    @verb("agree", replies={"envelopes": envelopes(Disclosure.MATCH, rows=FromRows.MATCH)})
    def agree(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Make the keys of this silo's rows, ask its policy, and say how many there are."""
        mailbox = Mailbox(silo)
        mailbox.meet(message.payload["envelopes"], message.cohort)
        recipe = self.spec.recipe
        frame = silo.rows.frame(silo.contract, purpose=silo.job.purpose)
        recipe.require_columns(list(frame.columns), where="match.recipe")
        for line in lost_parts(frame, recipe):
            log.warning("%s", line)
        found = people(frame, recipe, shard_key=_scope(silo, recipe.hash))
        others = tuple(name for name in message.cohort if name != silo.name)
        hub = self.hub(message.cohort)
        partners = others if silo.name == hub else (hub,)
        drawn, whole = sketch(found.keys[0], silo.secrets.secret("matching"))
        silo.role(MATCHES).begin_match(
            MatchQuestion(
                run_id=silo.header.run_id,
                handle=self.handle,
                partners=others,
                recipe_hash=recipe.hash,
                contract=silo.contract.ref,
                dataset=silo.rows.dataset(silo.contract),
                purpose=silo.job.purpose,
                num_entities=found.num_entities,
                sketch=drawn,
                set_digest=whole,
            )
        )
        for number, values in enumerate(found.keys):
            silo.keep(values_name(number), values.to_bytes())
        share = silo.kept("psi-share") or secrets.token_bytes(32)
        silo.keep("psi-share", share)
        mine = {
            "recipe": recipe.hash,
            "rows": found.num_rows,
            "entities": found.num_entities,
            "values": [len(each) for each in found.keys],
            "ambiguous": list(found.ambiguous),
            "commitment": hashlib.sha256(b"order" + share).hexdigest(),
            "members": [*message.cohort],
            "hub": hub,
            "turns": TURNS,
        }
        state = {
            "members": [*message.cohort],
            "partners": [*partners],
            "mine": mine,
            "theirs": {},
            "scalars": {name: group.new_scalar().hex() for name in partners},
            "steps": {},
            "matched": {},
            "by_key": {},
            "left_out": {"ambiguous": found.num_ambiguous, "without_key": found.num_without},
        }
        _save(silo, state)
        letters = {name: mailbox.seal(name, "agree", pack(mine)) for name in others}
        return {"envelopes": letters}

    @verb(
        "exchange",
        replies={
            "envelopes": envelopes(Disclosure.MATCH, rows=FromRows.MATCH),
            # How many messages are to come, which the sizes of the envelopes tell as well.
            "more": count(Disclosure.SEALED, rows=FromRows.NONE),
        },
    )
    def exchange(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Blind own values of one shard and the partners' of the shard before."""
        mailbox, state = Mailbox(silo), _state(silo)
        letters: Letters = message.payload["envelopes"]
        step = state["steps"].setdefault(silo.header.scope, len(state["steps"]))
        if step == 0:
            self._take_agreements(silo, mailbox, state, letters)
        last = last_step(_shards(state, self.shard))
        sent = {}
        for partner in state["partners"]:
            content: dict[str, Any] = {}
            if step > 0:
                content = _opened(mailbox, partner, f"exchange {step - 1}", letters)
            side = Side(silo, state, partner, _shards(state, self.shard))
            out = side.turn(step, content)
            if step == last:
                state["matched"][partner] = side.num_matched
                if not any(side.num_matched):
                    self._show_shapes(silo, partner)
                self._judge(silo, state, partner, max(side.num_matched))
                if partner == self.hub(message.cohort):
                    out = side.disclosed()
            # The last envelope has the size of a match of all with all: its own would tell.
            most = side.most_disclosed if step == last else 0
            sent[partner] = mailbox.seal(partner, f"exchange {step}", pack(out), at_least=most)
        _save(silo, state)
        return {"envelopes": sent, "more": last - step}

    @verb("join", replies={"envelopes": envelopes(Disclosure.MATCH, rows=FromRows.MATCH)})
    def join(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """At the hub: find who matches in all silos, one to one; tell each spoke its part."""
        mailbox, state = Mailbox(silo), _state(silo)
        if silo.name != self.hub(message.cohort):
            return {"envelopes": {}}
        shards, partners = _shards(state, self.shard), state["partners"]
        topic = f"exchange {last_step(shards)}"
        found = []
        for partner in partners:
            content = _opened(mailbox, partner, topic, message.payload["envelopes"])
            found.append(Side(silo, state, partner, shards).pairs(content))
        joint = found[0].entities
        for each in found[1:]:
            joint = np.intersect1d(joint, each.entities)
        for partner in partners:
            self._judge(silo, state, partner, len(joint))
        joint = joint[shuffle(len(joint), _seed(silo, "base"))]
        sent = {}
        for partner, each in zip(partners, found, strict=True):
            part = each.of(joint)
            counts = np.bincount(part.keys, minlength=len(self.spec.recipe.keys))
            state["by_key"][partner] = counts.tolist()
            told = {"keys": part.keys, "slots": part.slots, "by_key": counts.tolist()}
            most = Side(silo, state, partner, shards).most_joint
            sent[partner] = mailbox.seal(partner, "join", pack(told), at_least=most)
        silo.keep("psi-joint", pack({"rows": found[0].of(joint).rows}))
        state["joint"] = len(joint)
        _save(silo, state)
        return {"envelopes": sent}

    @verb("reveal", replies={"envelopes": envelopes(Disclosure.MATCH, rows=FromRows.MATCH)})
    def reveal(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Take the joint list, and only then tell the own share of the order's key."""
        mailbox, state = Mailbox(silo), _state(silo)
        hub = self.hub(message.cohort)
        if silo.name != hub:
            part = _opened(mailbox, hub, "join", message.payload["envelopes"])
            side = Side(silo, state, hub, _shards(state, self.shard))
            rows = side.rows_of(integers(part, "keys"), integers(part, "slots"))
            if len(rows) > sum(state["matched"][hub]):
                raise Refused("the hub says that more people match than do", code="psi")
            self._judge(silo, state, hub, len(rows))
            silo.keep("psi-joint", pack({"rows": rows}))
            state["by_key"][hub] = _counts(part.get("by_key"), len(self.spec.recipe.keys))
            state["joint"] = len(rows)
            _save(silo, state)
        share = silo.kept("psi-share") or b""
        others = [name for name in message.cohort if name != silo.name]
        said = pack({"share": share.hex(), "joint": state["joint"]})
        return {"envelopes": {name: mailbox.seal(name, "reveal", said) for name in others}}

    @verb("finish", replies={})
    def finish(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Put the rows in the joint order, keep the match, erase every key."""
        if silo.kept(_STATE) is None and self._is_finished(silo):
            return {}
        mailbox, state = Mailbox(silo), _state(silo)
        shares = {silo.name: silo.kept("psi-share") or b""}
        for name in (each for each in message.cohort if each != silo.name):
            said = _opened(mailbox, name, "reveal", message.payload["envelopes"])
            share = _hex(said.get("share"))
            if hashlib.sha256(b"order" + share).hexdigest() != state["theirs"][name]["commitment"]:
                raise Refused(f"'{name}' revealed another share than it had fixed", code="psi")
            if said.get("joint") != state["joint"]:
                raise Refused(f"'{name}' found another number of people", code="psi")
            shares[name] = share
        listed = b"".join(shares[name] for name in sorted(shares))
        order_key = hashlib.sha256(_scope(silo, self.spec.recipe.hash) + listed).digest()
        rows = unpack(silo.kept("psi-joint") or b"")["rows"]
        ordered = np.ascontiguousarray(rows[shuffle(len(rows), order_key)], np.int64)
        report = self._report(silo, state)
        now = datetime.now(UTC)
        silo.role(MATCHES).keep_match(
            Match(
                handle=self.handle,
                rows=ordered,
                partners=tuple(name for name in state["members"] if name != silo.name),
                recipe_hash=self.spec.recipe.hash,
                contract=silo.contract.ref,
                dataset=silo.rows.dataset(silo.contract),
                purpose=silo.job.purpose,
                created=now,
                expires=now + timedelta(days=self.spec.expires_days),
                report=report,
                run=silo.header.run_id,
            )
        )
        silo.forget(_STATE)
        for name in ("psi-share", "psi-joint"):
            silo.forget(name)
        for number in range(len(self.spec.recipe.keys)):
            silo.forget(values_name(number))
        for partner in state["partners"]:
            silo.forget(turns_name(partner))
        mailbox.close()
        return {}

    @verb("report", replies={"sizes": numbers(Disclosure.STATISTIC, rows=FromRows.MATCH)})
    def report(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Say how many there are, to the coordinator."""
        report = match_of(silo, self.handle).report
        said = {"matched": report["matched"], "match_rate": report["match_rate"]}
        said |= report.get("left_out", {})
        return {"sizes": {**said, **{name: report["own"][name] for name in ("rows", "entities")}}}

    def _take_agreements(
        self, silo: SiloView, mailbox: Mailbox, state: dict[str, Any], letters: Letters
    ) -> None:
        for name in (each for each in state["members"] if each != silo.name):
            said = _agreement(mailbox, name, letters)
            if said["recipe"] != self.spec.recipe.hash:
                raise Refused(
                    f"'{name}' uses another key recipe ({said['recipe'][:16]} there, "
                    f"{self.spec.recipe.hash[:16]} here), or another version of a library that "
                    "its steps use",
                    code="recipe",
                )
            if len(said["values"]) != len(self.spec.recipe.keys):
                raise Refused(f"'{name}' has another number of keys", code="recipe")
            if (said["members"], said["hub"]) != (state["members"], state["mine"]["hub"]):
                raise Refused(f"'{name}' was told of other members or another hub", code="psi")
            state["theirs"][name] = said
            if name in state["partners"]:
                silo.role(MATCHES).judge_match(
                    silo.header.run_id, name, num_theirs=said["entities"]
                )

    def _is_finished(self, silo: SiloView) -> bool:
        """Return whether the match of this very run is kept: its answer may have been lost."""
        try:
            return match_of(silo, self.handle).report.get("run") == silo.header.run_id
        except Refused:
            return False

    def _judge(self, silo: SiloView, state: dict[str, Any], partner: str, common: int) -> None:
        theirs = state["theirs"][partner]["entities"]
        silo.role(MATCHES).judge_match(
            silo.header.run_id, partner, num_theirs=theirs, num_common=common
        )

    def _show_shapes(self, silo: SiloView, partner: str) -> None:
        """Tell this silo's people, in its log, what its own keys look like; no key is told."""
        frame = silo.rows.frame(silo.contract, purpose=silo.job.purpose)
        for line in key_shapes(frame, self.spec.recipe):
            log.warning("no key is in common with '%s'; here: %s", partner, line)

    def _report(self, silo: SiloView, state: dict[str, Any]) -> dict[str, Any]:
        """Return what all parties of the match may know of its quality."""
        mine, joint = state["mine"], state["joint"]
        shown = ("rows", "entities", "values", "ambiguous")
        report: dict[str, Any] = {
            "matched": joint,
            "match_rate": joint / max(1, mine["entities"]),
            "own": {name: mine[name] for name in shown},
            "partners": {
                name: {each: state["theirs"][name][each] for each in shown}
                for name in state["members"]
                if name != silo.name
            },
            "duplicates": mine["rows"] - mine["entities"],
            "left_out": state.get("left_out", {}),
            "matched_by_key": state["by_key"],
            "recipe_hash": self.spec.recipe.hash,
            "hub": self.hub(state["members"]),
            "run": silo.header.run_id,
        }
        try:
            before = match_of(silo, self.handle)
        except Refused:  # there is none, or it does not hold any more
            return report
        if before.recipe_hash == self.spec.recipe.hash:
            then = before.report
            report["drift"] = {
                "since": before.created.isoformat(),
                "matched": joint - then["matched"],
                "match_rate": report["match_rate"] - then["match_rate"],
                "own_entities": mine["entities"] - then["own"]["entities"],
            }
        return report


def _inboxes(members: Sequence[str], answers: Answers) -> dict[str, dict[str, Any]]:
    """Return what each member gets: what was sealed for it, by sender."""
    inbox: dict[str, dict[str, Any]] = {name: {} for name in members}
    for sender, reply in answers.replies.items():
        for receiver, letter in reply.fields["envelopes"].items():
            if receiver in inbox:
                inbox[receiver][sender] = letter
    return {name: {"envelopes": letters} for name, letters in inbox.items()}


def _opened(mailbox: Mailbox, sender: str, topic: str, letters: Letters) -> dict[str, Any]:
    """Return the packed content of the envelope that a sender must have sent."""
    if sender not in letters:
        raise Refused(f"'{sender}' sent nothing", code="psi")
    raw = mailbox.unseal(sender, topic, letters[sender])
    try:
        return unpack(raw)
    except ReplyInvalid:
        raise Refused(f"what '{sender}' sealed is no packed payload", code="psi") from None


def _agreement(mailbox: Mailbox, sender: str, letters: Letters) -> dict[str, Any]:
    """Return what a partner says of itself, if it has the form that it must have."""
    said = _opened(mailbox, sender, "agree", letters)
    if said.get("turns") != TURNS:
        raise Refused(
            f"'{sender}' matches by an older or newer way than this silo: here tags are committed "
            "to before they are sent, so that nobody can send another's back as its own; use one "
            "version of Consilo on both sides",
            code="version",
        )
    sizes = ("rows", "entities")
    fits = (
        set(said) == {*sizes, *_LISTS, *_TEXTS, "members", "turns"}
        and all(_is_count(said[name]) for name in sizes)
        and all(isinstance(said[name], list) and len(said[name]) <= 16 for name in _LISTS)
        and all(_is_count(each) for name in _LISTS for each in said[name])
        and all(isinstance(said[name], str) for name in _TEXTS)
        and said["entities"] <= said["rows"]
    )
    if not fits:
        raise Refused(
            f"what '{sender}' says of its keys has not the form that it must have, or is above "
            f"{MAX_VALUES} values",
            code="psi",
        )
    return said


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_VALUES


def _counts(value: Any, number: int) -> list[int]:
    if not (isinstance(value, list) and len(value) == number and all(map(_is_count, value))):
        raise Refused("the hub's counts by key are no counts", code="psi")
    return value


def _hex(value: Any) -> bytes:
    try:
        return bytes.fromhex(value)
    except (ValueError, TypeError):
        raise Refused("a share of the order's key is no number", code="psi") from None


def _shards(state: Mapping[str, Any], size: int) -> list[tuple[int, int]]:
    """Return (key, number of shards of that key, shard) of every turn: the same in all silos."""
    everybody = [state["mine"], *state["theirs"].values()]
    found = []
    for key, _ in enumerate(state["mine"]["values"]):
        most = max(each["values"][key] for each in everybody)
        found += [(key, shard) for shard in range(max(1, -(-most // size)))]
    return found


def _scope(silo: SiloView, recipe_hash: str) -> bytes:
    header = silo.header
    said = ["psi", 1, header.run_id, header.manifest.digest, header.protocol, recipe_hash]
    return bytes.fromhex(digest(said))


def _seed(silo: SiloView, *purpose: Any) -> bytes:
    secret = silo.secrets.secret(silo.header.run_id)
    return hmac.digest(secret, canonical_json(["psi", *purpose]), "sha256")


def _state(silo: SiloView) -> dict[str, Any]:
    kept = silo.kept(_STATE)
    if kept is None:
        raise Refused(
            "this silo has not agreed to a match in this run, or has ended it", code="psi"
        )
    found: dict[str, Any] = json.loads(kept)
    return found


def _save(silo: SiloView, state: Mapping[str, Any]) -> None:
    silo.keep(_STATE, canonical_json(state))
