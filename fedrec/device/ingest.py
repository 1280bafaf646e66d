"""Import of what a user did elsewhere: a CSV, JSON Lines, Parquet or SQLite file, all of it or nothing."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedrec.data.items import Record, format_of, layout_of, records
from fedrec.data.text import located
from fedrec.device import catalogue, history
from fedrec.device.history import Event
from fedrec.device.store import Store
from fedrec.errors import DataError, did_you_mean

_SQLITE = {".sqlite", ".sqlite3", ".db"}


@dataclass(frozen=True)
class Mapping:
    """Which columns of a file hold what.

    Attributes:
        item: the item's id in the catalogue.
        time: seconds since 1970 or ISO 8601 (without a zone: UTC), or None: the events have no time.
        rating: a number, or None. A cell may be empty.
        table: of a SQLite file; None takes the only one.
        separator: of a CSV file; None takes the comma, or the tab for ``.tsv``.
    """

    item: str = "item_id"
    time: str | None = None
    rating: str | None = None
    table: str | None = None
    separator: str | None = None


@dataclass(frozen=True)
class Imported:
    """What came of an import.

    Attributes:
        new: events that the store did not hold.
        known: those that it held already, or that the file tells twice.
        unknown_items: items of the file that the device's catalogue does not hold; None without a catalogue. Their
            events are kept, and count once the catalogue learns them.
        unread: the file's columns that nobody has asked for.
    """

    new: int
    known: int
    unknown_items: int | None
    unread: tuple[str, ...] = ()


def import_file(store: Store, path: Path, mapping: Mapping, min_rating: float | None = None) -> Imported:
    """Take a file's events into the store; doing it again adds nothing.

    Args:
        store: the device's.
        path: the file; its suffix tells the format.
        mapping: its columns.
        min_rating: from which rating on an event is a positive; None leaves what was said before.

    Raises:
        DataError: naming file, line (in SQLite and Parquet: row) and column of the first thing that is wrong. The store
            is then as it was.
        DeviceError: if the store cannot be written.
    """
    events = list(read_events(path, mapping))
    if not events:
        raise DataError(f"{path} holds no data.")
    known = catalogue.load(store)
    unknown = None if known is None else len({event.item for event in events} - set(known[0].ids.tolist()))
    with store.transaction() as connection:
        new = history.insert(connection, events, f"import:{path.name}")
        if min_rating is not None:
            history.set_min_rating(store, min_rating)
    asked = (mapping.item, mapping.time, mapping.rating)
    _, first = next(_records(path, mapping))
    return Imported(new, len(events) - new, unknown, tuple(column for column in first if column not in asked))


def read_events(path: Path, mapping: Mapping) -> Iterator[Event]:
    """The events of a file, in its order.

    Raises:
        DataError: as of `import_file`.
    """
    for line, record in _records(path, mapping):
        item, time, rating = (
            _value(path, line, record, column) for column in (mapping.item, mapping.time, mapping.rating)
        )
        at = None if mapping.time is None else _seconds(path, line, mapping.time, time)
        stars = None if mapping.rating is None else _number(path, line, mapping.rating, rating)
        if isinstance(item, bool) or not isinstance(item, (str, int)):
            raise located(path, line, "an id is a text or a whole number.", mapping.item)
        try:
            yield Event(str(item), "seen", at, stars)
        except DataError as error:
            raise located(path, line, str(error)) from error


def _records(path: Path, mapping: Mapping) -> Iterator[tuple[int, Record]]:
    if path.suffix.lower() in _SQLITE:
        return _rows(path, mapping)
    if path.is_dir():
        raise DataError(f"'{path}' is a folder; give one file of it.")
    try:
        format_ = format_of(path)
    except DataError as error:
        raise DataError(
            f"{path}: the name does not tell the format; let it end in .csv, .tsv, .jsonl, .parquet or .sqlite."
        ) from error
    return records(path, format_, layout_of(path, format_, mapping.separator))


def _rows(path: Path, mapping: Mapping) -> Iterator[tuple[int, Record]]:
    """Each row's number and values of a table in another program's SQLite file, which is not written to."""
    if not path.is_file():
        raise DataError(f"There is no file {path}; check the path.")
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            connection.row_factory = sqlite3.Row
            table = _table(path, connection, mapping.table)
            for number, row in enumerate(connection.execute(f"SELECT * FROM {table}"), 1):  # noqa: S608 - quoted
                yield number, dict(row)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise DataError(f"Cannot read {path} as a SQLite file ({error}); check the file.") from error


def _table(path: Path, connection: sqlite3.Connection, wanted: str | None) -> str:
    """A table's name, quoted for SQL."""
    rows = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%'"
    )
    names = [row["name"] for row in rows]
    if wanted is None and len(names) != 1:
        raise DataError(f"{path} has {len(names)} tables; name one with --table. Known: {', '.join(sorted(names))}.")
    name = names[0] if wanted is None else wanted
    if name not in names:
        raise DataError(f"{path} has no table '{name}'. {did_you_mean(name, names)}")
    return '"' + name.replace('"', '""') + '"'


def _value(path: Path, line: int, record: Record, column: str | None) -> Any:
    """A cell, None where it is empty or nobody asks."""
    if column is None:
        return None
    if column not in record:
        raise located(path, line, f"there is no column '{column}'. {did_you_mean(column, record)}")
    value = record[column]
    return value.strip() or None if isinstance(value, str) else value


def _number(path: Path, line: int, column: str, value: Any) -> float | None:
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise located(path, line, f"'{str(value)[:40]}' is not a finite number.", column)
    return number


def _seconds(path: Path, line: int, column: str, value: Any) -> int | None:
    if isinstance(value, str):
        try:
            return seconds(value)
        except DataError as error:
            raise located(path, line, str(error), column) from error
    number = _number(path, line, column, _timestamp(value) if isinstance(value, datetime) else value)
    return None if number is None else math.floor(number)


def seconds(text: str) -> int:
    """Seconds since 1970 of a text that holds them, or a time in ISO 8601 (without a zone: UTC).

    Raises:
        DataError: for anything else.
    """
    try:
        return math.floor(float(text))
    except (ValueError, OverflowError):  # no number, or one that is not finite
        pass
    try:
        return math.floor(_timestamp(datetime.fromisoformat(text)))
    except (ValueError, OverflowError):
        example = "seconds since 1970, or a text such as 2024-05-01T20:15:00Z"
        raise DataError(f"'{text[:40]}' is no time; give {example}.") from None


def _timestamp(time: datetime) -> float:
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
