"""Boosted trees whose gradients the feature silos cannot read: SecureBoost (Cheng et al. 2021).

Four asks per level. The label silo encrypts gradients and curvatures once a tree, with a key pair
that it made for the run; a feature silo adds up ciphertexts and sends the encrypted left sums of
its splits, in an order of its own (`consilo.vertical.trees.secure_histograms`); the label silo
decrypts them, takes the best split of all silos and says which it was; the silo that offered it
says which rows go left; the label silo says who is in which node. Who learns what:

- **Label silo**: for each node and feature silo the sums of gradients on the left of every split
  with enough rows, without columns or thresholds; which rows go left, one bit per row, at splits
  that were taken (class ``embedding``). Where few rows lie between two splits of a column, the
  difference of their sums can tell which rows these are: then it learns their order by that column,
  never a value.
- **Feature silos**: which rows share a node, and which of their splits were taken (class
  ``update``). No gradient, no label, and not which rows have none (they count for ``min_rows``,
  and weigh nothing); but rows of one node are like each other, and a silo that
  knows some labels may guess at others.
- **Coordinator**: as in the plain kind.

Of the cross-validation only ``args.judged_folds`` are held out, one if not said: each costs two
more encryptions of every row and tree. Silos that follow the protocol are what is guarded against.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from consilo.errors import Refused, ReplyInvalid
from consilo.kernel.letters import Envelope
from consilo.kernel.steps import Answers, Step
from consilo.kernel.verbs import Disclosure, envelopes, verb
from consilo.kernel.view import Message, SiloView
from consilo.vertical import turns
from consilo.vertical.blocks import Array, Block, block_of, num_inputs
from consilo.vertical.linear.solve import curvatures
from consilo.vertical.training import Turn
from consilo.vertical.trees.models import Choice, TreeModels
from consilo.vertical.trees.paillier import MIN_BITS, PrivateKey, PublicKey, gmp
from consilo.vertical.trees.plain import PlainTrees
from consilo.vertical.trees.secure_histograms import Opened, Slots, Sums, wholes_of
from consilo.vertical.trees.splits import WonSplits
from consilo.vertical.trees.trees import coded, edges_of

_NODES, _SUMS, _TAKEN, _LEFTS = "nodes", "sums", "taken", "lefts"

MAX_LETTER_BYTES = 512 * 2**20
"""Of a tree's encrypted gradients; 512 bytes for each row of each model that all silos share."""

_MEMBERSHIP = envelopes(Disclosure.UPDATE)
"""Which rows share a node, which splits were taken, and what nobody but the sender can decrypt."""


