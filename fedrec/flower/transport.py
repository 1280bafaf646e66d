"""Grid helpers: wait for nodes, and a round trip without Flower's fixed poll interval."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from logging import getLogger

from flwr.app import Message, MessageType
from flwr.serverapp import Grid
from httpx import HTTPError

from fedrec.errors import RoundFailedError
from fedrec.flower.codec import decode, encode

_log = getLogger("fedrec")

_POLL_FIRST_S, _POLL_LAST_S, _POLL_GROWTH = 0.01, 0.25, 1.5


def exchange(grid: Grid, messages: Iterable[Message], timeout_s: float) -> Iterator[Message]:
    """Push messages and yield replies, errors included, as they arrive; ends when all are in or the time is up.

    The poll interval grows while nothing arrives; `Grid.send_and_receive` would sleep up to 3 s a poll. A reply that
    Flower cannot unpack is left out, and its sender alone has not answered.
    """
    waiting = {name for name in grid.push_messages(messages) if name}  # none for a node that has left
    deadline = time.monotonic() + timeout_s
    pause = _POLL_FIRST_S
    while waiting and time.monotonic() < deadline:
        replies, broken = _pull(grid, waiting)
        waiting -= broken
        waiting.difference_update(reply.metadata.reply_to_message_id for reply in replies)
        yield from replies
        pause = _POLL_FIRST_S if replies else min(pause * _POLL_GROWTH, _POLL_LAST_S)
        if waiting:
            time.sleep(pause)


def _pull(grid: Grid, names: set[str]) -> tuple[list[Message], set[str]]:
    """The replies that are there, and the names of those that cannot be read."""
    try:
        return list(grid.pull_messages(names)), set()
    except HTTPError:
        raise  # the SuperLink is gone, and nothing that a node has sent
    except Exception:
        if len(names) == 1:
            _log.exception("a reply could not be unpacked")
            return [], names
    parts = [_pull(grid, {name}) for name in sorted(names)]
    return [reply for found, _ in parts for reply in found], set[str]().union(*(broken for _, broken in parts))


def gather_nodes(grid: Grid, timeout_s: float) -> list[int]:
    """Node ids in the order of their partitions; nodes register while the ServerApp runs, so they are waited for.

    Raises:
        RoundFailedError: if nodes are missing after ``timeout_s`` seconds, or two hold one partition.
    """
    first = _wait_for(grid, 1, timeout_s)
    ((_, count),) = _places(grid, first[:1], timeout_s).values()
    places = _places(grid, _wait_for(grid, count, timeout_s), timeout_s)
    ordered = sorted(places, key=lambda node: places[node][0])
    if [places[node] for node in ordered] != [(partition, count) for partition in range(count)]:
        raise RoundFailedError(f"The nodes do not hold the partitions 0 to {count - 1}, one each; start them anew.")
    return ordered


def _wait_for(grid: Grid, count: int, timeout_s: float) -> list[int]:
    deadline = time.monotonic() + timeout_s
    while len(nodes := sorted(grid.get_node_ids())) < count:
        if time.monotonic() > deadline:
            raise RoundFailedError(f"{len(nodes)} of {count} nodes registered within {timeout_s:g} s.")
        time.sleep(_POLL_FIRST_S)
    return nodes


def _places(grid: Grid, nodes: list[int], timeout_s: float) -> dict[int, tuple[int, int]]:
    """Which partition of how many each node holds: only the node knows, node ids are random in every run."""
    messages = [Message(encode({}, {}), node, MessageType.QUERY, group_id="places", ttl=timeout_s) for node in nodes]
    places = {}
    for reply in exchange(grid, messages, timeout_s):
        packet = decode(reply)
        places[reply.metadata.src_node_id] = (packet.number("partition"), packet.number("partitions"))
    if missing := len(set(nodes) - set(places)):
        raise RoundFailedError(f"{missing} of {len(nodes)} nodes did not answer within {timeout_s:g} s.")
    return places
