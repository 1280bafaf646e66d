"""What a server lets its devices fetch: what it trains, how far it is, and what each can check its ledger with."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fedrec.agreements.publication import Publication, sign_publication
from fedrec.data.safetensors import metadata
from fedrec.deployment.home import ServerHome
from fedrec.deployment.registry import Device, Registry
from fedrec.deployment.seats import Cohort, Place, read_cohorts
from fedrec.errors import ServerError
from fedrec.privacy.keys import pseudonym
from fedrec.reporting.folder import LEDGER, LEDGER_CHECKPOINT

PUBLISHED = "published.safetensors"
"""In the run folder, the model for devices, with its experiment and its round in its metadata."""

COHORTS = "cohorts.jsonl"
"""In the run folder, a line an attempt: ``round``, ``attempt`` and the ``numbers`` of the devices that were asked."""


@dataclass(frozen=True)
class Document:
    """Bytes and their SHA-256, in hex."""

    content: bytes
    digest: str

    @staticmethod
    def of(content: bytes) -> Document:
        return Document(content, hashlib.sha256(content).hexdigest())


class File:
    """A file that is read and hashed again only when it has been replaced or has grown."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[tuple[int, int, int], Document] | None = None

    def __call__(self) -> Document | None:
        try:
            with self._path.open("rb") as file:
                stat = self._path.stat()
                key = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
                seen = self._seen
                if seen is None or seen[0] != key:
                    seen = self._seen = (key, Document.of(file.read()))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ServerError(f"Cannot read '{self._path}': {error.strerror}; check the folder.") from error
        return seen[1]


class Published:
    """The documents of a server, by the name under which devices fetch them.

    The publication is signed again when anything that it names has changed. The model's round stands in its metadata.
    """

    def __init__(self, home: ServerHome, registry: Registry, clock: Callable[[], float] = time.time) -> None:
        self._registry, self._clock = registry, clock
        self._key = home.key("request")
        self._experiment = home.experiment().digest()
        self._cohorts = File(home.run / COHORTS)
        self._files: Mapping[str, File] = {
            "experiment": File(home.experiment_file),
            "catalogue": File(home.catalogue_file),
            "model": File(home.run / PUBLISHED),
            "ledger": File(home.run / LEDGER),
            "ledger-checkpoint": File(home.run / LEDGER_CHECKPOINT),
        }
        self._signed: tuple[Publication, Document] | None = None
        self._names: dict[int, str] = {}
        self._read: Document | None = None
        self._attempts: dict[Place, tuple[tuple[int, ...], Cohort]] = {}
        self._lock = threading.Lock()

    def document(self, name: str, device: Device) -> Document | None:
        """A document for a device; None while there is none.

        Raises:
            KeyError: for a name that no document has.
        """
        if name == "publication":
            return self._publication()
        if name == "roster":
            roster = self._registry.roster()
            return Document(roster.text, roster.digest)
        if name == "seats":
            return self._seats(device)
        return self._files[name]()

    def _publication(self) -> Document:
        model, catalogue = self._files["model"](), self._files["catalogue"]()
        if catalogue is None:
            raise ServerError("The server's catalogue.bin is missing; restore it from a backup.")
        found = Publication(
            experiment=self._experiment,
            round=0 if model is None else _round(model.content),
            model=None if model is None else model.digest,
            catalogue=catalogue.digest,
            roster=self._registry.roster().digest,
            issued=0,
        )
        with self._lock:
            if self._signed is None or self._signed[0] != found:
                text = sign_publication(replace(found, issued=int(self._clock())), self._key)
                self._signed = found, Document.of(text)
            return self._signed[1]

    def _seats(self, device: Device) -> Document:
        """Where a device stands in the cohort of each attempt, or between whom it would: JSON."""
        with self._lock:
            attempts, own = self._known_attempts(), self._name(device.number)
        shown = [
            {"round": round_, "attempt": attempt, "seats": cohort.seats(own)}
            for (round_, attempt), (_, cohort) in attempts.items()
        ]
        return Document.of(json.dumps({"experiment": self._experiment, "attempts": shown}).encode())

    def _known_attempts(self) -> Mapping[Place, tuple[tuple[int, ...], Cohort]]:
        """The cohorts so far; only those that are new since the last call are hashed."""
        found = self._cohorts()
        if found is not self._read:
            told = {} if found is None else read_cohorts(found.content, COHORTS)
            before = self._attempts
            self._attempts = {
                place: before[place]
                if place in before and before[place][0] == numbers
                else (numbers, Cohort([self._name(number) for number in numbers]))
                for place, numbers in told.items()
            }
            self._read = found
        return self._attempts

    def _name(self, number: int) -> str:
        """A device's pseudonym; a number never gets another alias."""
        if number not in self._names:
            for one in self._registry.devices():
                self._names[one.number] = pseudonym(one.alias, self._experiment)
        return self._names[number]


def _round(model: bytes) -> int:
    """The round in the metadata of a safetensors file."""
    try:
        return int(metadata(model)["round"])
    except (ValueError, KeyError, TypeError) as error:
        raise ServerError(f"The run's {PUBLISHED} does not say of which round it is; it is damaged.") from error
