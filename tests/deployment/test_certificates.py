"""Certificates: what devices accept, and what they must not."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fedrec.deployment.certificates import (
    Pair,
    check_server,
    days_left,
    general_name,
    new_ca,
    new_server,
    read_certificate,
    today,
)
from fedrec.errors import ServerError

NOW = today()
CA = new_ca("here", NOW)


@pytest.mark.parametrize("name", ["fedrec.example.org", "localhost", "192.0.2.7", "2001:db8::7"])
def test_a_device_accepts_what_its_authority_signed_for_the_name(name: str) -> None:
    check_server(new_server(CA, [name], NOW), CA.certificate, name)


def test_a_device_accepts_nothing_else() -> None:
    server = new_server(CA, ["a.example"], NOW)
    with pytest.raises(ServerError, match=r"would not accept.*Hostname mismatch"):
        check_server(server, CA.certificate, "b.example")
    with pytest.raises(ServerError, match="would not accept"):
        check_server(server, new_ca("there", NOW).certificate, "a.example")
    past = NOW - timedelta(days=400)
    old = new_server(new_ca("here", past), ["a.example"], past)
    with pytest.raises(ServerError, match="would not accept"):
        check_server(old, CA.certificate, "a.example")
    ca = new_ca("here", past)
    with pytest.raises(ServerError, match="expired"):
        check_server(new_server(ca, ["a.example"], past), ca.certificate, "a.example")


def test_a_key_of_another_certificate_is_found() -> None:
    one, two = new_server(CA, ["a.example"], NOW), new_server(CA, ["a.example"], NOW)
    with pytest.raises(ServerError, match="do not fit together"):
        check_server(Pair(one.certificate, two.key), CA.certificate, "a.example")
    with pytest.raises(ServerError, match="do not fit together"):
        check_server(Pair(b"no certificate", two.key), CA.certificate, "a.example")


def test_the_authority_signs_servers_only() -> None:
    """A server's key makes no certificate that a device accepts: neither it nor a sub-authority is one."""
    ca = read_certificate(CA.certificate, "it")
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    server = new_server(CA, ["a.example"], NOW)
    forged = new_server(server, ["b.example"], NOW)
    chain = Pair(forged.certificate + server.certificate, forged.key)
    with pytest.raises(ServerError, match="would not accept"):
        check_server(chain, CA.certificate, "b.example")


def test_a_leaf_says_what_it_is_for() -> None:
    leaf = read_certificate(new_server(CA, ["a.example", "192.0.2.7"], NOW).certificate, "it")
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a.example"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7"]
    assert leaf.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign is False
    purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [purpose._name for purpose in purposes] == ["serverAuth"]
    assert leaf.serial_number.bit_length() > 100
    key = leaf.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)


def test_days_are_counted_and_a_leaf_ends_no_later_than_its_authority() -> None:
    assert 364.9 < days_left(new_server(CA, ["a.example"], NOW).certificate, NOW) <= 365
    short = new_ca("short", NOW, days=30)
    assert days_left(new_server(short, ["a.example"], NOW).certificate, NOW) <= 30
    assert days_left(short.certificate, NOW + timedelta(days=40)) < 0
    with pytest.raises(ServerError, match="authority has expired"):
        new_server(short, ["a.example"], NOW + timedelta(days=31))


@pytest.mark.parametrize("name", ["", "a b", "a..b", "-a.example", "*.example", "ä.example", "a" * 64, "a/b", "a:b"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ServerError, match="neither a host name nor an IP address"):
        general_name(name)


def test_damaged_files_are_told() -> None:
    with pytest.raises(ServerError, match="no PEM certificate"):
        days_left(b"nothing", NOW)
    with pytest.raises(ServerError, match="no unencrypted PEM key"):
        new_server(Pair(CA.certificate, b"nothing"), ["a.example"], NOW)
