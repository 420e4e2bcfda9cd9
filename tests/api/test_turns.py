"""Turns: few at once, in order, and nobody waits for ever."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from api.opportunities.turns import Turns


@settings(max_examples=25, deadline=None)
@given(at_once=st.integers(1, 4), steps=st.lists(st.integers(0, 3), max_size=20))
def test_few_at_once_and_first_come_first_served(at_once: int, steps: list[int]) -> None:
    async def run() -> None:
        turns = Turns(at_once, patience=60)
        inside, most, order = 0, 0, []

        async def one(number: int, length: int) -> None:
            nonlocal inside, most
            async with turns.take():
                order.append(number)
                inside += 1
                most = max(most, inside)
                for _ in range(length):
                    await asyncio.sleep(0)
                inside -= 1

        await asyncio.gather(*(one(number, length) for number, length in enumerate(steps)))
        assert order == list(range(len(steps)))
        assert most <= at_once

    asyncio.run(run())


def test_nobody_waits_for_ever_and_a_turn_comes_back() -> None:
    async def run() -> None:
        turns = Turns(1, patience=0.01)
        try:
            async with turns.take():
                async with turns.take():  # the first is still at it
                    pass
                raise LookupError
        except LookupError:
            pass
        patient = Turns(1, patience=60)
        for turn in (patient, patient, turns):
            async with turn.take():
                pass

    asyncio.run(asyncio.wait_for(run(), 30))
