"""Damage to a store's file, and a device to do it to."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from fedrec.device import history
from fedrec.device.home import DeviceHome

PAGE = 4096


def filled(folder: Path) -> DeviceHome:
    """A device with two hundred events, a document of many pages and a backup beside it."""
    made = DeviceHome.create(folder / "device")
    with made.open_store() as store:
        with store.transaction() as connection:
            history.insert(connection, [history.Event(f"item-{number}", at=number) for number in range(200)], "test")
            connection.execute("INSERT INTO refusals (at, code, detail) VALUES (1, 'hook', 'no')")
        store.put("model", os.urandom(5 * PAGE))
        store.backup(folder / "backup")
    return made


def change(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def page_of(path: Path, table: str) -> int:
    """Where in the file a table's root page begins."""
    connection = sqlite3.connect(path)
    ((page,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchall()
    connection.close()
    return (int(page) - 1) * PAGE
