"""Who may take part: one-time tokens, enrolled devices, and the signed rosters that devices hold each other to."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedrec.agreements.enrolment import TOKEN_BYTES, Enrolment
from fedrec.agreements.roster import SignedRoster, read_roster, sign_roster
from fedrec.errors import Refusal, ServerError, UsageError
from fedrec.secagg.session import Member

APPLICATION = 0x66726563  # "frec"
SCHEMA = 1
MOST_HOURS = 24 * 365
"""For which a token may be good."""

_TABLES = """
CREATE TABLE devices (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    identity BLOB NOT NULL UNIQUE,
    channel BLOB NOT NULL UNIQUE,
    alias BLOB NOT NULL UNIQUE,
    node_key BLOB NOT NULL UNIQUE,
    note TEXT NOT NULL,
    node_id TEXT,
    enrolled INTEGER NOT NULL,
    revoked INTEGER
) STRICT;
CREATE TABLE tokens (
    hash BLOB PRIMARY KEY,
    expires INTEGER NOT NULL,
    note TEXT NOT NULL,
    device INTEGER REFERENCES devices (number)
) STRICT;
CREATE TABLE rosters (version INTEGER PRIMARY KEY, text BLOB NOT NULL) STRICT;
"""


@dataclass(frozen=True, repr=False)
class Device:
    """An enrolled device.

    Attributes:
        number: its number in every cohort; never given twice.
        identity, channel: its public keys in secure aggregation, 32 bytes each.
        alias: 32 bytes from which its pseudonym of each run is made; known to it and to the server.
        node_key: its public key for Flower, as PEM.
        note: what its token was for.
        node_id: what Flower calls it; None until Flower knows it.
        enrolled, revoked: when, in unix seconds; None while it is not revoked.
    """

    number: int
    identity: bytes
    channel: bytes
    alias: bytes
    node_key: bytes
    note: str
    node_id: str | None
    enrolled: int
    revoked: int | None

    @property
    def member(self) -> Member:
        return Member(self.identity, self.channel)


class Registry:
    """One SQLite file, mode 0600, that several processes may use at once.

    Guarantees:
        A token enrols one device, whatever requests run at once. Of a token only its SHA-256 is kept. A number is
        never given to another device, and a roster's version grows with every change of its members.

    Args:
        path: the file, made by `create`.
        registrar: the key that signs rosters, or only its public half (32 bytes) where it is kept elsewhere.

    Raises:
        ServerError: if the file is missing, damaged or not a registry of this version.
    """

    def __init__(self, path: Path, registrar: Ed25519PrivateKey | bytes) -> None:
        self._path = path
        self._registrar = registrar
        self._lock = threading.Lock()
        if not path.is_file():
            raise ServerError(f"There is no registry '{path}'; restore it from a backup.")
        self._open = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)
        with self._connection() as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            found = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
            if found != [APPLICATION, SCHEMA]:
                raise ServerError(f"'{path}' is not a registry of version {SCHEMA}; restore it from a backup.")
            if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise ServerError(f"The registry '{path}' is damaged; restore it from a backup.")

    @classmethod
    def create(cls, path: Path, registrar: Ed25519PrivateKey | bytes) -> Registry:
        """A new, empty one."""
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))  # SQLite gives its other files this mode
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(
                f"BEGIN; {_TABLES} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {SCHEMA}; COMMIT;"
            )
        return cls(path, registrar)

    # Tokens

    def new_token(self, now: int, hours: float, note: str = "") -> str:
        """A one-time token, base64url; it is not kept and cannot be shown again.

        Raises:
            UsageError: if it is to last for no time, or for more than `MOST_HOURS`.
        """
        if not 0 < hours <= MOST_HOURS:
            raise UsageError(f"A token lasts for more than 0 and at most {MOST_HOURS} hours, not {hours:g}.")
        token = secrets.token_bytes(TOKEN_BYTES)
        with self._transaction() as connection:
            values = (_hash(token), now + int(hours * 3600), note)
            connection.execute("INSERT INTO tokens (hash, expires, note) VALUES (?, ?, ?)", values)
        return base64.urlsafe_b64encode(token).decode("ascii").rstrip("=")

    # Devices

    def enrol(self, enrolment: Enrolment, now: int) -> Device:
        """Enrol a device; the same keys with the same token, or with another good one, are the same device again.

        Raises:
            Refusal: with code ``unknown``, ``used`` or ``expired`` (the token), ``keys`` (some of the keys are another
                device's) or ``revoked``.
        """
        with self._transaction() as connection:
            found = connection.execute(
                "SELECT expires, note, device FROM tokens WHERE hash = ?", (_hash(enrolment.token),)
            ).fetchone()
            if found is None:
                raise Refusal("unknown", "The server does not know this token; ask its operator for another one.")
            expires, note, used_by = found
            known = self._known(connection, enrolment)
            if used_by is not None and (known is None or known.number != used_by):
                raise Refusal("used", "The token has enrolled another device; ask the server's operator for another.")
            if known is not None and known.revoked is not None:
                raise Refusal("revoked", "The device has been revoked; make a new device folder to enrol it anew.")
            if used_by is not None and known is not None:
                return known
            if expires <= now:
                raise Refusal("expired", "The token has expired; ask the server's operator for another one.")
            device = known or self._insert(connection, enrolment, note, now)
            used = (device.number, _hash(enrolment.token))
            connection.execute("UPDATE tokens SET device = ? WHERE hash = ?", used)
        return device

    def revoke(self, number: int, now: int) -> Device:
        """Shut a device out: it leaves the next roster, and the gateway turns it away from now on.

        Raises:
            ServerError: if there is no such device, or it has been revoked.
        """
        with self._transaction() as connection:
            changed = connection.execute(
                "UPDATE devices SET revoked = ? WHERE number = ? AND revoked IS NULL", (now, number)
            ).rowcount
        if not changed:
            raise ServerError(f"No device has the number {number}, or it is revoked already; see: fedrec server nodes.")
        return next(device for device in self.devices() if device.number == number)

    def note_node(self, number: int, node_id: str | None) -> None:
        """Keep what Flower calls a device, or that it knows it no more."""
        with self._transaction() as connection:
            connection.execute("UPDATE devices SET node_id = ? WHERE number = ?", (node_id, number))

    def devices(self) -> list[Device]:
        """All that ever enrolled, by number."""
        return self._devices()

    def active(self) -> list[Device]:
        """Those that are not revoked, by number."""
        return self._devices(_ACTIVE)

    def device(self, number: int) -> Device | None:
        """The device of a number that is not revoked."""
        return next(iter(self._devices(f"{_ACTIVE} AND number = ?", (number,))), None)

    def of_node(self, node_key: bytes) -> Device | None:
        """The device with this key for Flower, if it is not revoked."""
        return next(iter(self._devices(f"{_ACTIVE} AND node_key = ?", (node_key,))), None)

    # Rosters

    def roster(self) -> SignedRoster:
        """The roster in force: signed here and now if the members have changed, or the last that was imported.

        Raises:
            ServerError: if the registrar's key is kept elsewhere and no roster has been imported.
        """
        with self._transaction() as connection:
            last = self._last(connection)
            if isinstance(self._registrar, bytes):
                if last is None:
                    raise ServerError(
                        "There is no roster yet: sign that of 'fedrec server roster-export' and import it."
                    )
                return last
            members = _members(connection)
            if last is not None and dict(last.members) == members:
                return last
            roster = sign_roster(last.version + 1 if last else 1, members, self._registrar)
            connection.execute("INSERT INTO rosters VALUES (?, ?)", (roster.version, roster.text))
        return roster

    def proposed(self) -> tuple[int, Mapping[int, Member]]:
        """Version and members of the roster that is due, for a registrar elsewhere to sign."""
        with self._transaction() as connection:
            last = self._last(connection)
            members = _members(connection)
        return (last.version + 1 if last else 1), members

    def import_roster(self, text: bytes) -> SignedRoster:
        """Put a roster in force that the registrar signed elsewhere.

        Raises:
            AgreementError: if it is not signed by the registrar.
            ServerError: if its version is no step ahead, or a member is not an enrolled device with these keys.
        """
        roster = read_roster(text, self.registrar_public)
        with self._transaction() as connection:
            last = self._last(connection)
            if last is not None and roster.version <= last.version:
                raise ServerError(
                    f"The roster has version {roster.version}, and {last.version} is in force; export and sign it anew."
                )
            members = _members(connection)
            strange = [number for number, member in roster.members.items() if members.get(number) != member]
            if strange:
                raise ServerError(
                    f"Device {strange[0]} of the roster is not enrolled with these keys, or is revoked; export it anew."
                )
            connection.execute("INSERT INTO rosters VALUES (?, ?)", (roster.version, roster.text))
        return roster

    @property
    def registrar_public(self) -> bytes:
        """The key that devices check rosters with, 32 bytes."""
        if isinstance(self._registrar, bytes):
            return self._registrar
        return self._registrar.public_key().public_bytes_raw()

    def _last(self, connection: sqlite3.Connection) -> SignedRoster | None:
        row = connection.execute("SELECT text FROM rosters ORDER BY version DESC LIMIT 1").fetchone()
        return None if row is None else read_roster(row[0], self.registrar_public)

    def _known(self, connection: sqlite3.Connection, enrolment: Enrolment) -> Device | None:
        """The device that has all of these keys; refused if another has some of them."""
        keys = (enrolment.identity, enrolment.channel, enrolment.alias, enrolment.node_key)
        clash = "identity IN (?1, ?2) OR channel IN (?1, ?2) OR alias = ?3 OR node_key = ?4"
        rows = connection.execute(f"{_SELECT} WHERE {clash}", keys).fetchall()
        if not rows:
            return None
        device = Device(*rows[0])
        if len(rows) > 1 or (device.identity, device.channel, device.alias, device.node_key) != keys:
            raise Refusal("keys", "Some of the device's keys are enrolled under another number; make a new folder.")
        return device

    @staticmethod
    def _insert(connection: sqlite3.Connection, enrolment: Enrolment, note: str, now: int) -> Device:
        keys = (enrolment.identity, enrolment.channel, enrolment.alias, enrolment.node_key)
        number = connection.execute(
            "INSERT INTO devices (identity, channel, alias, node_key, note, enrolled) VALUES (?, ?, ?, ?, ?, ?)",
            (*keys, note, now),
        ).lastrowid
        return Device(number or 0, *keys, note, None, now, None)

    def _devices(self, where: str = "", values: tuple[int | bytes, ...] = ()) -> list[Device]:
        with self._connection() as connection:
            return _select(connection, where, values)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._open
            except sqlite3.Error as error:
                damaged = type(error) is sqlite3.DatabaseError  # its subclasses tell of other trouble
                what = "is damaged; restore it from a backup" if damaged else "does not answer"
                raise ServerError(f"The registry '{self._path}' {what}: {error}.") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                if connection.in_transaction:  # a full disk has rolled it back already
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")


_SELECT = "SELECT number, identity, channel, alias, node_key, note, node_id, enrolled, revoked FROM devices"

_ACTIVE = "WHERE revoked IS NULL"


def _select(connection: sqlite3.Connection, where: str, values: tuple[int | bytes, ...] = ()) -> list[Device]:
    rows = connection.execute(f"{_SELECT} {where} ORDER BY number", values).fetchall()
    return [Device(*row) for row in rows]


def _members(connection: sqlite3.Connection) -> dict[int, Member]:
    return {device.number: device.member for device in _select(connection, _ACTIVE)}


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
