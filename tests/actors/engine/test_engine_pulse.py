"""Laws of an engine's pulse: silence is found at its deadline, and a long call excuses it for a while."""

import asyncio

from actors.engine.pulse import Pulse


async def never() -> None:
    await asyncio.Event().wait()


async def at_once() -> None:
    return


def test_an_answer_in_time_is_no_silence() -> None:
    assert asyncio.run(Pulse().silence_s(at_once, within_s=10.0)) == 0.0


def test_a_process_that_does_not_answer_is_found_at_the_deadline() -> None:
    assert asyncio.run(Pulse().silence_s(never, within_s=0.02)) >= 0.02


def test_an_answer_that_a_long_call_has_delayed_is_no_silence() -> None:
    async def work() -> float:
        pulse, has_ended = Pulse(), asyncio.Event()
        pulse.excuse_s = 30.0

        async def swap() -> None:
            with pulse.long_call():
                await asyncio.sleep(0.1)  # several times as long as is allowed
            has_ended.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(swap())
            return await pulse.silence_s(has_ended.wait, within_s=0.02)

    assert asyncio.run(work()) == 0.0


def test_a_long_call_excuses_no_silence_for_ever() -> None:
    pulse = Pulse()
    pulse.excuse_s = 0.03
    with pulse.long_call():
        assert asyncio.run(pulse.silence_s(never, within_s=0.01)) > 0.04
