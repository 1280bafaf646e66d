"""Whom a device trusts, and the one line that tells it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from fedrec.agreements.statement import in_base64
from fedrec.device.trust import Invitation, Trust, raw
from fedrec.errors import DeviceError, UsageError

INVITATION = Invitation(
    server="fedrec.example:9443",
    ca="-----BEGIN CERTIFICATE-----\n…",
    request_key=in_base64(bytes(32)),
    registrar_key=in_base64(bytes([1]) * 32),
    ledger_key=in_base64(bytes([3]) * 32),
    app_key=in_base64(bytes([2]) * 32),
    app_key_id="fpk_00ff",
    token="t0ken",  # noqa: S106 - no secret
)
TRUST = Trust(**INVITATION.model_dump(exclude={"token"}), number=7, node_id="12345678901234567890")


def test_an_invitation_is_one_line_that_can_be_read_back() -> None:
    line = INVITATION.encoded()
    assert line.split() == [line]
    assert Invitation.decoded(f"  {line}\n") == INVITATION


@pytest.mark.parametrize("cut", [0, 1, 10, -1, -5, -100])
def test_a_part_of_an_invitation_is_none(cut: int) -> None:
    line = INVITATION.encoded()
    with pytest.raises(UsageError, match="copy the whole line"):
        Invitation.decoded(line[:cut])


@pytest.mark.parametrize("line", ["", "fedrec1-", "fedrec1-!!!!", "fedrec2-" + INVITATION.encoded()[8:], "hello", "é"])
def test_another_line_is_no_invitation(line: str) -> None:
    with pytest.raises(UsageError, match="not an invitation"):
        Invitation.decoded(line)


@pytest.mark.parametrize(
    "wrong",
    [
        {"server": "https://fedrec.example:9443"},
        {"server": "fedrec.example"},
        {"server": "fedrec.example:9443/path"},
        {"server": "user@fedrec.example:9443"},
        {"request_key": in_base64(bytes(31))},
        {"app_key": "not base64"},
        {"app_key_id": "fpk_a\n"},
        {"app_key_id": "other"},
    ],
)
def test_an_invitation_with_a_strange_value_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="not an invitation"):
        Invitation.decoded(Invitation.model_construct(**{**INVITATION.model_dump(), **wrong}).encoded())


def test_trust_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "trust.json"
    TRUST.save(path)
    assert Trust.load(path) == TRUST
    assert raw(Trust.load(path).app_key) == bytes([2]) * 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["trust.json"]


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff", TRUST.model_dump_json().replace('"number":7', '"number":-7').encode()]
)
def test_damaged_trust_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trust.json"
    with pytest.raises(DeviceError, match="enrol with"):
        Trust.load(path)
    path.write_bytes(content)
    with pytest.raises(DeviceError, match="is damaged"):
        Trust.load(path)
