"""The run folder: stable file names, and writes that either happen whole or leave what was there.

A run has one writer. Files are written beside their place, flushed to the disk and moved over the old one;
``rounds.jsonl`` grows in place, and a line that a crash cut short is recognised by its missing line end.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from fedrec.errors import RunFolderError
from fedrec.faults import reach

EXPERIMENT = "experiment.toml"
SUMMARY = "summary.json"
ROUNDS = "rounds.jsonl"
LEDGER = "ledger.jsonl"
LEDGER_CHECKPOINT = "ledger.checkpoint"
MODEL = "model.safetensors"
REPORT = "report.html"
CHECKPOINT = "checkpoint.safetensors"
"""Exists only while a run is unfinished; ``--resume`` starts from it."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RunFolder:
    """One run's folder.

    Attributes:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """A new folder for a new run; an existing one must be empty. On failure nothing stays behind.

        Raises:
            RunFolderError: when the path holds something already or cannot be written.
        """
        _refuse_used(path)
        made: list[Path] = []
        try:
            for folder in [*reversed(path.parents), path]:
                if not folder.is_dir():
                    folder.mkdir()
                    made.append(folder)
            probe = path / ".probe.tmp"
            probe.write_bytes(b"")  # a folder's permission bits do not tell a read-only disk
            probe.unlink()
        except OSError as error:
            for folder in reversed(made):
                with contextlib.suppress(OSError):  # another process may have put a file there meanwhile
                    folder.rmdir()
            advice = "choose another --out"
            raise RunFolderError(f"Cannot write the run folder '{path}': {error.strerror}; {advice}.") from error
        return cls(path)

    @classmethod
    def create_next(cls, experiment: str, base: Path = Path("runs")) -> RunFolder:
        """A new folder ``base/<experiment>-<n>`` with the next free number n, from 1.

        Raises:
            RunFolderError: when ``base`` cannot be written.
        """
        stem = re.sub(r"[^\w.-]+", "-", experiment).strip("-.") or "run"
        taken = base.iterdir() if base.is_dir() else ()
        numbers = [re.fullmatch(re.escape(stem) + r"-(\d{1,9})", entry.name) for entry in taken]
        n = 1 + max((int(match.group(1)) for match in numbers if match), default=0)
        return cls.create(base / f"{stem}-{n}")

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run's folder, for ``--resume``, ``compare`` and the like.

        Raises:
            RunFolderError: when there is no folder, or it holds no run.
        """
        if not path.is_dir():
            raise RunFolderError(f"No run folder '{path}': give the folder that 'fedrec simulate' wrote.")
        folder = cls(path)
        if not folder.has(EXPERIMENT):
            raise RunFolderError(f"'{path}' is not a run folder, or is damaged: it has no {EXPERIMENT}.")
        return folder

    def path(self, name: str) -> Path:
        return self.root / name

    def has(self, name: str) -> bool:
        return self.path(name).is_file()

    @property
    def finished(self) -> bool:
        """Whether the run wrote its summary and needs no ``--resume``."""
        return self.has(SUMMARY) and not self.has(CHECKPOINT)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Replace a file whole.

        Raises:
            RunFolderError: when it cannot be written; the old content is intact.
        """
        replace_file(self.path(name), data)

    def write_text(self, name: str, text: str) -> None:
        self.write_bytes(name, text.encode("utf-8", errors="replace"))

    def read_bytes(self, name: str) -> bytes:
        """A file's content.

        Raises:
            RunFolderError: when it is missing or unreadable.
        """
        try:
            return self.path(name).read_bytes()
        except FileNotFoundError as error:
            raise RunFolderError(f"The run folder '{self.root}' has no {name}: {self._remedy(name)}.") from error
        except OSError as error:
            raise RunFolderError(f"Cannot read '{self.path(name)}': {error.strerror or error}.") from error

    def read_text(self, name: str) -> str:
        """A UTF-8 file's text; see `read_bytes`."""
        try:
            return self.read_bytes(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise RunFolderError(f"'{self.path(name)}' is damaged: byte {error.start} is not UTF-8.") from error

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        try:
            self.path(name).unlink(missing_ok=True)
        except OSError as error:
            raise RunFolderError(f"Cannot remove '{self.path(name)}': {error.strerror}.") from error

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``; JSON has no NaN or infinity, they become null."""
        self.write_text(SUMMARY, json.dumps(plain(summary), indent=2, allow_nan=False) + "\n")

    def read_summary(self) -> dict[str, Any]:
        """The content of ``summary.json``.

        Raises:
            RunFolderError: when it is missing (the run is not finished) or damaged.
        """
        text = self.read_text(SUMMARY)
        try:
            value = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            where = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "nested too deep"
            raise RunFolderError(f"'{self.path(SUMMARY)}' is damaged ({where}): {self._remedy('')}.") from error
        if isinstance(value, dict):
            return value
        raise RunFolderError(f"'{self.path(SUMMARY)}' is damaged (not a JSON object): {self._remedy('')}.")

    def append_round(self, line: Mapping[str, Any], *, sync: bool = True) -> None:
        """Append one line to ``rounds.jsonl``; on the disk before this returns, or else once `sync_rounds` has.

        Raises:
            RunFolderError: when it cannot be written; the lines before it are intact.
        """
        data = json.dumps(plain(line), allow_nan=False).encode() + b"\n"
        path = self.path(ROUNDS)
        try:
            with path.open("a+b", buffering=0) as file:  # a buffer that met a full disk would write again when closed
                end = _end_of_lines(file)
                file.truncate(end)
                try:
                    _write_all(file, data)
                    reach("folder.round-written")
                    if sync:
                        os.fsync(file.fileno())
                except OSError:
                    file.truncate(end)
                    raise
        except OSError as error:
            raise write_error(path, error) from error

    def sync_rounds(self) -> None:
        """Wait until what ``rounds.jsonl`` holds is on the disk.

        Raises:
            RunFolderError: when that fails.
        """
        path = self.path(ROUNDS)
        try:
            if path.exists():
                with path.open("ab") as file:
                    os.fsync(file.fileno())
        except OSError as error:
            raise write_error(path, error) from error

    def rounds(self) -> list[dict[str, Any]]:
        """The lines of ``rounds.jsonl``, without a last one that a crash cut short; none where there is no file.

        Raises:
            RunFolderError: when a line is damaged.
        """
        if not self.has(ROUNDS):
            return []
        return [self._round(number, line) for number, line in enumerate(self._round_lines(), start=1)]

    def truncate_rounds(self, n: int) -> None:
        """Keep the first ``n`` lines of ``rounds.jsonl``: those that the checkpoint knows.

        Raises:
            RunFolderError: when there are fewer, or one of them is damaged.
        """
        lines = self._round_lines() if self.has(ROUNDS) else []
        if len(lines) < n:
            held = f"{len(lines)} of the {n} rounds"
            raise RunFolderError(f"'{self.path(ROUNDS)}' is damaged: it has {held} of the checkpoint; run anew.")
        for number, line in enumerate(lines[:n], start=1):
            self._round(number, line)
        self.write_bytes(ROUNDS, b"".join(line + b"\n" for line in lines[:n]))

    def _round_lines(self) -> list[bytes]:
        return _whole(self.read_bytes(ROUNDS)).split(b"\n")[:-1]

    def _round(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise RunFolderError(f"'{self.path(ROUNDS)}' is damaged: line {number} is not a JSON object.")
        return value

    def _remedy(self, name: str) -> str:
        if name == SUMMARY and self.has(CHECKPOINT):
            return f"the run is not finished; continue it with: fedrec simulate --resume {self.root}"
        return f"repeat the run with: fedrec simulate {self.path(EXPERIMENT)}"


def replace_file(path: Path, data: bytes) -> None:
    """Write a file beside its place, flush it to the disk and move it there.

    Raises:
        RunFolderError: when that fails; nothing is left beside it and the old content is intact.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb", buffering=0) as file:
            _write_all(file, data)
            os.fsync(file.fileno())
        reach("folder.before-rename")
        temporary.replace(path)
        reach("folder.renamed")
    except OSError as error:
        raise write_error(path, error) from error
    finally:  # after Ctrl-C as well, no half-written file stays
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_error(path: Path, error: OSError) -> RunFolderError:
    """The sentence for a failed write."""
    kept = "what it held is kept" if path.exists() else "nothing was written"
    advice = "free some space and try again" if error.errno in _FULL else "check that the folder can be written"
    return RunFolderError(f"Cannot write '{path}': {error.strerror or error}; {kept}: {advice}.")


def plain(value: Any) -> Any:
    """JSON values only: NumPy scalars and arrays become Python's, paths text, NaN and infinities null."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def _refuse_used(path: Path) -> None:
    try:
        used = path.exists() and (not path.is_dir() or any(path.iterdir()))
    except OSError as error:
        raise RunFolderError(f"Cannot read the run folder '{path}': {error.strerror}; choose another --out.") from error
    if used and not path.is_dir():
        raise RunFolderError(f"'{path}' is a file, not a folder: choose another --out.")
    if used:
        advice = f"choose another --out or continue it with --resume {path}"
        raise RunFolderError(f"The run folder '{path}' exists already and is not empty: {advice}.")


def _end_of_lines(file: IO[bytes]) -> int:
    """Where the whole lines end; a file that ends with one need not be read."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 1, 0))
    if file.read(1) in (b"", b"\n"):
        return size
    file.seek(0)
    return len(_whole(file.read()))


def _whole(data: bytes) -> bytes:
    return data[: data.rfind(b"\n") + 1]


def _write_all(file: IO[bytes], data: bytes) -> None:
    """An unbuffered file may take a part only, such as what still fits on the disk."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _sync_folder(folder: Path) -> None:
    """Make the move itself durable; some file systems refuse to flush a folder, and then nothing can be done."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
