"""Text files by blocks of whole lines, plain or gzip, and the one form of an error that points into a file."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

from fedrec.errors import DataError

BLOCK = 1 << 23
"""Bytes read at once."""

MAX_LINE = 1 << 26
"""Bytes; a longer line means that the file is not a table of lines."""


def located(path: Path, line: int, what: str, column: str | None = None) -> DataError:
    """An error that names the file, the line (from 1) and, where it is known, the column."""
    where = f"{path}, line {line}" + (f", column '{column}'" if column is not None else "")
    return DataError(f"{where}: {what}")


def blocks(path: Path) -> Iterator[bytes]:
    """The file's bytes in blocks that end with a line; the last line gets its end if it lacks one.

    Raises:
        DataError: the file is missing, unreadable, or a damaged or truncated gzip file.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            rest = b""
            while part := file.read(BLOCK):
                whole = rest + part
                cut = whole.rfind(b"\n") + 1
                rest = whole[cut:]
                if len(rest) > MAX_LINE:
                    raise DataError(f"{path} has a line of more than {MAX_LINE >> 20} MiB: it is not a table of lines.")
                if cut:
                    yield whole[:cut]
            if rest:
                yield rest + b"\n"
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}; check the path.") from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder where a file is needed.") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a damaged or truncated gzip file ({error}); get it again.") from error
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error


def decode(block: bytes, encoding: str, path: Path, line: int) -> str:
    """A block as text; ``line`` is the number of its first line.

    Raises:
        DataError: for bytes that are not text of this encoding, naming the line.
    """
    nul = block.find(b"\0")
    if nul >= 0:
        raise located(path, line + block.count(b"\n", 0, nul), "a NUL byte, so this is not a text file.")
    try:
        return block.decode(encoding)
    except UnicodeDecodeError as error:
        at = line + block.count(b"\n", 0, error.start)
        place = error.start - block.rfind(b"\n", 0, error.start)
        byte = f"byte 0x{block[error.start]:02x} at place {place} of the line"
        raise located(path, at, f"{byte} is not {encoding.upper()}; save the file as {encoding.upper()}.") from error


def lines(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    """The file's lines with their ends, decoded; a byte order mark is dropped."""
    number = 1
    for block in blocks(path):
        text = decode(block, encoding, path, number)
        yield from io.StringIO(text.removeprefix("\ufeff") if number == 1 else text)
        number += block.count(b"\n")
