"""Where secrets are kept: by their owner alone, whole or not at all, and gone when they are over."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.errors import UsageError
from fedrec.secagg import messages
from fedrec.secagg.messages import Attempt, Phase
from fedrec.secagg.records import Records
from fedrec.secagg.session import Variant
from fedrec.secagg.store import FolderStore, MemoryStore, Store
from tests.secagg.world import RUN, World, both_variants, refused, request


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else FolderStore(tmp_path / "store")


def test_it_keeps_values_by_key_until_they_are_erased(store: Store) -> None:
    assert store.get("a") is None
    with store.lock():
        store.put("a", b"one")
        store.put("b", b"")
        store.put("a", b"two")
    assert (store.get("a"), store.get("b"), store.names()) == (b"two", b"", ["a", "b"])
    with store.lock():
        store.erase("a")
        store.erase("a")
    assert (store.get("a"), store.names()) == (None, ["b"])


def test_only_the_owner_can_read_a_folder(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "deep" / "store")
    with store.lock():
        store.put("key", b"secret")
    assert stat.S_IMODE((tmp_path / "deep" / "store").stat().st_mode) == 0o700
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in (tmp_path / "deep" / "store").iterdir())
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(UsageError, match="chmod 700"):
        FolderStore(tmp_path / "open")


def test_what_is_erased_or_replaced_is_overwritten_first(tmp_path: Path) -> None:
    """A second name for the file shows what is left in its blocks."""
    store = FolderStore(tmp_path / "store")
    for change in ("erase", "put"):
        store.put("key", b"secret")
        os.link(tmp_path / "store" / "key", tmp_path / change)
        if change == "erase":
            store.erase("key")
        else:
            store.put("key", b"new")
        assert (tmp_path / change).read_bytes() == bytes(6)
    assert store.get("key") == b"new"


def test_a_crash_within_a_change_leaves_the_old_value_and_no_secret(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    store.put("key", b"old")
    (tmp_path / "store" / ".side-key").write_bytes(b"secret")
    os.link(tmp_path / "store" / ".side-key", tmp_path / "witness")
    assert store.names() == ["key"]
    with store.lock():
        assert store.get("key") == b"old"
    assert (tmp_path / "witness").read_bytes() == bytes(6)
    assert sorted(file.name for file in (tmp_path / "store").iterdir()) == [".lock", "key"]


@pytest.mark.parametrize("key", ["", "A", "../a", "a/b", ".side-a", "a" * 129])
def test_a_key_that_is_no_file_name_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(UsageError, match="cannot be a key"):
        FolderStore(tmp_path / "store").put(key, b"")


def test_another_process_waits_for_the_lock(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    script = (
        "import sys; from pathlib import Path; from fedrec.secagg.store import FolderStore\n"
        "store = FolderStore(Path(sys.argv[1]))\n"
        "print('ready', flush=True)\n"
        "with store.lock(): store.put('key', b'theirs')\n"
    )
    with store.lock():
        other = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "store")], stdout=subprocess.PIPE)
        assert other.stdout
        assert other.stdout.readline() == b"ready\n"
        time.sleep(0.2)
        assert other.poll() is None
        store.put("key", b"ours")
    other.communicate()
    assert other.returncode == 0
    assert store.get("key") == b"theirs"


@both_variants
def test_after_the_round_its_secrets_are_nowhere_in_the_folder(tmp_path: Path, variant: Variant) -> None:
    """Every 16 bytes of every secret of the attempt are looked for in every file; the used attempt stays."""
    folder = tmp_path / "store"
    world = World(5, variant=variant, stores=[FolderStore(folder), *(MemoryStore() for _ in range(4))])
    records, attempt = Records(world.stores[0], RUN), Attempt(1, 0)
    server = world.until(Phase.SHARES)
    own = records.advert()
    assert own
    world.step(server)
    begun = records.progress(attempt, Phase.SHARES)
    server.advance()
    world.step(server)
    masked = records.progress(attempt, Phase.MASKED)
    assert not masked.own + masked.seeds + masked.keys  # needed no more, so gone already
    server.advance()
    world.until(Phase.UNMASK, server)
    world.step(server)
    secrets = [own.mask, own.channel, begun.own, begun.seeds, begun.keys, masked.held]
    left = b"".join(file.read_bytes() for file in folder.iterdir())
    pieces = [secret[i : i + 16] for secret in secrets for i in range(0, len(secret) - 15, 16)]
    assert len(pieces) > 30
    assert not [piece for piece in pieces if piece in left]
    wanted = {f"used-{RUN.hex()}", *({f"seen-{RUN.hex()}"} if variant == "signed" else {"channels"})}
    assert set(world.stores[0].names()) == wanted
    assert world.stores[0].get(f"used-{RUN.hex()}") == messages.numbers(attempt)


@both_variants
@pytest.mark.parametrize("phase", list(Phase)[1:])
def test_a_device_that_drops_out_forgets_at_the_next_attempt_or_when_told(phase: Phase, variant: Variant) -> None:
    for told in (True, False):
        world = World(5, t=3, variant=variant)
        server = world.until(phase)
        world.step(server, without=(0,))
        if told:
            world.reborn(0).forget()
            assert not [key for key in world.stores[0].names() if key.startswith(("attempt-", "advert-"))]
            continue
        world.reborn(0).advert(request(Phase.ADVERT, attempt=Attempt(2, 0)))
        assert not [key for key in world.stores[0].names() if key.startswith("attempt-")]
        with refused("late, early or repeated|no advert|used"):
            world.answer(phase, 0, server.routes[0])


def test_the_used_attempt_survives_everything_the_device_is_told(store: Store) -> None:
    world = World(4, stores=[store, *(MemoryStore() for _ in range(3))])
    world.step(world.until(Phase.SHARES, world.server(Attempt(3, 2))))
    world.reborn(0).forget()
    for attempt in (Attempt(3, 2), Attempt(3, 1), Attempt(1, 9)):
        with refused("has used round 3, attempt 2"):
            world.reborn(0).advert(request(Phase.ADVERT, attempt=attempt))
    world.reborn(0).advert(request(Phase.ADVERT, attempt=Attempt(3, 3)))


class Failing(MemoryStore):
    """Loses power at the nth change."""

    def __init__(self, inner: Store, changes: int) -> None:
        super().__init__()
        self._values = {key: inner.get(key) or b"" for key in inner.names()}
        self._left = changes

    def _change(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise OSError("power lost")

    def put(self, key: str, value: bytes) -> None:
        self._change()
        super().put(key, value)

    def erase(self, key: str) -> None:
        self._change()
        super().erase(key)


@both_variants
@pytest.mark.parametrize("phase", Phase)
def test_no_crash_within_a_message_lets_it_be_answered_again(phase: Phase, variant: Variant) -> None:
    """Power is lost at each change of the store in turn. What was answered is over; what was not, may be over too."""
    for changes in range(1, 9):
        world = World(4, variant=variant)
        server = world.until(phase, world.server(following=Attempt(2, 0)))
        world.stores[0] = Failing(world.stores[0], changes)
        try:
            world.answer(phase, 0, server.routes[0])
        except OSError:
            with contextlib.suppress(messages.ProtocolError):
                world.answer(phase, 0, server.routes[0])
            if phase is not Phase.ADVERT:
                with refused("late, early or repeated|no advert|used"):
                    world.answer(phase, 0, server.routes[0])
            continue
        assert changes > 1
        return
    raise AssertionError("the message never came through")


@given(st.binary(max_size=300))
def test_a_damaged_record_is_refused_and_not_guessed_at(garbage: bytes) -> None:
    store = MemoryStore()
    store.put(f"attempt-{RUN.hex()}", garbage)
    with refused("a record|A record|late, early or repeated"):
        Records(store, RUN).progress(Attempt(1, 0), Phase.SHARES)
