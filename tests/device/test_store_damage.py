"""A store that is damaged is said to be, in one sentence, and nothing is made anew in its place."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from fedrec.device import history
from fedrec.device.home import DeviceHome
from fedrec.device.restore import restore
from fedrec.errors import DeviceError
from tests.device.damage import PAGE, change, filled, page_of


@pytest.fixture
def phone(tmp_path: Path) -> DeviceHome:
    return filled(tmp_path)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut in the middle": (lambda path: os.truncate(path, path.stat().st_size // 2), "is damaged"),
    "cut by one byte": (lambda path: os.truncate(path, path.stat().st_size - 1), "is damaged"),
    "empty": (lambda path: os.truncate(path, 0), "is not a store of fedrec"),
    "a text": (lambda path: path.write_text("To whom it may concern: " * 400), "is damaged"),
    "a header overwritten": (lambda path: change(path, 0, os.urandom(100)), "is damaged"),
    "a page overwritten": (lambda path: change(path, page_of(path, "interactions"), os.urandom(PAGE)), "is damaged"),
    "half a page of zeros": (lambda path: change(path, page_of(path, "interactions"), bytes(2048)), "is damaged"),
    "a page torn": (lambda path: change(path, page_of(path, "documents") + 8, bytes(512)), "is damaged"),
    "another program's": (
        lambda path: sqlite3.connect(path).execute("PRAGMA application_id = 1").connection.close(),
        "is not a store of fedrec",
    ),
    "gone": (lambda path: path.unlink(), "There is no store at"),
    "a folder": (make_folder, "is a folder where"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_and_a_backup_puts_it_right(phone: DeviceHome, tmp_path: Path, damage: str) -> None:
    act, told = DAMAGES[damage]
    act(phone.store_path)
    before = phone.store_path.read_bytes() if phone.store_path.is_file() else None
    for _ in range(2):
        with pytest.raises(DeviceError, match=told) as error:
            phone.open_store()
        assert "fedrec device restore FILE" in str(error.value)
        assert str(error.value).count(". ") == 0
        assert len(str(error.value).splitlines()) == 1
        assert not [word for word in ("***", "Page", "malformed", "btree") if word in str(error.value)]
    if before is not None:
        assert phone.store_path.read_bytes() == before
    done = restore(phone, tmp_path / "backup")
    if before is not None:
        assert done.kept is not None
        assert done.kept.read_bytes() == before
    with phone.open_store() as store:
        assert history.counts(store).events == 200
        assert store.get("model") is not None
        assert store.query("PRAGMA journal_mode") == [("wal",)]


def test_a_document_that_was_changed_is_not_given_out(phone: DeviceHome) -> None:
    with phone.open_store() as store:
        model = store.get("model")
    assert model is not None
    place = phone.store_path.read_bytes().find(model[2 * PAGE : 2 * PAGE + 64])
    change(phone.store_path, place, b"poison")
    with (
        phone.open_store() as store,  # the file's structure is whole
        pytest.raises(DeviceError, match="document 'model' is not what was written"),
    ):
        store.get("model")
