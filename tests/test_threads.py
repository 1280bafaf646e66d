"""Shared-out work is the same work, in the same order, by any number of workers."""

from __future__ import annotations

import multiprocessing
import threading

import pytest

from fedrec.threads import begun, shared_out


def ranges(workers: int) -> list[tuple[int, int]]:
    return shared_out(lambda first, last: (first, last), [0, 3, 4, 9], workers)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_the_order_of_the_ranges(workers: int) -> None:
    assert ranges(workers) == [(0, 3), (3, 4), (4, 9)]


def test_several_workers_work_at_once() -> None:
    meeting = threading.Barrier(3, timeout=10)
    shared_out(lambda *_: meeting.wait(), [0, 1, 2, 3], workers=3)


def test_an_error_of_a_thread_is_raised() -> None:
    def work(first: int, _: int) -> None:
        if first == 0:
            raise ValueError("of the first range")

    with pytest.raises(ValueError, match="first range"):
        shared_out(work, [0, 1, 2], workers=2)


def test_what_is_begun_runs_beside_only_where_there_are_several_workers() -> None:
    here = threading.get_ident()
    assert begun(threading.get_ident, workers=1)() == here
    assert begun(threading.get_ident, workers=2)() != here


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own() -> None:
    ranges(2)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(ranges, (2,)).get(timeout=30) == [(0, 3), (3, 4), (4, 9)]
