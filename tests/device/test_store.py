"""The store: what it took is there after a crash, in every process, and other people's files are left alone."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.device import history, schema
from fedrec.device.store import Store
from fedrec.errors import DeviceError


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "store.sqlite") as made:
        yield made


def test_documents_come_back_as_they_went_in(store: Store) -> None:
    store.put("roster-b", b"")
    store.put("roster-a", bytes(range(256)))
    store.put("model", b"old")
    store.put("model", b"new")
    with Store(store.path) as again:
        assert again.get("roster-a") == bytes(range(256))
        assert again.get("roster-b") == b""
        assert again.get("model") == b"new"
        assert again.get("roster-c") is None
        assert again.names("roster-") == ["roster-a", "roster-b"]
        assert again.names("roster_") == []
        assert again.names() == ["model", "roster-a", "roster-b"]
        again.remove("model")
    assert store.get("model") is None


def test_the_settings_that_durability_rests_on(store: Store) -> None:
    assert store.query("PRAGMA journal_mode") == [("wal",)]
    assert store.query("PRAGMA synchronous") == [(2,)]
    assert store.query("PRAGMA secure_delete") == [(1,)]
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600


def test_a_transaction_is_all_or_nothing_and_an_inner_one_is_part_of_the_outer(store: Store) -> None:
    def fail() -> None:
        with store.transaction():
            history.record(store, "a")
            store.put("inner", b"")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert store.names() == []
    assert history.counts(store).events == 0
    with store.transaction():
        store.put("outer", b"")
        with store.transaction():
            store.put("inner", b"")
    assert store.names() == ["inner", "outer"]


def test_a_broken_constraint_is_the_caller_s_to_see(store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError), store.transaction() as connection:
        connection.execute("INSERT INTO interactions (item, kind, source) VALUES ('a', 'bought', 'x')")
    with pytest.raises(sqlite3.IntegrityError), store.transaction() as connection:
        connection.execute("INSERT INTO interactions (item, kind, at, source) VALUES ('a', 'seen', 'noon', 'x')")


def test_the_version_tells_of_every_change(store: Store) -> None:
    seen = [store.version]
    store.put("a", b"")
    seen.append(store.version)
    with Store(store.path) as other:
        assert store.version == seen[-1]
        other.put("b", b"")
    seen.append(store.version)
    assert len(set(seen)) == 3


def test_threads_share_a_store(store: Store) -> None:
    def write(name: str) -> None:
        for number in range(20):
            with store.transaction():
                history.record(store, f"{name}-{number}", at=number)
                store.put(name, str(number).encode())

    threads = [threading.Thread(target=write, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert history.counts(store).events == 80
    assert [store.get(f"t{number}") for number in range(4)] == [b"19"] * 4


WRITER = """
import sys
from pathlib import Path
from fedrec.device import history
from fedrec.device.store import Store
name, path = sys.argv[1:]
for number in range(40):
    with Store(Path(path)) as store:
        history.record(store, f"{name}-{number}", at=number)
        history.record(store, "of-all", at=number)
        store.put("shared", name.encode())
"""


def test_processes_that_write_at_once_lose_nothing(store: Store) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, f"w{n}", str(store.path)]) for n in range(3)]
    for number in range(40):
        history.record(store, f"here-{number}", at=number)
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    counts = history.counts(store)
    assert counts.events == 4 * 40 + 40
    assert store.get("shared") in {b"w0", b"w1", b"w2"}
    assert store.query("PRAGMA integrity_check") == [("ok",)]


KILLED = """
import sys
from pathlib import Path
from fedrec.device import history
from fedrec.device.store import Store
with Store(Path(sys.argv[1])) as store:
    with store.transaction():
        history.record(store, "second", at=2)
        store.put("document", bytes(100_000))
