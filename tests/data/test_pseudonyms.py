from __future__ import annotations

import hashlib
import hmac
import subprocess
import sys
from pathlib import Path

import pytest

from fedrec.data.pseudonyms import KEY_BYTES, key, pseudonyms
from fedrec.errors import DataError


def test_a_pseudonym_is_the_keyed_hmac_of_the_id() -> None:
    secret = b"k" * KEY_BYTES
    expected = hmac.new(secret, b"196", hashlib.sha256).hexdigest()[:16]
    assert pseudonyms([b"196"], secret).tolist() == [expected]
    assert pseudonyms([b"196"], b"l" * KEY_BYTES).tolist() != [expected]


def test_the_key_is_made_once_and_is_the_owners_alone(home: Path) -> None:
    first = key()
    file = home / "keys" / "pseudonym.key"
    assert key() == first == file.read_bytes()
    assert len(first) == KEY_BYTES
    assert file.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in file.parent.iterdir()] == ["pseudonym.key"]


def test_processes_that_start_together_agree_on_the_key() -> None:
    code = "from fedrec.data.pseudonyms import key; print(key().hex())"
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert len({process.communicate()[0] for process in started}) == 1


def test_a_damaged_or_open_key_is_refused(home: Path) -> None:
    key()
    file = home / "keys" / "pseudonym.key"
    file.chmod(0o644)
    with pytest.raises(DataError, match="is open to other users; run: chmod 600"):
        key()
    file.chmod(0o600)
    file.write_bytes(b"short")
    with pytest.raises(DataError, match="has 5 bytes where 32 are needed"):
        key()


def test_a_home_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FEDREC_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"Cannot write in .*; free some space there, or set FEDREC_HOME"):
        key()
