"""One process at a time: a lock file that ends with its holder, however that ends, and says who it is."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fedrec.errors import ServerError

Facts = Mapping[str, str | int | None]
_PATIENCE_S = 5.0


@contextmanager
def held(path: Path, what: str, patience_s: float | None = None) -> Iterator[Callable[[Facts], None]]:
    """Hold the lock; yields what writes facts about the holder, beside its ``pid``, for `holder` to read.

    Args:
        path: the lock file.
        what: who else may hold it, for the error.
        patience_s: how long another process may take to end, in seconds; None is a few.

    Raises:
        ServerError: if another process has it and does not end in that time.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def tell(facts: Facts) -> None:
        text = json.dumps({"pid": os.getpid(), **facts}).encode()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text, 0)

    try:
        _take(descriptor, path, what, _PATIENCE_S if patience_s is None else patience_s)
        tell({})
        yield tell
    finally:
        os.close(descriptor)


def holder(path: Path) -> dict[str, str | int | None] | None:
    """What the process says of itself that holds the lock, such as its ``pid``; None if none does."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            found = json.loads(os.pread(descriptor, 65_536, 0))
        except ValueError:  # it is just being written
            found = None
        return found if isinstance(found, dict) else {}
    finally:
        os.close(descriptor)
    return None


def _take(descriptor: int, path: Path, what: str, patience_s: float) -> None:
    """A lock that is only looked at, or whose holder is just ending, is waited for."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                other = (holder(path) or {}).get("pid", "another")
                raise ServerError(f"Process {other} is {what} already ('{path}'); stop it first.") from error
            time.sleep(0.05)
