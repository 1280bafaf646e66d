"""Threads for compiled loops and array operations, which let go of the interpreter while they work."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

Result = TypeVar("Result")


def shared_out(work: Callable[[int, int], Result], edges: Iterable[int], workers: int) -> list[Result]:
    """Do the ranges between the edges: one worker in turn; of several one here and the others in threads."""
    *others, own = ((int(a), int(b)) for a, b in itertools.pairwise(edges))
    if workers == 1:
        return [*itertools.starmap(work, others), work(*own)]
    started = [_threads().submit(work, *edge) for edge in others]
    done = work(*own)
    return [*(one.result() for one in started), done]


def begun(work: Callable[[], Result], workers: int) -> Callable[[], Result]:
    """Do it in a thread from now on where there are several workers, else when the result is asked for."""
    return work if workers == 1 else _threads().submit(work).result


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """Kept from round to round: a new thread takes a tenth of a round to begin, on the core of its parent."""
    from concurrent.futures import ThreadPoolExecutor  # a phone has no use for them

    return ThreadPoolExecutor(os.cpu_count())


os.register_at_fork(after_in_child=_threads.cache_clear)  # a child has none of its parent's threads
