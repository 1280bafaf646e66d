"""Whom a device trusts: one server, by its authority and its keys, as the server's invitation named them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, ValidationError

from fedrec.data.home import sync_folder, write_new
from fedrec.errors import DeviceError, UsageError
from fedrec.sections import Section


def _key(text: str) -> str:
    if len(raw(text)) != 32:
        raise ValueError("is not the base64 of a 32-byte key")
    return text


Key = Annotated[str, AfterValidator(_key)]
"""A public Ed25519 key, 32 bytes in base64."""


def raw(key: str) -> bytes:
    """The bytes of a key."""
    return base64.b64decode(key, validate=True)


class Server(Section):
    """A server as its devices know it.

    Attributes:
        server: where its gateway is, ``host:port``.
        ca: the certificate of the one authority that counts for its TLS certificate, PEM.
        request_key: signs requests and publications.
        registrar_key: signs rosters.
        ledger_key: signs checkpoints of the server's ledger.
        app_key: signs the Flower app.
        app_key_id: what Flower calls that key, ``fpk_…``.
    """

    server: str = Field(pattern=r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$")
    ca: str
    request_key: Key
    registrar_key: Key
    ledger_key: Key
    app_key: Key
    app_key_id: str = Field(pattern=r"^fpk_[A-Za-z0-9-]+$")


class Invitation(Server):
    """What a server's operator hands to the owner of a device: the server, and a token that enrols one device.

    It is a secret until it has been used. Whoever hands it on should do so by a way that cannot be tampered with: the
    device will trust the keys in it.
    """

    MARK: ClassVar[str] = "fedrec1-"
    """Starts every invitation, and says its form."""

    token: str

    def encoded(self) -> str:
        """One line to copy."""
        body = json.dumps(self.model_dump(), separators=(",", ":")).encode()
        return self.MARK + base64.urlsafe_b64encode(body).decode("ascii").rstrip("=")

    @classmethod
    def decoded(cls, line: str) -> Self:
        """An invitation from its line.

        Raises:
            UsageError: if it is not one, or a part of one.
        """
        line = line.strip()
        body = line.removeprefix(cls.MARK)
        try:
            found = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
            if body == line:
                raise ValueError("it starts differently")
            return cls.model_validate_json(found)
        except ValueError as error:  # a ValidationError is one
            raise UsageError(
                "This is not an invitation; copy the whole line that 'fedrec server token' printed."
            ) from error


class Trust(Server):
    """The server that a device is enrolled with.

    Attributes:
        number: this device's on the roster.
        node_id: what Flower calls it.
    """

    number: int = Field(ge=0, lt=2**32)
    node_id: str

    def save(self, path: Path) -> None:
        """Write it whole or not at all, mode 0600."""
        part = path.with_name(f".{path.name}.tmp")
        part.unlink(missing_ok=True)  # of a crash
        write_new(part, f"{self.model_dump_json(indent=2)}\n".encode())
        part.replace(path)
        sync_folder(path.parent)

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `save` wrote.

        Raises:
            DeviceError: if it is missing or damaged.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise DeviceError(f"Cannot read '{path}': {error.strerror}; enrol with 'fedrec device enrol'.") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise DeviceError(
                f"'{path}' is damaged ({where or 'it is not JSON'}); restore it from a backup, or enrol anew."
            ) from error