"""


@pytest.mark.parametrize(("point", "there"), [("store.before-commit", False), ("store.after-commit", True)])
def test_killed_around_a_commit(store: Store, point: str, there: bool) -> None:
    history.record(store, "first", at=1)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(store.path)], env={**os.environ, "FEDREC_FAULT_POINT": point}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    with Store(store.path) as again:
        assert history.counts(again).events == 1 + there
        assert again.get("document") == (bytes(100_000) if there else None)
        history.record(again, "third", at=3)
    assert history.counts(store).events == 2 + there


def test_a_writer_that_never_ends_is_told_after_a_while(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedrec.device.store.BUSY_SECONDS", 0.05)
    with Store(store.path) as other, store.transaction():
        with pytest.raises(DeviceError, match=r"Another process has kept '.*' busy for 0.05 s; do it again"):
            other.put("a", b"")
        assert other.names() == []  # readers do not wait


def test_a_full_disk_is_one_sentence_and_loses_nothing(store: Store) -> None:
    history.record(store, "kept", at=1)
    ((pages,),) = store.query("PRAGMA page_count")
    store.query(f"PRAGMA max_page_count = {pages + 3}")
    with pytest.raises(DeviceError, match="what it held is safe; free some space and do it again"):
        store.put("model", bytes(10**6))
    many = [history.Event(f"item-{number}") for number in range(10_000)]
    with pytest.raises(DeviceError, match="free some space"), store.transaction() as connection:
        history.insert(connection, many, "test")
    assert history.counts(store).events == 1
    store.query("PRAGMA max_page_count = 100000")
    store.put("model", bytes(10**6))
    assert history.record(store, "later", at=2)


LIMITED = """
import resource, sys
from pathlib import Path
from fedrec.device.store import Store
store = Store(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    store.put("model", bytes(10**6))
except ValueError as error:
    print(error)
"""


def test_a_file_that_may_not_grow_is_the_same(store: Store) -> None:
    store.put("small", b"x")
    done = subprocess.run([sys.executable, "-c", LIMITED, str(store.path)], capture_output=True, text=True, check=False)
    assert "Cannot write" in done.stdout, done.stderr
    assert "free some space and do it again" in done.stdout
    with Store(store.path) as again:
        assert again.names() == ["small"]


def test_what_is_erased_leaves_the_files(store: Store) -> None:
    private = "an-item-that-nobody-should-find"
    history.record(store, private, at=1)
    history.record(store, "other", at=1)
    assert any(private.encode() in path.read_bytes() for path in store.path.parent.iterdir())
    history.forget(store, private)
    assert not any(private.encode() in path.read_bytes() for path in store.path.parent.iterdir())


def test_a_place_that_is_taken_is_not_overwritten(store: Store) -> None:
    with pytest.raises(DeviceError, match=r"There is something at '.*' already"):
        Store.create(store.path)
    with pytest.raises(DeviceError, match="No such file or directory"):
        Store.create(store.path.parent / "nowhere" / "store.sqlite")


@pytest.mark.parametrize(("mode", "of_file"), [(0o640, True), (0o750, False)])
def test_a_store_that_others_can_reach_is_refused(store: Store, mode: int, of_file: bool) -> None:
    (store.path if of_file else store.path.parent).chmod(mode)
    with pytest.raises(DeviceError, match=r"Others on this machine can reach .*; run: chmod"):
        Store(store.path)
    store.path.parent.chmod(0o700)


def test_a_backup_is_one_private_file_with_all_of_it(store: Store, tmp_path: Path) -> None:
    history.record(store, "a", at=1)
    store.put("model", bytes(100_000))
    store.backup(tmp_path / "copy")
    history.record(store, "b", at=2)
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("copy")) == ["copy"]
    with pytest.raises(DeviceError, match="File exists; give another file"):
        store.backup(tmp_path / "copy")
    with Store(tmp_path / "copy") as copy:
        assert history.counts(copy).events == 1
        assert copy.get("model") == bytes(100_000)


NEXT = ("ALTER TABLE refusals ADD COLUMN seen INTEGER NOT NULL DEFAULT 0", "CREATE TABLE more (id INTEGER PRIMARY KEY)")


def test_an_older_store_is_brought_up_to_date_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.transaction() as connection:
        connection.execute("INSERT INTO refusals (at, code, detail) VALUES (1, 'hook', 'no')")
    migrations = (*schema.MIGRATIONS, NEXT)
    monkeypatch.setattr("fedrec.device.store.MIGRATIONS", migrations)
    for _ in range(2):
        with Store(store.path) as newer:
            assert newer.query("SELECT code, seen FROM refusals") == [("hook", 0)]
            assert newer.query("SELECT count(*) FROM more") == [(0,)]
            assert newer.query("PRAGMA user_version") == [(2,)]


def test_a_step_that_fails_leaves_the_older_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedrec.device.store.MIGRATIONS", (*schema.MIGRATIONS, (*NEXT, "CREATE TABLE more (id)")))
    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        Store(store.path)
    monkeypatch.undo()
    with Store(store.path) as same:
        assert same.query("SELECT name FROM sqlite_schema WHERE name = 'more'") == []


def test_a_newer_store_is_left_to_a_newer_fedrec(store: Store) -> None:
    with store.transaction() as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(DeviceError, match=r"written by a newer fedrec .*version 99, this one knows 1.*update fedrec"):
        Store(store.path)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text("ab-%_", min_size=1), st.binary(max_size=50), max_size=8), st.text("ab-%_", max_size=2))
def test_a_prefix_finds_just_its_names(documents: dict[str, bytes], prefix: str) -> None:
    with tempfile.TemporaryDirectory() as folder, Store.create(Path(folder) / "store.sqlite") as store:
        for name, value in documents.items():
            store.put(name, value)
        assert store.names(prefix) == sorted(name for name in documents if name.startswith(prefix))
        assert {name: store.get(name) for name in documents} == documents
