"""Waiting for calls to actors, with names, deadlines and one kind of error.

Owns the translation of Ray's errors: the user's mistake stays one, everything else is an ActorError that names the actor. Called by whoever in the
driver's process waits for an actor; knows no actor.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Sequence
from typing import Any

import ray

from rlvr import errors
from rlvr.errors import ActorError, Closed, FiresteelError, UserError

logger = logging.getLogger(__name__)

STILL_WAITING_S = 120.0
START_S = 1800.0
"""An image pull and a new node of an autoscaler fit in."""


async def outcome(name: str, call: Awaitable[Any]) -> Any:
    """Wait for one call to an actor. Raises UserError, Closed, or ActorError with the actor's name and the cause in one line."""
    try:
        return await call
    except ray.exceptions.RayError as error:
        raise translated(name, error) from error


def translated(name: str, error: ray.exceptions.RayError) -> FiresteelError:
    """Ray's error in our words: the user's mistake and the queue's end stay what they are."""
    kind, text = _raised_there(error)
    if issubclass(kind, UserError):
        return UserError(text)
    if issubclass(kind, Closed):
        return Closed(text)
    first = next((line for line in text.strip().splitlines() if line.strip()), kind.__name__)
    return ActorError(f"{name} failed: {kind.__name__}: {first}")


def _raised_there(error: ray.exceptions.RayError) -> tuple[type[BaseException], str]:
    """Class and text of what the actor raised. Of what its constructor raised Ray brings the traceback alone, which ends in both."""
    if isinstance(error, ray.exceptions.RayActorError) and error.actor_init_failed:
        lines = str(error).rpartition("ray::")[2].splitlines()[1:]  # behind the last header: frames, indented, then the error
        last = "\n".join(itertools.dropwhile(lambda line: line.startswith("  "), lines))
        kind, _, text = last.partition(": ")
        module, _, ours = kind.rpartition(".")
        return (getattr(errors, ours), text) if module == errors.__name__ else (type(error), last or str(error))
    cause = first_error(getattr(error, "cause", None) or error)
    return type(cause), str(cause)


async def outcome_within(seconds: float, name: str, call: Awaitable[Any]) -> Any:
    """As `outcome`; ActorError too where no answer comes in time."""
    try:
        async with asyncio.timeout(seconds):
            return await outcome(name, call)
    except TimeoutError as error:
        raise ActorError(f"{name} gave no answer within {seconds:g} s") from error


async def started(names: Sequence[str], calls: Sequence[Any]) -> list[Any]:
    """Wait for calls to several actors, saying for whom. Raises ActorError for the first that fails, by name, or for those that never come."""
    tasks = [asyncio.ensure_future(outcome(name, call)) for name, call in zip(names, calls, strict=True)]
    began = time.monotonic()
    try:
        while tasks:
            done, pending = await asyncio.wait(tasks, timeout=STILL_WAITING_S, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
            if not pending:
                return [task.result() for task in tasks]
            late = ", ".join(name for name, task in zip(names, tasks, strict=True) if task in pending)
            if time.monotonic() - began > START_S:
                raise ActorError(f"{late} did not start within {START_S:.0f} s; has the cluster the CPUs, GPUs and labels that the run asks for?")
            logger.warning("still waiting for %s; `ray status` shows what the cluster has", late)
        return []
    finally:
        for task in tasks:
            task.cancel()


def is_death(error: BaseException) -> bool:
    """Whether a process was lost, or the node that it was for, and nothing of ours was raised: it may be started again."""
    lost = ray.exceptions.RayActorError | ray.exceptions.NodeDiedError | ray.exceptions.ActorUnschedulableError
    return isinstance(error.__cause__, lost)


def first_error(error: BaseException) -> BaseException:
    """The first plain error of a group of errors; another error is its own first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
