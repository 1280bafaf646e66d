"""Restoring: a backup puts a store right, with all that the damaged one still tells, and nothing spent is forgotten."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedrec.device import history
from fedrec.device.charges import Charges
from fedrec.device.home import DeviceHome
from fedrec.device.policy import load_policy
from fedrec.device.restore import restore
from fedrec.errors import DeviceError, Refusal
from fedrec.secagg.messages import Phase
from fedrec.secagg.store import FolderStore
from tests.device.damage import PAGE, change, filled, page_of
from tests.device.fleet import Fleet


@pytest.fixture
def phone(tmp_path: Path) -> DeviceHome:
    return filled(tmp_path)


def test_what_a_backup_lacks_is_taken_from_the_damaged_store(phone: DeviceHome, tmp_path: Path) -> None:
    with phone.open_store() as store:
        history.record(store, "later", at=1000)
        history.forget(store, "item-7")
        with store.transaction() as connection:
            connection.execute("INSERT INTO charges VALUES ('e', 1, 0, 5, '2026-01-01', 'r', '{}', '{}', 9, x'00')")
    change(phone.store_path, page_of(phone.store_path, "documents"), bytes(PAGE))
    done = restore(phone, tmp_path / "backup")
    assert done.lost == ()
    assert done.salvaged == {"interactions": 0, "charges": 1, "answers": 0, "refusals": 0}
    with phone.open_store() as store:
        items = {item for (item,) in store.query("SELECT item FROM interactions")}
        assert "later" in items
        assert "item-7" not in items  # what was forgotten does not come back
        assert store.query("SELECT experiment, round FROM charges") == [("e", 1)]
        assert store.names() == ["model"]


def test_a_table_that_cannot_be_read_is_said_to_be_lost(phone: DeviceHome, tmp_path: Path) -> None:
    with phone.open_store() as store:
        history.record(store, "later", at=1000)
    change(phone.store_path, page_of(phone.store_path, "interactions"), bytes(PAGE))
    done = restore(phone, tmp_path / "backup")
    assert done.lost == ("interactions",)
    with phone.open_store() as store:
        assert history.counts(store).events == 200
        assert store.query("SELECT detail FROM refusals") == [("no",)]


def test_a_log_without_its_store_is_not_taken_for_the_new_one_s(phone: DeviceHome, tmp_path: Path) -> None:
    store = phone.open_store()
    history.record(store, "in the log alone", at=5)
    for suffix in ("", "-wal"):
        shutil.copy(f"{phone.store_path}{suffix}", f"{tmp_path / 'killed'}{suffix}")
    store.close()
    shutil.copy(tmp_path / "killed-wal", f"{phone.store_path}-wal")
    phone.store_path.unlink()
    restore(phone, tmp_path / "backup")
    assert not phone.store_path.with_name("store.sqlite-wal").exists()
    with phone.open_store() as store:
        assert history.counts(store).events == 200


def test_a_whole_store_is_not_replaced(phone: DeviceHome, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="is whole; move it away"):
        restore(phone, tmp_path / "backup")


def test_a_bad_backup_changes_nothing(phone: DeviceHome, tmp_path: Path) -> None:
    os.truncate(phone.store_path, 5000)
    before = phone.store_path.read_bytes()
    with pytest.raises(DeviceError, match="There is no backup"):
        restore(phone, tmp_path / "nothing")
    (tmp_path / "text").write_text("no backup")
    with pytest.raises(DeviceError, match="is damaged") as raised:
        restore(phone, tmp_path / "text")
    assert str(raised.value).startswith(f"'{tmp_path / 'text'}' is damaged, no backup at all")
    assert ".partial" not in str(raised.value), "not a file that its owner has never seen"
    assert phone.store_path.read_bytes() == before
    assert not [path for path in phone.root.iterdir() if path.name.startswith((".partial", "store.sqlite."))]


def charged_after_the_backup(tmp_path: Path) -> Fleet:
    """A fleet whose first device was backed up between two charged rounds."""
    fleet = Fleet(tmp_path / "fleet", ['model.name="mf"', 'model.start="random"', "federation.rounds=3"])
    fleet.round()
    with fleet.homes[1].open_store() as store:
        store.backup(tmp_path / "backup")
    fleet.round()
    return fleet


def test_charges_that_can_be_read_stay_charged(tmp_path: Path) -> None:
    fleet = charged_after_the_backup(tmp_path)
    phone = fleet.homes[1]
    change(phone.store_path, page_of(phone.store_path, "documents"), bytes(PAGE))
    assert restore(phone, tmp_path / "backup").salvaged["charges"] == 1
    assert [round_ for round_, _, _ in fleet.charges(1)] == [1, 2]
    fleet.round()
    assert [round_ for round_, _, _ in fleet.charges(1)] == [1, 2, 3]


def test_charges_that_are_lost_stop_the_device(tmp_path: Path) -> None:
    fleet = charged_after_the_backup(tmp_path)
    phone = fleet.homes[1]
    change(phone.store_path, page_of(phone.store_path, "charges"), bytes(PAGE))
    assert restore(phone, tmp_path / "backup").lost == ("charges",)
    with phone.open_store() as store:
        charges = Charges(store, load_policy(phone.policy_path), outside=FolderStore(phone.secagg))
        with pytest.raises(Refusal, match="it is an older copy"):
            charges.all()
    plan = fleet.plan(3)
    fleet.until(Phase.UNMASK, plan)
    assert [round_ for round_, _, _ in fleet.charges(1)] == [1]
    assert [round_ for round_, _, _ in fleet.charges(2)] == [1, 2, 3]


KILLED = """
import sys
from pathlib import Path
from fedrec.device.home import DeviceHome
from fedrec.device.restore import restore
restore(DeviceHome.open(Path(sys.argv[1])), Path(sys.argv[2]))
"""


@pytest.mark.parametrize("point", ["restore.copied", "restore.aside", "restore.replaced"])
def test_killed_while_restoring(phone: DeviceHome, tmp_path: Path, point: str) -> None:
    with phone.open_store() as store:
        history.record(store, "later", at=1000)
    change(phone.store_path, page_of(phone.store_path, "documents"), bytes(PAGE))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(phone.root), str(tmp_path / "backup")],
        env={**os.environ, "FEDREC_FAULT_POINT": point},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    if point != "restore.replaced":
        with pytest.raises(DeviceError, match="is damaged"):
            phone.open_store()
        shutil.rmtree(next(phone.root.glob(".partial-*")))
        restore(phone, tmp_path / "backup")
    with phone.open_store() as store:
        assert history.counts(store).events == 201
