"""The folder where fedrec keeps downloads and keys, and the two ways in which a file gets there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedrec.errors import DataError


def home() -> Path:
    """``$FEDREC_HOME``, or ``~/.fedrec``."""
    given = os.environ.get("FEDREC_HOME")
    return Path(given).expanduser() if given else Path.home() / ".fedrec"


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A new folder inside ``folder``, so that what is made there can be moved into place; gone afterwards.

    Raises:
        DataError: when nothing can be written there: no permission, or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder, ignore_cleanup_errors=True) as name:
            yield Path(name)
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "free some space there, or set FEDREC_HOME to a folder that you can write"
        raise DataError(f"Cannot write in {folder}: {reason}; {hint}.") from error


def put_new(file: Path, content: bytes) -> None:
    """Write a file that only the owner can read, unless it is there already; a reader never sees a part of it."""
    with scratch(file.parent) as folder:
        part = folder / file.name
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        try:
            os.link(part, file)  # unlike a rename, a link never replaces what another process has just put there
        except FileExistsError:
            return
