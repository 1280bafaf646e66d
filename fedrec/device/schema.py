"""The tables of a device's store, as the steps that lead from one version of them to the next."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

APPLICATION_ID = 0x66726463
"""In the header of every store (the letters ``frdc``): another program's SQLite file has another number or none."""

Migration = Sequence[str]
"""The statements that make version n + 1 of version n. One that was released never changes."""

MIGRATIONS: tuple[Migration, ...] = (
    (
        """CREATE TABLE interactions (
            id INTEGER PRIMARY KEY,
            item TEXT NOT NULL,
            at INTEGER,
            kind TEXT NOT NULL CHECK (kind IN ('seen', 'liked', 'skipped', 'hidden')),
            rating REAL,
            source TEXT NOT NULL
        ) STRICT""",
        # An event is one however often it is told; NULLs would differ from each other.
        "CREATE UNIQUE INDEX interactions_once ON interactions (item, kind, ifnull(at, ''))",
        """CREATE TABLE documents (
            name TEXT PRIMARY KEY,
            value BLOB NOT NULL,
            sha256 BLOB NOT NULL,
            updated INTEGER NOT NULL
        ) STRICT""",
        """CREATE TABLE charges (
            experiment TEXT NOT NULL,
            round INTEGER NOT NULL,
            attempt INTEGER NOT NULL,
            at INTEGER NOT NULL,
            day TEXT NOT NULL,
            release TEXT NOT NULL,
            mechanism TEXT NOT NULL,
            events TEXT NOT NULL,
            cohort INTEGER NOT NULL,
            chain BLOB NOT NULL,
            PRIMARY KEY (experiment, round, attempt)
        ) STRICT""",
        """CREATE TABLE answers (
            experiment TEXT NOT NULL,
            round INTEGER NOT NULL,
            attempt INTEGER NOT NULL,
            phase TEXT NOT NULL,
            request BLOB NOT NULL,
            reply BLOB NOT NULL,
            PRIMARY KEY (experiment, round, attempt, phase)
        ) STRICT""",
        """CREATE TABLE refusals (
            id INTEGER PRIMARY KEY,
            at INTEGER NOT NULL,
            experiment TEXT,
            round INTEGER,
            attempt INTEGER,
            phase TEXT,
            code TEXT NOT NULL,
            detail TEXT NOT NULL
        ) STRICT""",
    ),
)


def identify(connection: sqlite3.Connection) -> tuple[int, int]:
    """The application id and the version of the tables that a file says it has."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(application), int(version)


def migrate(connection: sqlite3.Connection, version: int, migrations: Sequence[Migration]) -> None:
    """Take the tables from a version to the newest, inside the caller's transaction: all the way or not at all."""
    for migration in migrations[version:]:
        for statement in migration:
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(migrations)}")
