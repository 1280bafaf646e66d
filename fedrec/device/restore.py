"""A damaged or lost store, put back from a backup, with what can still be read of the damaged one."""

from __future__ import annotations

import os
import shutil
import sqlite3
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from fedrec.data.home import scratch
from fedrec.device.home import DeviceHome
from fedrec.device.store import Store
from fedrec.errors import DeviceError
from fedrec.faults import reach

_SALVAGED = ("interactions", "charges", "answers", "refusals")
"""In the order in which rows were written; documents come from the backup, and from the server again."""


@dataclass(frozen=True)
class Restored:
    """What came of it.

    Attributes:
        kept: where the damaged store is now, or None if there was none.
        salvaged: how many rows more than the backup had the store has now, by table.
        lost: the tables of the damaged store that could not be read to their end.
    """

    kept: Path | None
    salvaged: dict[str, int]
    lost: tuple[str, ...]


def restore(home: DeviceHome, file: Path) -> Restored:
    """Put a backup in the place of a store that is damaged or gone. Stop the device's other programs before.

    Guarantees:
        The damaged store is moved aside, never erased. A backup does not know later charges: what cannot be salvaged of
        them is noticed by `fedrec.device.charges`, which then refuses every round.

    Raises:
        DeviceError: if the store is whole, or the backup is not.
    """
    if _is_whole(home.store_path):
        raise DeviceError(f"The store '{home.store_path}' is whole; move it away if an older one is to replace it.")
    there = home.store_path.is_file()
    with scratch(home.root) as folder:
        new = folder / "store.sqlite"
        _copy(file, new)
        with _opened(new, file) as store:
            found = {table: _salvage(home.store_path, table, store) for table in _SALVAGED if there}
        reach("restore.copied")
        kept = _move_aside(home.store_path)
        reach("restore.aside")
        new.rename(home.store_path)
        reach("restore.replaced")
    salvaged = {table: rows for table, (rows, _) in found.items()}
    return Restored(kept, salvaged, tuple(table for table, (_, whole) in found.items() if not whole))


def _is_whole(path: Path) -> bool:
    try:
        Store(path).close()
    except DeviceError:
        return False
    return True


def _copy(file: Path, new: Path) -> None:
    """The backup as a store of its own; it may stand anywhere, readable by anyone."""
    if not file.is_file():
        raise DeviceError(f"There is no backup '{file}'; give a file that 'fedrec device backup' wrote.")
    with file.open("rb") as source, os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as copy:
        shutil.copyfileobj(source, copy)
        copy.flush()
        os.fsync(copy.fileno())


def _opened(new: Path, file: Path) -> Store:
    try:
        return Store(new)
    except DeviceError as error:
        raise DeviceError(
            f"'{file}' is damaged, no backup at all, or of a newer fedrec, and nothing was changed; give a file that "
            "'fedrec device backup' of this version wrote."
        ) from error


def _salvage(damaged: Path, table: str, store: Store) -> tuple[int, bool]:
    """How many rows the backup lacked, and whether the damaged store's table was read to its end.

    A table that was takes the place of the backup's, so that nothing comes back that its owner has forgotten since;
    of another one, the backup gets what it lacks.
    """
    rows, whole = _rows(damaged, table)
    before = len(store.query(f"SELECT 1 FROM {table}"))  # noqa: S608 - our own names
    with store.transaction() as connection:
        if whole:
            connection.execute(f"DELETE FROM {table}")  # noqa: S608
        for row in rows:
            own = (None, *row[1:]) if table == "interactions" and not whole else row  # ids may be taken
            marks = ", ".join("?" * len(row))
            try:
                connection.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", own)  # noqa: S608
            except sqlite3.IntegrityError:  # damaged as well: the table does not take such a value
                whole = False
    return len(store.query(f"SELECT 1 FROM {table}")) - before, whole  # noqa: S608


def _rows(damaged: Path, table: str) -> tuple[list[tuple[Any, ...]], bool]:
    """The rows that can be read, in the order in which they were written, and whether these are all."""
    rows: list[tuple[Any, ...]] = []
    try:
        connection = sqlite3.connect(f"{damaged.absolute().as_uri()}?mode=ro", uri=True)
        try:
            for row in connection.execute(f"SELECT * FROM {table} ORDER BY rowid"):  # noqa: S608 - our own names
                rows.append(row)
        finally:
            connection.close()
    except sqlite3.Error:
        return rows, False
    return rows, True


def _move_aside(path: Path) -> Path | None:
    """Keep what is there under another name; a file also stays in its place, until the new one replaces it at once."""
    names = (path.with_name(f"{path.name}.damaged-{number}") for number in count(1))
    kept = next(name for name in names if not name.exists())
    if path.is_dir():
        path.rename(kept)
    elif path.exists():
        os.link(path, kept)
    for suffix in ("-wal", "-shm"):  # a log that stayed could be taken for that of the new store
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(kept.with_name(kept.name + suffix))
    return kept if kept.exists() else None
