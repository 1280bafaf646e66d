"""A device's signature on what it fetches: for one server, one path, one number and one moment."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.agreements.access import NUMBER, SIGNATURE, TIME, WINDOW, access_headers, check_access
from fedrec.errors import AgreementError
from fedrec.secagg.crypto import new_signing_key

PRIVATE, PUBLIC = new_signing_key()
SERVER = bytes(range(32))
HEADERS = access_headers(PRIVATE, SERVER, 7, "/fedrec/v1/model", 1000.9)


def identity_of(number: int) -> bytes | None:
    return {7: PUBLIC, 8: new_signing_key()[1]}.get(number)


def check(headers: dict[str, str], server: bytes = SERVER, path: str = "/fedrec/v1/model", now: float = 1000) -> int:
    return check_access(headers, server, path, now, identity_of)


def test_a_device_is_known_by_what_it_signed() -> None:
    assert check(HEADERS) == 7
    assert check(HEADERS, now=1000 + WINDOW) == check(HEADERS, now=1000 - WINDOW) == 7


@pytest.mark.parametrize(
    ("headers", "server", "path", "now"),
    [
        (HEADERS, bytes(32), "/fedrec/v1/model", 1000),
        (HEADERS, SERVER, "/fedrec/v1/ledger", 1000),
        (HEADERS, SERVER, "/fedrec/v1/model", 1001 + WINDOW),
        (HEADERS, SERVER, "/fedrec/v1/model", 999 - WINDOW),
        ({**HEADERS, NUMBER: "8"}, SERVER, "/fedrec/v1/model", 1000),
        ({**HEADERS, NUMBER: "9"}, SERVER, "/fedrec/v1/model", 1000),
        ({**HEADERS, NUMBER: "-1"}, SERVER, "/fedrec/v1/model", 1000),
        ({**HEADERS, TIME: "1001"}, SERVER, "/fedrec/v1/model", 1000),
        ({**HEADERS, SIGNATURE: HEADERS[SIGNATURE][:-4]}, SERVER, "/fedrec/v1/model", 1000),
        ({NUMBER: "7"}, SERVER, "/fedrec/v1/model", 1000),
        ({}, SERVER, "/fedrec/v1/model", 1000),
    ],
)
def test_nothing_else_passes(headers: dict[str, str], server: bytes, path: str, now: float) -> None:
    with pytest.raises(AgreementError):
        check(headers, server, path, now)


@given(st.dictionaries(st.sampled_from([NUMBER, TIME, SIGNATURE]), st.text(max_size=100)))
def test_no_headers_at_all_do_worse_than_be_refused(headers: dict[str, str]) -> None:
    with pytest.raises(AgreementError):
        check(headers)
