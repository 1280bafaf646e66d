"""The folder where fedrec keeps downloads and keys, and how a file gets there whole or not at all."""

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
        write_new(part, content)
        try:
            os.link(part, file)  # unlike a rename, a link never replaces what another process has just put there
        except FileExistsError:
            return


def write_new(file: Path, content: bytes) -> None:
    """Write a file that only the owner can read, where there is none yet; when this returns, it is on the disk."""
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def sync_folder(folder: Path) -> None:
    """What was made or renamed in a folder lasts once the folder is synced."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
