"""A device's store: one SQLite file that several processes use at once, and that loses nothing once it is written."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedrec.device.schema import APPLICATION_ID, MIGRATIONS, identify, migrate
from fedrec.errors import DeviceError
from fedrec.faults import reach

BUSY_SECONDS = 10
"""How long a process waits for another one's write before it gives up."""

RESTORE = "restore a backup with 'fedrec device restore FILE'"


class Store:
    """An open store. Threads may share it; processes open it each on their own, never across a fork.

    Args:
        path: of a store that is there already; `create` makes a new one.

    Raises:
        DeviceError: for a store that is missing, not fedrec's, newer than this fedrec, damaged, or readable by
            others. Nothing is ever made anew in the place of a damaged one. Every method raises it when the store
            cannot be read or written.

    Guarantees:
        A transaction that has ended without an error outlives a crash of the process, the system or the power (WAL,
        ``synchronous=FULL``); one that has not leaves nothing behind. What is deleted is overwritten with zeros
        (``secure_delete``), as far as the medium lets one. Files are the owner's alone (0600, in a folder of 0700).
        Damage to the file's structure is found at opening, and damage to a document when it is read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        _check_place(path)
        with _told(path):
            self._connection = _connect(path)
        try:
            with _told(path):
                self._open()
        except BaseException:
            self._connection.close()
            raise

    @staticmethod
    def create(path: Path) -> Store:
        """A new, empty store, in a folder that is the owner's alone.

        Raises:
            DeviceError: if there is something at its place, or nothing can be written there.
        """
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))  # SQLite gives -wal and -shm its mode
        except FileExistsError:
            raise DeviceError(f"There is something at '{path}' already; open it, or take another place.") from None
        except OSError as error:
            raise DeviceError(f"Cannot make '{path}': {error.strerror or error}; check the folder.") from error
        with _told(path):
            connection = _connect(path)
            try:
                connection.execute("BEGIN IMMEDIATE")
                migrate(connection, 0, MIGRATIONS)
                connection.execute("COMMIT")
            finally:
                connection.close()
        return Store(path)

    def _open(self) -> None:
        application, version = identify(self._connection)
        if application != APPLICATION_ID:
            raise DeviceError(
                f"'{self.path}' is not a store of fedrec (it is empty or another program's); {RESTORE}, or start with "
                "'fedrec device init' in another folder."
            )
        if version > len(MIGRATIONS):
            raise DeviceError(
                f"'{self.path}' was written by a newer fedrec (tables of version {version}, this one knows "
                f"{len(MIGRATIONS)}); update fedrec."
            )
        (found,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise _damaged(self.path, "its pages do not fit together")
        (size,) = self._connection.execute("PRAGMA page_size").fetchone()
        log = self.path.with_name(f"{self.path.name}-wal")
        if self.path.stat().st_size % size and not (log.exists() and log.stat().st_size):
            raise _damaged(self.path, "its last page is cut")  # with a log, a checkpoint may be under way
        self._connection.execute("PRAGMA journal_mode = WAL").fetchall()
        if version < len(MIGRATIONS):
            with self.transaction() as connection:
                _, version = identify(connection)  # another process may have been faster
                migrate(connection, version, MIGRATIONS)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of the block is written when it ends, or nothing of it if it raises; other writers wait.

        A transaction within another one of the same thread is a part of it: the outermost one writes.
        """
        with self._lock, _told(self.path):
            if self._connection.in_transaction:
                yield self._connection
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                reach("store.before-commit")
                self._connection.execute("COMMIT")
                reach("store.after-commit")
            except BaseException:
                if self._connection.in_transaction:  # a full disk has rolled it back already
                    self._connection.execute("ROLLBACK")
                raise

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a SELECT, of one moment."""
        with self._lock, _told(self.path):
            return self._connection.execute(sql, parameters).fetchall()

    @property
    def version(self) -> int:
        """Of the content: it changes when another connection, and by writes of this one, has changed anything."""
        with self._lock:
            (others,) = self._connection.execute("PRAGMA data_version").fetchone()
            return int(others) * 2**32 + self._connection.total_changes

    def put(self, name: str, value: bytes) -> None:
        """Keep a document, in the place of an older one of its name."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO documents VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE "
                "SET value = excluded.value, sha256 = excluded.sha256, updated = excluded.updated",
                (name, value, hashlib.sha256(value).digest(), int(time.time())),
            )

    def get(self, name: str) -> bytes | None:
        """A document, or None.

        Raises:
            DeviceError: if it is not what was written.
        """
        rows = self.query("SELECT value, sha256 FROM documents WHERE name = ?", (name,))
        if not rows:
            return None
        value, digest = rows[0]
        if hashlib.sha256(value).digest() != digest:
            raise _damaged(self.path, f"document '{name}' is not what was written")
        return bytes(value)

    def remove(self, name: str) -> None:
        """Forget a document; nothing happens where there is none."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM documents WHERE name = ?", (name,))

    def names(self, prefix: str = "") -> list[str]:
        """The names of the documents that begin with a prefix, ascending."""
        rows = self.query("SELECT name FROM documents WHERE substr(name, 1, ?) = ?", (len(prefix), prefix))
        return sorted(name for (name,) in rows)

    def flush(self) -> None:
        """Empty the write-ahead log, which still holds the old pages of what was deleted.

        Readers of other processes can be in the way; it is then emptied when the last of them closes.
        """
        with self._lock, _told(self.path):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def backup(self, file: Path) -> None:
        """A copy of the whole store at one moment, while others go on using it: a file of its own, mode 0600.

        Raises:
            DeviceError: if there is such a file already, or it cannot be written.
        """
        try:
            os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except OSError as error:
            raise DeviceError(f"Cannot write '{file}': {error.strerror or error}; give another file.") from error
        try:
            with self._lock, _told(file), _closing(_connect(file)) as copy:
                self._connection.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")  # so that one file holds all of it
        except BaseException:
            file.unlink()
            raise

    def close(self) -> None:
        """The last one to close also removes the write-ahead log."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_private(path: Path, mode: str) -> None:
    """Refuse a file or folder that others can reach; ``mode`` is what to set it to.

    Raises:
        DeviceError: for such a one.
    """
    if path.stat().st_mode & 0o077:
        raise DeviceError(f"Others on this machine can reach '{path}'; run: chmod {mode} '{path}'")


