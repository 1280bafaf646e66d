"""The Flower app of a deployment: configuration only, signed, and handed to the SuperLink by a registry on loopback."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass

import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedrec.deployment.loopback import Loopback

_PUBLISHER, _NAME = "fedrec", "fedrec-run"
_COMPONENTS = {"serverapp": "fedrec.flower.deployapp:app", "clientapp": "fedrec.flower.deviceapp:app"}
_DATE = (2024, 10, 1, 0, 0, 0)  # Flower's own, of every file in an app
_ASK = "/hub/fetch-fab"


@dataclass(frozen=True)
class App:
    """A Flower app bundle: ``pyproject.toml`` and the manifest of it, no code.

    Attributes:
        content: its bytes; the same experiment gives the same bytes.
        version: one for each content, so that no cache gives another.
    """

    content: bytes
    version: str

    @property
    def name(self) -> str:
        """What Flower calls it, whatever its version."""
        return f"@{_PUBLISHER}/{_NAME}"

    @property
    def spec(self) -> str:
        """What ``flwr run`` takes."""
        return f"{self.name}=={self.version}"

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def build(experiment: str) -> App:
    """The app that runs an experiment: the code on both sides is the fedrec that is installed there.

    Args:
        experiment: the resolved TOML text; devices find it in the run's config.
    """
    version = f"1.0.{int(hashlib.sha256(experiment.encode()).hexdigest()[:8], 16)}"
    project = {
        "project": {
            "name": _NAME,
            "version": version,
            "description": "configuration only",
            "license": "Apache-2.0",
        },
        "tool": {
            "flwr": {
                "app": {"publisher": _PUBLISHER, "components": _COMPONENTS, "config": {"experiment": experiment}},
            }
        },
    }
    text = tomli_w.dumps(project).encode()
    manifest = f"pyproject.toml,{hashlib.sha256(text).hexdigest()},{8 * len(text)}".encode()
    bundle = io.BytesIO()
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_STORED) as archive:  # stored: no compressor's version is in the bytes
        for name, content in (("pyproject.toml", text), (".info/CONTENT", manifest)):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system = 3  # the same on every system
            archive.writestr(entry, content)
    return App(bundle.getvalue(), version)


def verification(app: App, key: Ed25519PrivateKey, key_id: str, signed_at: int) -> dict[str, str | int]:
    """What lets a SuperNode that trusts a key check an app: Ed25519 over the time (8 bytes) and the app's SHA-256.

    Guarantees:
        It covers every byte of the app, and neither the run's overrides nor messages; it does not expire. What a
        device answers rests on the signature of each request (`fedrec.agreements.request`), not on this one.

    Args:
        app: the app.
        key: the signer's.
        key_id: what Flower calls the key, ``fpk_…``.
        signed_at: unix seconds.
    """
    signature = key.sign(signed_at.to_bytes(8) + bytes.fromhex(app.digest))
    return {
        "public_key_id": key_id,
        "signature": base64.urlsafe_b64encode(signature).rstrip(b"=").decode("ascii"),
        "signed_at": signed_at,
        "algorithm": "ed25519",
    }


def registry(app: App, verified: Mapping[str, str | int], port: int = 0) -> Loopback:
    """Flower's app hub, for one app.

    Guarantees: it answers the one question that a SuperLink asks of a hub, and the download of that app; every other
    path and method is 404.

    Args:
        app: all that it has.
        verified: `verification` of it.
        port: on loopback; 0 takes a free one.
    """
    path = f"/{app.digest}.fab"

    def answer(method: str, asked: str, body: bytes) -> tuple[str, bytes] | None:
        if (method, asked) == ("GET", path):
            return "application/octet-stream", app.content
        if (method, asked) != ("POST", _ASK):
            return None
        wanted = json.loads(body)
        if (wanted["app_id"], wanted["app_version"]) != (app.name, app.version):
            return None
        found = {"fab_url": hub.url + path, "verifications": [dict(verified)]}
        return "application/json", json.dumps(found).encode()

    hub = Loopback(answer, port)
    return hub
