"""Certificates of a server: a small authority of its own, what it issues, and whether a device would accept that.

X.509 version 3 as RFC 5280 profiles it: the authority may sign leaves only, a leaf may be a TLS server only, and its
name stands in the subject alternative name, where RFC 9525 has clients look.
"""

from __future__ import annotations

import ipaddress
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedrec.errors import ServerError

CA_DAYS = 3650
SERVER_DAYS = 365
_EARLIER = timedelta(hours=1)
"""A device's clock may be behind the server's."""


@dataclass(frozen=True, repr=False)
class Pair:
    """A certificate (with those that lead to its authority, if any) and its private key, both PEM."""

    certificate: bytes
    key: bytes


def new_ca(name: str, now: datetime, days: int = CA_DAYS) -> Pair:
    """An authority that can sign servers, and no further authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"fedrec CA of {name}"[:64])])
    usage = _usage(key_cert_sign=True, crl_sign=True)
    builder = (
        _builder(subject, subject, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return _pem(builder.sign(key, hashes.SHA256()), key)


def new_server(ca: Pair, names: Sequence[str], now: datetime, days: int = SERVER_DAYS) -> Pair:
    """A TLS server's certificate for DNS names and IP addresses, that ends no later than its authority's.

    Raises:
        ServerError: for a name that no certificate can carry, or an authority that is damaged or has expired.
    """
    authority = read_certificate(ca.certificate, "the authority's certificate")
    signer = _private_key(ca.key, "the authority's key")
    if authority.not_valid_after_utc <= now:
        raise ServerError("The server's authority has expired: make a new server folder and enrol its devices anew.")
    days = min(days, (authority.not_valid_after_utc - now).days)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    issuer_key = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _builder(subject, authority.subject, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([general_name(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key), critical=False)
    )
    return _pem(builder.sign(signer, hashes.SHA256()), key)


def general_name(name: str) -> x509.GeneralName:
    """An IP address or a DNS name, as a certificate has it.

    Raises:
        ServerError: if it is neither.
    """
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    labels = name.split(".")
    sound = all(0 < len(label) < 64 and label.replace("-", "a").isalnum() and label[0] != "-" for label in labels)
    if not (sound and name.isascii() and len(name) < 254):
        raise ServerError(f"'{name}' is neither a host name nor an IP address; give the one that devices connect to.")
    return x509.DNSName(name)


def days_left(certificate: bytes, now: datetime) -> float:
    """Days until a certificate ends; negative once it has."""
    return (read_certificate(certificate, "the certificate").not_valid_after_utc - now) / timedelta(days=1)


def read_certificate(pem: bytes, what: str) -> x509.Certificate:
    """The first certificate of a PEM text.

    Raises:
        ServerError: if there is none; ``what`` names it.
    """
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise ServerError(f"Cannot read {what}: it holds no PEM certificate.") from error


def check_server(server: Pair, ca: bytes, name: str) -> None:
    """Whether a device that trusts one authority alone would accept this server under this name, today.

    Raises:
        ServerError: with the reason that the device would have.
    """
    with tempfile.TemporaryDirectory(prefix="fedrec-") as folder:  # the ssl module reads files; this one is 0700
        files = Path(folder) / "chain.pem", Path(folder) / "key.pem"
        files[0].write_bytes(server.certificate)
        files[1].write_bytes(server.key)
        try:
            serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            serving.load_cert_chain(*files)
            asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            asking.load_verify_locations(cadata=ca.decode("ascii"))
            _handshake(serving, asking, name)
        except ssl.SSLCertVerificationError as error:
            raise ServerError(f"Devices would not accept the certificate: {error.verify_message}.") from error
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise ServerError(f"The certificate, its key and its authority do not fit together: {reason}.") from error


def _handshake(serving: ssl.SSLContext, asking: ssl.SSLContext, name: str) -> None:
    """A TLS handshake in memory, until the client has accepted the server."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = asking.wrap_bio(down, up, server_hostname=name)
    server = serving.wrap_bio(up, down, server_side=True)
    for _ in range(10):
        try:
            client.do_handshake()
        except ssl.SSLWantReadError:
            try:
                server.do_handshake()
            except ssl.SSLWantReadError:
                continue
        else:
            return
    raise ServerError("The handshake with the certificate does not end.")


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    return Pair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _private_key(pem: bytes, what: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise ServerError(f"Cannot read {what}: it holds no unencrypted PEM key.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ServerError(f"{what[0].upper()}{what[1:]} is not an elliptic-curve key.")
    return key


def today() -> datetime:
    """The time by the system's clock, in UTC."""
    return datetime.now(UTC)
