"""The signed app, by Flower's own reader and verifier, and the registry that hands it out."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.common.config import get_fab_config, get_metadata_from_config
from flwr.supercore.fab import Fab
from flwr.supernode.start_client_internal import _verify_fab

from fedrec.deployment.apps import App, build, registry, verification

EXPERIMENT = 'name = "one"\n\n[model]\nname = "mf"\n'
KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


def trusted(key: Ed25519PrivateKey, name: str = "fpk_1") -> dict[str, str]:
    return {name: key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()}


def fab(app: App, signed: Mapping[str, str | int]) -> Fab:
    """As the SuperLink hands it on."""
    rest = {name: value for name, value in signed.items() if name != "public_key_id"}
    return Fab(app.digest, app.content, {str(signed["public_key_id"]): json.dumps(rest), "valid_license": "Valid"})


def answer(url: str, body: bytes | None = None) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=5) as found:  # noqa: S310 - our own
            return found.status, found.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_an_app_is_configuration_only_and_the_same_bytes_for_the_same_experiment() -> None:
    app = build(EXPERIMENT)
    assert build(EXPERIMENT) == app
    assert build(EXPERIMENT + "seed = 2\n").version != app.version
    assert zipfile.ZipFile(io.BytesIO(app.content)).namelist() == ["pyproject.toml", ".info/CONTENT"]


def test_flower_reads_the_app_as_it_is_meant() -> None:
    app = build(EXPERIMENT)
    config = get_fab_config(app.content)["tool"]["flwr"]["app"]
    assert config["config"] == {"experiment": EXPERIMENT}
    assert config["components"] == {
        "serverapp": "fedrec.flower.deployapp:app",
        "clientapp": "fedrec.flower.deviceapp:app",
    }
    assert get_metadata_from_config(get_fab_config(app.content)) == ("fedrec/fedrec-run", app.version)
    assert app.spec == f"@fedrec/fedrec-run=={app.version}"


def test_flower_accepts_the_trusted_signature_and_nothing_else() -> None:
    app = build(EXPERIMENT)
    signed = verification(app, KEY, "fpk_1", 1_800_000_000)
    assert _verify_fab(fab(app, signed), trusted(KEY))
    assert not _verify_fab(fab(app, signed), trusted(OTHER))
    assert not _verify_fab(fab(app, signed), trusted(KEY, "fpk_2"))
    assert not _verify_fab(fab(replace(app, content=app.content + b"x"), signed), trusted(KEY))
    assert not _verify_fab(fab(app, {**signed, "signed_at": 1_800_000_001}), trusted(KEY))


def test_the_registry_answers_one_question_and_one_download() -> None:
    app = build(EXPERIMENT)
    signed = verification(app, KEY, "fpk_1", 1_800_000_000)
    asked = {"app_id": app.name, "app_version": app.version, "flwr_version": "1.41.0"}
    with registry(app, signed) as hub:
        status, body = answer(f"{hub.url}/hub/fetch-fab", json.dumps(asked).encode())
        found = json.loads(body)
        assert (status, found["verifications"]) == (200, [signed])
        assert answer(found["fab_url"]) == (200, app.content)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/", None),
        ("/hub/fetch-fab", None),
        ("/hub/apps", b"{}"),
        ("/hub/fetch-fab", b""),
        ("/hub/fetch-fab", b"[]"),
        ("/hub/fetch-fab", b'{"app_id": 1}'),
        ("/hub/fetch-fab", b'{"app_id": "@fedrec/fedrec-run", "app_version": "1.0.0"}'),
        ("/hub/fetch-fab", b'{"app_id": "@fedrec/other", "app_version": null}'),
        ("/hub/fetch-fab", b"x" * 100_000),
        ("/../server.toml", None),
    ],
)
def test_everything_else_is_not_found(path: str, body: bytes | None) -> None:
    app = build(EXPERIMENT)
    with registry(app, verification(app, KEY, "fpk_1", 1)) as hub:
        assert answer(hub.url + path, body)[0] == 404
