"""The registry: numbers are given once, tokens are used once, and rosters only go forward."""

from __future__ import annotations

import base64
import sqlite3
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedrec.agreements.enrolment import Enrolment
from fedrec.agreements.roster import sign_roster
from fedrec.deployment.registry import Registry
from fedrec.errors import AgreementError, Refusal, ServerError, UsageError
from fedrec.secagg.enrolment import Identity

KEY = Ed25519PrivateKey.generate()


def enrolment(token: str, name: int) -> Enrolment:
    """Of the device of a name; its node key is not looked at here."""
    member = IDENTITIES[name].member()
    return Enrolment(raw(token), member.identity, member.channel, bytes([name]) * 32, b"node key %d" % name)


def raw(token: str) -> bytes:
    return base64.urlsafe_b64decode(token + "=")


IDENTITIES = [Identity.generate() for _ in range(4)]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.create(tmp_path / "state.sqlite", KEY)


def test_a_token_is_kept_as_its_hash_alone(registry: Registry, tmp_path: Path) -> None:
    token = registry.new_token(0, 1.0, "for a friend")
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert token.encode() not in content
    assert raw(token) not in content
    assert registry.enrol(enrolment(token, 0), 0).note == "for a friend"


def test_a_device_is_what_it_enrolled_as(registry: Registry) -> None:
    device = registry.enrol(enrolment(registry.new_token(0, 1.0), 0), 10)
    assert (device.number, device.enrolled, device.revoked, device.node_id) == (1, 10, None, None)
    registry.note_node(1, "77")
    assert registry.devices() == registry.active() == [registry.device(1)] == [registry.of_node(b"node key 0")]


@pytest.mark.parametrize("hours", [0.0, -1.0, 1e9, float("inf"), float("nan")])
def test_a_token_lasts_for_some_time_and_not_for_ever(registry: Registry, hours: float) -> None:
    with pytest.raises(UsageError, match="more than 0 and at most 8760 hours"):
        registry.new_token(0, hours)


def test_a_token_ends_on_time(registry: Registry) -> None:
    token = registry.new_token(0, 1.0)
    with pytest.raises(Refusal, match="expired") as refused:
        registry.enrol(enrolment(token, 0), 3600)
    assert refused.value.code == "expired"
    device = registry.enrol(enrolment(token, 0), 3599)
    assert registry.enrol(enrolment(token, 0), 9999) == device  # it had enrolled in time


def test_a_revoked_device_is_nowhere_but_in_the_list(registry: Registry) -> None:
    registry.enrol(enrolment(registry.new_token(0, 1.0), 0), 0)
    registry.revoke(1, 5)
    assert registry.active() == []
    assert (registry.device(1), registry.of_node(b"node key 0")) == (None, None)
    assert [device.revoked for device in registry.devices()] == [5]
    with pytest.raises(ServerError, match="No device has the number 1"):
        registry.revoke(1, 6)
    with pytest.raises(Refusal, match="revoked"):
        registry.enrol(enrolment(registry.new_token(0, 1.0), 0), 0)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from(["enrol", "revoke", "roster"]), st.integers(0, 3)), max_size=9))
def test_numbers_and_versions_only_go_forward(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """Whatever happens in whatever order, the roster is that of the active devices, and new where it differs."""
    registry = Registry.create(tmp_path_factory.mktemp("registry") / "state.sqlite", KEY)
    seen: dict[int, bytes] = {}
    last = registry.roster()
    for step, name in steps:
        if step == "enrol":
            try:
                device = registry.enrol(enrolment(registry.new_token(0, 1.0), name), 0)
            except Refusal:
                continue
            assert seen.setdefault(device.number, device.identity) == device.identity
        elif step == "revoke":
            number = next((one.number for one in registry.active() if one.alias[0] == name), None)
            if number is not None:
                registry.revoke(number, 0)
        else:
            roster = registry.roster()
            assert dict(roster.members) == {device.number: device.member for device in registry.active()}
            assert roster.version >= last.version
            assert (roster.digest == last.digest) == (roster.version == last.version)
            last = roster


def test_a_roster_from_elsewhere_must_be_signed_and_a_step_ahead(tmp_path: Path) -> None:
    registry = Registry.create(tmp_path / "state.sqlite", KEY.public_key().public_bytes_raw())
    for name in (0, 1):
        registry.enrol(enrolment(registry.new_token(0, 1.0), name), 0)
    version, members = registry.proposed()
    assert (version, list(members)) == (1, [1, 2])
    with pytest.raises(AgreementError):
        registry.import_roster(sign_roster(1, members, Ed25519PrivateKey.generate()).text)
    signed = sign_roster(version, members, KEY)
    assert registry.import_roster(signed.text) == registry.roster() == signed
    with pytest.raises(ServerError, match="1 is in force"):
        registry.import_roster(signed.text)
    strange = {**members, 3: IDENTITIES[2].member()}
    with pytest.raises(ServerError, match="Device 3 of the roster is not enrolled"):
        registry.import_roster(sign_roster(2, strange, KEY).text)
    registry.revoke(2, 0)
    with pytest.raises(ServerError, match="Device 2 of the roster"):
        registry.import_roster(sign_roster(2, members, KEY).text)
    assert registry.proposed() == (2, {1: IDENTITIES[0].member()})


def test_another_program_s_file_or_a_newer_one_is_refused(tmp_path: Path, registry: Registry) -> None:
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE t (a)")
    connection.close()
    with pytest.raises(ServerError, match="not a registry"):
        Registry(other, KEY)
    with pytest.raises(ServerError, match="There is no registry"):
        Registry(tmp_path / "missing.sqlite", KEY)
    del registry
    with sqlite3.connect(tmp_path / "state.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ServerError, match="not a registry of version"):
        Registry(tmp_path / "state.sqlite", KEY)
    with pytest.raises(FileExistsError):
        Registry.create(tmp_path / "state.sqlite", KEY)


@pytest.mark.parametrize("left", [100, 5000])
def test_a_registry_that_is_cut_short_is_damaged_and_says_what_to_do(tmp_path: Path, left: int) -> None:
    path = tmp_path / "state.sqlite"
    Registry.create(path, KEY)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    for beside in tmp_path.glob("state.sqlite-*"):
        beside.unlink()
    with path.open("r+b") as file:
        file.truncate(left)
    with pytest.raises(ServerError, match="is damaged; restore it from a backup"):
        Registry(path, KEY)
