"""How requests are taken up, few at a turn of the event loop."""

from __future__ import annotations

import asyncio
import contextlib

from modelfleet_sidecar.intake import Intake


async def take_up(intake: Intake, order: list[int], number: int) -> None:
    await intake.turn()
    order.append(number)


async def turn_of_the_loop() -> None:
    """Return in the next turn of the loop, after what is due in it already."""
    done = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(done.set_result, None)
    await done


async def test_a_request_by_itself_does_not_wait() -> None:
    intake, order = Intake(), list[int]()
    work = take_up(intake, order, 1)
    with contextlib.suppress(StopIteration):
        work.send(None)
    assert order == [1]


async def test_a_burst_is_taken_up_in_its_order_and_a_few_at_a_turn() -> None:
    intake, order = Intake(most=3), list[int]()
    tasks = [asyncio.create_task(take_up(intake, order, number)) for number in range(100)]
    seen = 0
    while len(order) < 100:
        await turn_of_the_loop()  # which takes two: one to be called, one to go on
        assert len(order) - seen <= 2 * 3
        seen = len(order)
    await asyncio.gather(*tasks)
    assert order == list(range(100))


async def test_what_is_due_meanwhile_is_done_between_two_turns() -> None:
    intake, order = Intake(most=2), list[int]()
    tasks = [asyncio.create_task(take_up(intake, order, number)) for number in range(50)]
    await turn_of_the_loop()
    asyncio.get_running_loop().call_soon(order.append, -1)
    await asyncio.gather(*tasks)
    assert order.index(-1) < 10


async def test_those_who_left_take_nobodys_turn() -> None:
    intake, order = Intake(most=1), list[int]()
    tasks = [asyncio.create_task(take_up(intake, order, number)) for number in range(20)]
    await turn_of_the_loop()
    for task in tasks[5:15]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [*range(5), *range(15, 20)]
    await take_up(intake, order, 99)
    assert order[-1] == 99
