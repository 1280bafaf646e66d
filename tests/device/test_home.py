"""A device's folder: its owner's alone, there whole or not at all, with keys of which each serves one purpose."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from fedrec.device.home import DeviceHome
from fedrec.device.policy import load_policy
from fedrec.device.supernode import SuperNode
from fedrec.errors import DeviceError
from fedrec.secagg import crypto
from tests.device.fleet import Fleet


@pytest.fixture
def made(tmp_path: Path) -> DeviceHome:
    return DeviceHome.create(tmp_path / "device")


def test_nobody_else_can_reach_anything(tmp_path: Path) -> None:
    before = os.umask(0)  # even where everything new is open to everyone
    try:
        home = DeviceHome.create(tmp_path / "device")
        with home.open_store() as store:
            store.put("catalogue", b"public")
            modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (home.root, *home.root.rglob("*"))}
    finally:
        os.umask(before)
    assert {"store.sqlite-wal", "store.sqlite-shm"} <= {path.name for path in modes}
    assert {path: mode for path, mode in modes.items() if mode != (0o700 if path.is_dir() else 0o600)} == {}


def test_every_key_is_its_own(made: DeviceHome, tmp_path: Path) -> None:
    other = DeviceHome.create(tmp_path / "other")
    values = [
        value
        for home in (made, other)
        for value in (home.identity().signing, home.identity().channel, home.secret(), home.alias())
    ]
    assert [len(value) for value in values] == [32] * 8
    assert len(set(values)) == 8
    assert len(crypto.signing_public(made.identity().signing)) == 32


def test_the_node_s_keys_are_in_the_forms_that_flower_reads(made: DeviceHome) -> None:
    private = load_ssh_private_key(made.node_key.read_bytes(), None)
    public = load_ssh_public_key(made.node_public_key.read_bytes())
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert private.curve.name == "secp384r1"
    assert private.public_key() == public


def test_a_new_device_takes_part_in_nothing_and_trusts_nobody(made: DeviceHome) -> None:
    assert not load_policy(made.policy_path).opt_in
    assert made.trust() is None
    assert DeviceHome.open(made.root) == made


def test_an_empty_folder_is_taken_and_made_private(tmp_path: Path) -> None:
    (tmp_path / "device").mkdir(mode=0o755)
    home = DeviceHome.create(tmp_path / "device")
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700


def test_a_second_device_does_not_replace_the_first(made: DeviceHome) -> None:
    secret = made.secret()
    with pytest.raises(DeviceError, match="holds something already; give an empty or new folder with --home"):
        DeviceHome.create(made.root)
    assert made.secret() == secret


def test_a_file_in_its_place_stays(tmp_path: Path) -> None:
    (tmp_path / "device").write_text("mine")
    with pytest.raises(DeviceError, match="holds something already"):
        DeviceHome.create(tmp_path / "device")
    assert (tmp_path / "device").read_text() == "mine"


def test_what_fails_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("fedrec.device.store.Store.create", fail)
    with pytest.raises(ValueError, match="No space left on device"):
        DeviceHome.create(tmp_path / "device")
    assert not list(tmp_path.iterdir())


def test_there_is_no_device_where_none_was_made(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"There is no device in .*; make one with 'fedrec device init --home DIR'"):
        DeviceHome.open(tmp_path)


@pytest.mark.parametrize("part", [".", "keys"])
def test_a_folder_that_others_can_reach_is_refused(made: DeviceHome, part: str) -> None:
    (made.root / part).chmod(0o750)
    with pytest.raises(DeviceError, match=r"Others on this machine can reach .*; run: chmod 700"):
        DeviceHome.open(made.root)


def test_a_key_that_others_can_read_is_refused(made: DeviceHome) -> None:
    (made.keys / "secret").chmod(0o644)
    with pytest.raises(DeviceError, match=r"Others on this machine can reach .*secret'; run: chmod 600"):
        made.secret()


def test_a_lost_or_damaged_key_is_said_and_not_made_anew(made: DeviceHome) -> None:
    (made.keys / "alias").unlink()
    with pytest.raises(DeviceError, match=r"Cannot read the key .*alias'"):
        made.alias()
    (made.keys / "identity").write_bytes(bytes(63))
    with pytest.raises(DeviceError, match=r"identity' has 63 bytes instead of 64"):
        made.identity()
    assert not (made.keys / "alias").exists()


def test_a_mount_point_is_refused_with_a_folder_to_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "disk")
    with pytest.raises(DeviceError, match=r"is a mount point; give a new folder in it: --home '.*disk/device'"):
        DeviceHome.create(tmp_path / "disk")
    DeviceHome.create(tmp_path / "disk" / "device")


def test_no_device_runs_where_its_own_programs_may_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's own programs would be found in their place, and they unpack what a server sends."""
    fleet = Fleet(tmp_path, n=1)
    trust = fleet.homes[1].trust()
    assert trust is not None
    genuine = os.statvfs(tmp_path)

    class NoExec:
        f_flag = genuine.f_flag | os.ST_NOEXEC

    monkeypatch.setattr(os, "statvfs", lambda _: NoExec)
    with pytest.raises(DeviceError, match=r"where no program may run \(mounted noexec\); keep the device elsewhere"):
        SuperNode(fleet.homes[1], trust)
