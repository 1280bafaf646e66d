"""Where a device keeps an attempt's secrets between two messages, each of which a new process may handle."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from fedrec.errors import UsageError


class Store(Protocol):
    """Bytes by key. A key is lower-case letters, digits and dashes."""

    def lock(self) -> AbstractContextManager[None]:
        """Keeps every other user of the store out: a message is handled alone, or two answers could be given."""
        ...

    def put(self, key: str, value: bytes) -> None:
        """Keep a value, all of it or nothing; a value that it replaces is erased."""
        ...

    def get(self, key: str) -> bytes | None:
        """The value, or None."""
        ...

    def erase(self, key: str) -> None:
        """Forget a value beyond recovery, as far as the medium lets one; nothing happens where there is none."""
        ...

    def names(self) -> list[str]:
        """The keys of all values, ascending."""
        ...


class MemoryStore:
    """For simulations and tests: gone with the process."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._lock = threading.Lock()

    @contextmanager
    def lock(self) -> Iterator[None]:
        with self._lock:
            yield

    def put(self, key: str, value: bytes) -> None:
        self._values[key] = value

    def get(self, key: str) -> bytes | None:
        return self._values.get(key)

    def erase(self, key: str) -> None:
        self._values.pop(key, None)

    def names(self) -> list[str]:
        return sorted(self._values)


_SIDE = ".side-"
"""Starts the name of a value that is not yet, or no longer, in its place."""


class FolderStore:
    """One file a key, in a folder that only its owner can read (modes 0700 and 0600).

    A value is written beside its place, synced and renamed, so that a crash leaves the old or the new one. What is
    erased or replaced is overwritten with zeros and synced before it goes; a medium that moves blocks behind the
    system's back (flash, snapshots, copy-on-write file systems) may still keep them, so the device's disk should be
    encrypted. Needs POSIX file locks.

    Raises:
        UsageError: for a folder that others can read, or a key that is no file name.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_mode & 0o077:
            raise UsageError(f"Others can read '{folder}', which is to hold secrets; run chmod 700 on it.")

    @contextmanager
    def lock(self) -> Iterator[None]:
        import fcntl

        descriptor = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            for left in self._folder.glob(f"{_SIDE}*"):  # a crash came before or after a rename
                _wipe(left)
            yield
        finally:
            os.close(descriptor)

    def put(self, key: str, value: bytes) -> None:
        path = self._path(key)
        new = path.with_name(f"{_SIDE}{key}")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
        old = os.open(path, os.O_WRONLY) if path.exists() else None
        new.rename(path)
        self._sync()
        if old is not None:  # its name is gone, its blocks are still there
            _zero(old)

    def get(self, key: str) -> bytes | None:
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            return None

    def erase(self, key: str) -> None:
        path = self._path(key)
        if path.exists():
            gone = path.with_name(f"{_SIDE}{key}")
            path.rename(gone)  # first the name: a crash must not leave a value half overwritten
            self._sync()
            _wipe(gone)

    def names(self) -> list[str]:
        return sorted(path.name for path in self._folder.iterdir() if not path.name.startswith("."))

    def _path(self, key: str) -> Path:
        if not re.fullmatch(r"[a-z0-9-]{1,128}", key):
            raise UsageError(f"'{key}' cannot be a key: use lower-case letters, digits and dashes.")
        return self._folder / key

    def _sync(self) -> None:
        """A rename or a removal lasts once its folder is synced."""
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _wipe(path: Path) -> None:
    _zero(os.open(path, os.O_WRONLY))
    path.unlink()


def _zero(descriptor: int) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(bytes(os.fstat(descriptor).st_size))
        file.flush()
        os.fsync(descriptor)