class SecureTrees(PlainTrees):
    """Boosted trees with ``histograms: secure``; otherwise as `PlainTrees`."""

    label_verbs: ClassVar[tuple[str, ...]] = ("encrypt", "choose", "branch", "judge")
    feature_verbs: ClassVar[tuple[str, ...]] = ("add_up", "divide", "keep_part")
    histograms: ClassVar[str] = "secure"

    def begin(self, state: Turn) -> Generator[Step, Any, Turn]:
        """Begin with the first tree at once."""
        return state
        yield  # a generator without steps

    def train_round(self, state: Turn) -> Generator[Step, Any, Turn]:
        """Carry the tree's encrypted gradients to the feature silos; grow it level by level."""
        label, everybody = self.settings.label_silo, self.settings.members
        steps = self.steps_of(state.round)
        # A verb of its own: it takes longer than all others, and deadlines are learnt by verb.
        before = {"step": steps[0]["step"] - 1}
        told: Answers = yield turns.asked((label,), everybody, "encrypt", before)
        state = replace(state, letters=turns.sent(told, *self.settings.feature_silos))
        for step in steps:
            state = yield from self._carried(state, "add_up", "choose", step)
            state = yield from self._carried(state, "divide", "branch", step)
        return self.counted(state)

    def num_rows(self, silo: SiloView) -> int:
        """Return how many rows are matched; refuses what cannot work here before any of it."""
        gmp()
        rows = super().num_rows(silo)
        size = rows * self.boosting.num_shared * MIN_BITS // 4
        if size > MAX_LETTER_BYTES:
            raise Refused(
                f"histograms: secure: {rows} matched rows and judged_folds {self.boosting.judged} "
                f"make {size >> 20} MiB of ciphertexts for each tree, where "
                f"{MAX_LETTER_BYTES >> 20} MiB are allowed; judge fewer folds, match fewer rows, "
                "or set 'plain'",
                code="size",
            )
        return rows

    @verb("encrypt", replies={"envelopes": _MEMBERSHIP})
    def encrypt(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Label silo: seal a tree's encrypted gradients; make a key pair before the first."""
        self.require_kind("secure")
        block, step = block_of(silo, self.settings), int(message.payload["step"])
        if step == 0:
            models = TreeModels.begin(self.boosting, block)
            turns.keep(silo, "key", 0, PrivateKey.generate().to_payload())
            turns.keep(silo, "models", 0, models.to_payload())
        else:
            value = turns.kept(silo, "models", step)
            models = TreeModels.from_payload(self.boosting, block, value)
        return {"envelopes": self._sealed(silo, block, self._encrypted(silo, models))}

    @verb("add_up", replies={"envelopes": turns.SCORES})
    def add_up(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Feature silo: seal the encrypted left sums of the own splits, in a random order."""
        self.require_kind("secure")
        label, step = self.settings.label_silo, int(message.payload["step"])
        tree, level = self.place_of(step)
        block, boosting = block_of(silo, self.settings), self.boosting
        post = turns.Post(silo, block.mark)
        told = post.open(label, _NODES, message.payload["envelopes"][label])
        shape = (boosting.num_shared, len(block))
        turns.require_shape(label, "nodes", told["nodes"], shape)
        if level == 0:
            sent = {"n": told["n"], "used": told["used"], "numbers": told["numbers"]}
            turns.keep(silo, "numbers", tree, sent)
        key, numbers = self._numbers(turns.kept(silo, "numbers", tree), len(block))
        before = turns.kept(silo, "sums", step - 1)["sums"] if level else [None] * shape[0]
        edges = edges_of(block.features, boosting.max_bins)
        codes, slots = coded(block.features, edges), Slots(len(block), key.room)
        every, offers, content = [], [], []
        for mine, nodes, above in zip(numbers, told["nodes"], before, strict=True):
            parents = None if above is None else Sums.from_payload(key, above, sender=silo.name)
            sums = Sums.of(key, mine, codes, nodes, num_nodes=2**level, parents=parents)
            every.append(sums.to_payload(key))
            offers.append(sums.offers(boosting.growth.min_rows))
            counts = np.bincount(offers[-1][:, 0], minlength=2**level)
            content.append({"counts": counts, "sums": sums.packed(key, offers[-1], slots)})
        turns.keep(silo, "sums", step, {"sums": every})
        turns.keep(silo, "offers", step, {"offers": offers, "nodes": told["nodes"]})
        return {"envelopes": {label: post.seal(label, _SUMS, {"models": content})}}

    @verb("choose", replies={"envelopes": _MEMBERSHIP})
    def choose(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Label silo: take each node's best split of all silos; seal which were taken."""
        self.require_kind("secure")
        step = int(message.payload["step"])
        _, level = self.place_of(step)
        block, boosting = block_of(silo, self.settings), self.boosting
        post, shared = turns.Post(silo, block.mark), boosting.num_shared
        models = TreeModels.from_payload(boosting, block, turns.kept(silo, "models", step - 1))
        key = PrivateKey.from_payload(turns.kept(silo, "key", 0))
        opened = {
            name: self._opened(
                name,
                post.open(name, _SUMS, message.payload["envelopes"][name]),
                models,
                key,
                level,
                most=num_inputs(silo, self.settings, name) * boosting.max_bins,
            )
            for name in self.settings.feature_silos
        }
        gains = {name: np.array([one.gains for one in each]) for name, each in opened.items()}
        choice = models.chosen(level, gains)
        turns.keep(silo, "choice", step, choice.to_payload())
        sealed = {}
        for number, name in enumerate(self.settings.feature_silos, start=1):
            offers = np.array([each.offers for each in opened[name]])
            taken = np.where(choice.won(number)[:shared], offers, -1)
            sealed[name] = post.seal(name, _TAKEN, {"taken": taken})
        return {"envelopes": sealed}

    @verb("divide", replies={"envelopes": turns.SCORES})
    def divide(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Feature silo: seal which rows go left at the own splits that were taken."""
        self.require_kind("secure")
        label, step = self.settings.label_silo, int(message.payload["step"])
        tree, level = self.place_of(step)
        block = block_of(silo, self.settings)
        post = turns.Post(silo, block.mark)
        taken = post.open(label, _TAKEN, message.payload["envelopes"][label])["taken"]
        turns.require_shape(label, "taken", taken, (self.boosting.num_shared, 2**level))
        edges = edges_of(block.features, self.boosting.max_bins)
        codes, before = coded(block.features, edges), turns.kept(silo, "offers", step)
        lefts, own = [], np.zeros((2**level, 2), np.int64)
        for place, offers in enumerate(before["offers"]):
            nodes, left = before["nodes"][place], np.zeros(len(block), bool)
            for node in np.flatnonzero(taken[place] >= 0):
                _, column, level_bin = offers[offers[:, 0] == node][taken[place, node]]
                left |= (nodes == node) & (codes[:, column] <= level_bin)
                if place == 0:
                    own[node] = column, level_bin
            lefts.append(np.packbits(left))
        won = taken[0] >= 0
        thresholds = [edges[c][b] if each else 0.0 for (c, b), each in zip(own, won, strict=True)]
        kept = self.won_until(silo, step - 1, {})
        kept = kept.with_level(tree, level, own[:, 0], np.array(thresholds), won)
        turns.keep(silo, "won", step, kept.to_payload())
        return {"envelopes": {label: post.seal(label, _LEFTS, {"lefts": np.array(lefts)})}}

    @verb("branch", replies={"envelopes": _MEMBERSHIP})
    def branch(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Label silo: divide the nodes; seal the rows' new ones."""
        self.require_kind("secure")
        step = int(message.payload["step"])
        tree, level = self.place_of(step)
        block, boosting = block_of(silo, self.settings), self.boosting
        post = turns.Post(silo, block.mark)
        models = TreeModels.from_payload(boosting, block, turns.kept(silo, "models", step - 1))
        lefts: dict[str, Array] = {}
        for name in self.settings.feature_silos:
            lefts[name] = post.open(name, _LEFTS, message.payload["envelopes"][name])["lefts"]
            shape = (boosting.num_shared, -(-len(block) // 8))
            turns.require_shape(name, "lefts", lefts[name], shape)
        choice = Choice(**turns.kept(silo, "choice", step))
        models = models.divided(tree, level, choice, lefts)
        turns.keep(silo, "models", step, models.to_payload())
        content = {"nodes": models.outward(models.nodes)}
        is_last = level + 1 == boosting.depth  # the next tree's are all at the root
        return {"envelopes": self._sealed(silo, block, {} if is_last else content)}

    def won_until(self, silo: SiloView, step: int, told: Mapping[str, Any]) -> WonSplits:
        """Return a feature silo's splits of the kept model up to a step."""
        if step == 0:
            return WonSplits.none()
        return WonSplits.from_payload(turns.kept(silo, "won", step))

    def _carried(
        self, state: Turn, up: str, down: str, step: Mapping[str, int]
    ) -> Generator[Step, Any, Turn]:
        """Bring the feature silos their letters, and the label silo what they answer."""
        label, others, everybody = self.settings.parties
        own = {name: state.to(name) for name in others}
        answers: Answers = yield turns.asked(others, everybody, up, step, own)
        own = {label: {"envelopes": turns.sent(answers, label)[label]}}
        told: Answers = yield turns.asked((label,), everybody, down, step, own)
        return replace(state, letters=turns.sent(told, *others))

    def _sealed(
        self, silo: SiloView, block: Block, content: Mapping[str, Any]
    ) -> dict[str, Envelope]:
        """Return the same letter for each feature silo."""
        post = turns.Post(silo, block.mark)
        return {name: post.seal(name, _NODES, content) for name in self.settings.feature_silos}

    def _encrypted(self, silo: SiloView, models: TreeModels) -> dict[str, Any]:
        """Return the public key, each shared model's rows, and their encrypted gradients.

        Args:
            silo: the label silo.
            models: before a tree.
        """
        key = PrivateKey.from_payload(turns.kept(silo, "key", 0))
        slots, used, numbers = Slots(len(models.block), key.public.room), [], []
        slopes, parts = models.outward(models.gradients()), models.outward(models.parts())
        for slope, there in zip(slopes, parts, strict=True):
            # A row without a label weighs nothing; its ciphertext looks like any other.
            weighs = np.isfinite(slope)
            curve = np.where(weighs, curvatures(self.kind, slope), 0.0)
            pairs, _ = slots.encoded(np.where(weighs, slope, 0.0)[there], curve[there])
            used.append(np.packbits(there))
            numbers.append(key.public.wired(key.encrypt(pairs)))
        nodes = models.outward(models.nodes)
        sent = {"n": key.public.to_bytes(), "used": np.array(used), "numbers": numbers}
        return {"nodes": nodes, **sent}

    def _opened(
        self,
        name: str,
        told: Mapping[str, Any],
        models: TreeModels,
        key: PrivateKey,
        level: int,
        *,
        most: int,
    ) -> list[Opened]:
        """Return what the label silo reads of a feature silo's sums, for each shared model.

        Args:
            name: the feature silo.
            told: what it sealed.
            models: before the level.
            key: the label silo's.
            level: of the nodes, from 0.
            most: splits that a node can have there.
        """
        slots, opened = Slots(len(models.block), key.public.room), []
        shared = self.boosting.num_shared
        for sent, slope, nodes in zip(
            told["models"], models.gradients()[:shared], models.nodes[:shared], strict=True
        ):
            turns.require_shape(name, "counts", sent["counts"], (2**level,))
            if np.max(sent["counts"]) > most:  # each must be decrypted, and takes its time
                raise ReplyInvalid(
                    f"silo '{name}' offers {np.max(sent['counts'])} splits of a node, of {most} "
                    "that its columns can have"
                )
            curve, used = curvatures(self.kind, slope), np.isfinite(slope)
            opened.append(
                Opened.of(
                    key,
                    sent["sums"],
                    sent["counts"],
                    slots=slots,
                    exponents=slots.encoded(slope[used], curve[used])[1],
                    wholes=wholes_of(slope, curve, nodes, 2**level),
                    growth=self.boosting.growth,
                    sender=name,
                )
            )
        return opened

    def _numbers(
        self, sent: Mapping[str, Any], size: int
    ) -> tuple[PublicKey, list[dict[int, Any]]]:
        """Return the label silo's key, and each model's ciphertexts by row."""
        label, shared = self.settings.label_silo, self.boosting.num_shared
        key = PublicKey.from_bytes(sent["n"], sender=label)
        turns.require_shape(label, "used", sent["used"], (shared, -(-size // 8)))
        by_row = []
        for bits, numbers in zip(sent["used"], sent["numbers"], strict=True):
            rows = np.flatnonzero(np.unpackbits(bits, count=size)).tolist()
            mine = key.unwired(numbers, sender=label)
            turns.require_shape(label, "numbers", numbers, (len(rows), None))
            by_row.append(dict(zip(rows, mine, strict=True)))
        return key, by_row
