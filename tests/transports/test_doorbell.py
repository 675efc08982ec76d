"""The bell and the door: nobody waits while something is there, and nobody wakes for others."""

import asyncio
from collections import defaultdict
from collections.abc import MutableMapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from consilo.transports.flower.doorbell import COORDINATOR, SILOS, TAKE, Bell, Door, Waiter

NODES = ("1", "2", "3")


class Store:
    """What stands behind the door: gives one message per pull, and counts the pulls."""

    def __init__(self) -> None:
        self.bell = Bell()
        self.door = Door(self, self.bell)
        self.there: dict[str, list[int]] = defaultdict(list)
        self.unrung: list[str] = []
        self.pulls: dict[str, int] = defaultdict(int)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        who = dict(scope["headers"])[b"x-consilo-who"].decode()
        self.pulls[who] += 1
        body = b"message" if self.there[who] else b""
        if self.there[who]:
            self.there[who].pop(0)
        await asyncio.sleep(0)  # what comes in now was not seen
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    async def pull(self, waiter: Waiter, side: str = "fleet") -> bool:
        """Do what a node does in one turn; return whether it got a message."""
        if waiter.drained:
            waiter.expect(20.0)
        else:
            waiter.look()
        asked: dict[str, str] = {}
        waiter.ask(asked)
        headers = [(name.encode(), value.encode()) for name, value in asked.items()]
        told: dict[str, str] = {}
        body = bytearray()

        async def send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                told.update({name.decode(): value.decode() for name, value in message["headers"]})
            body.extend(message.get("body", b""))

        scope = {"type": "http", "path": TAKE[side], "headers": headers}
        await self.door(scope, _nothing, send)
        waiter.heard(told)
        if body:
            waiter.took()
        else:
            waiter.found_nothing()
        return bool(body)

    def put(self, who: str) -> None:
        """Put a message in; its bell rings later, as that of a transaction's end does."""
        self.there[who].append(0)
        self.unrung.append(who)

    def ring(self) -> None:
        """Ring for the message that was put in first."""
        if self.unrung:
            self.bell.ring(SILOS, self.unrung.pop(0))


async def _nothing() -> MutableMapping[str, Any]:
    raise AssertionError("nobody reads a body here")


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(NODES)),
        st.tuples(st.just("ring"), st.just("")),
        st.tuples(st.just("stock"), st.sampled_from(NODES)),
        st.tuples(st.just("turn"), st.sampled_from(NODES)),
        st.tuples(st.just("let"), st.just("")),
    ),
    max_size=40,
)


@settings(max_examples=300)
@given(ACTIONS)
def test_whatever_the_order_everybody_waits_only_when_nothing_is_there(
    actions: list[tuple[str, str]],
) -> None:
    async def play() -> None:
        store = Store()
        waiters = {who: Waiter(who) for who in NODES}
        turns: dict[str, asyncio.Task[bool]] = {}

        def turn(who: str) -> None:
            if who not in turns or turns[who].done():
                turns[who] = asyncio.get_running_loop().create_task(store.pull(waiters[who]))

        for action, who in actions:
            if action == "put":
                store.put(who)
            elif action == "ring":
                store.ring()
            elif action == "stock":  # two messages for one node, and nobody says for whom
                store.there[who] += [0, 0]
                store.bell.ring_all(SILOS)
            elif action == "turn":
                turn(who)
                await asyncio.sleep(0)
            else:
                await settle()
        while store.unrung:
            store.ring()
        for _ in range(4 * len(actions) + 4):
            for who in NODES:
                turn(who)
            await settle()
        assert all(not turns[who].done() for who in NODES), "somebody asks without end"
        assert not any(store.there.values()), "a message lies there and nobody comes"
        for each in turns.values():
            each.cancel()
        await asyncio.gather(*turns.values(), return_exceptions=True)

    asyncio.run(play())


def test_a_message_wakes_the_one_it_is_for_and_costs_one_pull() -> None:
    async def play() -> dict[str, int]:
        store = Store()
        waiters = {who: Waiter(who) for who in NODES}
        for waiter in waiters.values():
            assert not await store.pull(waiter)
        store.pulls.clear()
        tasks = {
            who: asyncio.get_running_loop().create_task(store.pull(each))
            for who, each in waiters.items()
        }
        for _ in range(5):
            await settle()
            store.put("2")
            store.ring()
            assert await tasks["2"]
            tasks["2"] = asyncio.get_running_loop().create_task(store.pull(waiters["2"]))
        await settle()
        assert not any(each.done() for each in tasks.values())
        for each in tasks.values():
            each.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        return dict(store.pulls)

    assert asyncio.run(play()) == {"2": 5}


def test_a_restarted_server_knows_no_count_and_lets_everybody_look() -> None:
    async def play() -> None:
        before, after = Store(), Store()
        waiter = Waiter("1")
        await before.pull(waiter)
        after.there["1"].append(0)
        assert await after.pull(waiter)
        assert not waiter.drained

    asyncio.run(play())


def test_a_closing_server_lets_go_of_who_waits() -> None:
    async def play() -> None:
        store = Store()
        waiter = Waiter("7")
        await store.pull(waiter, "runtime")
        held = asyncio.get_running_loop().create_task(store.pull(waiter, "runtime"))
        await settle()
        assert not held.done()
        store.bell.closing = lambda: True
        assert not await asyncio.wait_for(held, 5)
        assert store.pulls["7"] == 1

    asyncio.run(play())


def test_sides_and_runs_do_not_mix() -> None:
    bell = Bell()
    before = {who: bell.count(COORDINATOR, who) for who in ("1", "2")}
    bell.ring(SILOS, "1")
    bell.ring(COORDINATOR, "2")
    assert bell.count(COORDINATOR, "1") == before["1"]
    assert bell.count(COORDINATOR, "2") != before["2"]