def _check_place(path: Path) -> None:
    if path.is_dir():
        raise DeviceError(f"'{path}' is a folder where the device's store is expected; move it away and {RESTORE}.")
    if not path.exists():
        raise DeviceError(f"There is no store at '{path}'; {RESTORE}, or start with 'fedrec device init'.")
    check_private(path.absolute().parent, "700")
    check_private(path, "600")


def _connect(path: Path) -> sqlite3.Connection:
    """A connection that commits only what is said to be; a missing file is not made."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    for setting in ("synchronous = FULL", "secure_delete = ON", "trusted_schema = OFF"):
        connection.execute(f"PRAGMA {setting}").fetchall()
    return connection


@contextmanager
def _closing(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    try:
        yield connection
    finally:
        connection.close()


def _damaged(path: Path, what: str) -> DeviceError:
    return DeviceError(f"The store '{path}' is damaged ({what}); {RESTORE}.")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What SQLite says of the file, in one sentence that says what to do. A broken constraint is the caller's."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.Error as error:
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF  # without the extended part
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            raise _damaged(path, "it does not read as a database") from error
        if code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
            raise DeviceError(
                f"Cannot write '{path}' ({error}): nothing of this was kept, and what it held is safe; free some space "
                "and do it again."
            ) from error
        if code == sqlite3.SQLITE_BUSY:
            raise DeviceError(
                f"Another process has kept '{path}' busy for {BUSY_SECONDS} s; do it again, or stop that process."
            ) from error
        if code in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}:
            raise DeviceError(f"Cannot open '{path}' for writing ({error}); check its owner and folder.") from error
        raise
