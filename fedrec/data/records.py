"""JSON Lines and Parquet files, read by column."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.data.tabular import Columns, Kind, as_columns, cell
from fedrec.data.text import lines, located
from fedrec.errors import DataError, MissingExtraError, did_you_mean


def json_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every line's number and object; blank lines are left out.

    Raises:
        DataError: for a line that is no JSON object.
    """
    for number, line in enumerate(lines(path), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise located(path, number, f"this is not JSON ({error.msg} at place {error.colno}).") from error
        if not isinstance(value, dict):
            raise located(path, number, 'this is not a JSON object such as {"user_id": 1, "item_id": 2}.')
        yield number, value


def read_json_lines(path: Path, wanted: Mapping[str, Kind]) -> Columns:
    """The wanted keys of every line, as `fedrec.data.tabular.read` gives columns.

    Raises:
        DataError: naming line and key of the first thing that is wrong.
    """
    columns: dict[str, list[Any]] = {name: [] for name in wanted}
    for line, record in json_objects(path):
        for name, kind in wanted.items():
            columns[name].append(_json_cell(path, line, name, kind, record))
    return as_columns(path, columns)


def _json_cell(path: Path, line: int, name: str, kind: Kind, record: dict[str, Any]) -> bytes | float:
    if name not in record:
        raise located(path, line, f"there is no key '{name}'. {did_you_mean(name, record)}")
    value = record[name]
    allowed = (int, float) if kind == "number" else (int, str)
    if isinstance(value, bool) or not isinstance(value, allowed):
        needed = "a number" if kind == "number" else "a string or a whole number"
        raise located(path, line, f"{json.dumps(value)[:40]} where {needed} is needed.", name)
    return cell(path, line, name, kind, str(value))


def parquet_rows(path: Path) -> dict[str, list[Any]]:
    """Every column of a Parquet file as plain values, for small files.

    Raises:
        DataError: for a file that is not Parquet.
    """
    table = _parquet(path)
    return {name: table.column(name).to_pylist() for name in table.column_names}


def read_parquet(path: Path, wanted: Mapping[str, Kind]) -> Columns:
    """The wanted columns of a Parquet file, as `fedrec.data.tabular.read` gives them; "line" is the row, from 1.

    Raises:
        DataError: naming row and column of the first thing that is wrong.
    """
    table = _parquet(path)
    if table.num_rows == 0:
        raise DataError(f"{path} holds no data.")
    columns: Columns = {}
    for name, kind in wanted.items():
        if name not in table.column_names:
            raise DataError(f"{path} has no column '{name}'. {did_you_mean(name, table.column_names)}")
        columns[name] = _parquet_column(path, name, kind, table.column(name))
    return columns


def _parquet(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("Reading Parquet", "parquet") from error
    try:
        return pyarrow.parquet.read_table(path)
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}; check the path.") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a whole Parquet file: {str(error).splitlines()[0]}.") from error


def _parquet_column(path: Path, name: str, kind: Kind, column: Any) -> Any:
    import pyarrow

    if column.null_count:
        row = int(np.flatnonzero(np.asarray(column.is_null()))[0])
        raise located(path, row + 1, "the value is missing.", name)
    type_ = column.type
    if kind == "number":
        if pyarrow.types.is_timestamp(type_):
            return np.asarray(column.cast(pyarrow.timestamp("us")).cast(pyarrow.int64()), dtype=np.float64) / 1e6
        if not (pyarrow.types.is_integer(type_) or pyarrow.types.is_floating(type_)):
            raise located(path, 1, f"the column holds {type_} where numbers are needed.", name)
        values = np.asarray(column, dtype=np.float64)
        for row in np.flatnonzero(~np.isfinite(values))[:1]:
            raise located(path, int(row) + 1, f"{values[row]} is not a finite number.", name)
        return values
    if not (pyarrow.types.is_integer(type_) or pyarrow.types.is_string(type_) or pyarrow.types.is_large_string(type_)):
        raise located(path, 1, f"the column holds {type_} where ids (strings or whole numbers) are needed.", name)
    if pyarrow.types.is_integer(type_):
        values = np.asarray(column)
        width = max(len(str(values.min())), len(str(values.max())))
        return values.astype(f"S{width}")
    return np.array([cell(path, row, name, kind, value) for row, value in enumerate(column.to_pylist(), 1)])
