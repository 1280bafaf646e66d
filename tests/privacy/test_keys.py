"""The signing key: made once, for the owner's eyes only."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from fedrec.errors import LedgerError
from fedrec.privacy.keys import signing_key


def test_the_key_is_made_once_and_reused(tmp_path: Path) -> None:
    first, second = signing_key(tmp_path), signing_key(tmp_path)
    assert first.private_bytes_raw() == second.private_bytes_raw()
    assert signing_key(tmp_path / "elsewhere").private_bytes_raw() != first.private_bytes_raw()


def test_only_the_owner_can_read_the_key(tmp_path: Path) -> None:
    signing_key(tmp_path)
    file = tmp_path / "keys" / "ledger.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [entry.name for entry in file.parent.iterdir()] == ["ledger.key"]


def test_a_file_that_holds_no_key_is_refused_by_name(tmp_path: Path) -> None:
    signing_key(tmp_path)
    file = tmp_path / "keys" / "ledger.key"
    file.write_bytes(b"not a key")
    with pytest.raises(LedgerError, match=r"ledger\.key"):
        signing_key(tmp_path)
