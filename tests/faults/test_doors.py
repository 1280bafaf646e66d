"""Wrong certificates, keys and apps: the door stays shut, with a sentence, and what was there before is untouched."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.clientapp.client_app import LoadClientAppError
from flwr.supercore.fab import Fab
from flwr.supernode.start_client_internal import _verify_fab

from fedrec.agreements.enrolment import node_key_pem
from fedrec.deployment import serving
from fedrec.deployment.apps import App, build, verification
from fedrec.deployment.certificates import Pair, new_ca, new_server, today
from fedrec.deployment.gateway import Gateway
from fedrec.device.gateway import sync
from fedrec.device.home import DeviceHome
from fedrec.errors import DeviceError
from fedrec.flower.launcher import check_app
from tests.deployment.world import World, new_device, running, world

Act = Callable[[World, DeviceHome], object]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("world")) as made:
        yield made


# Certificates and keys


@dataclass(frozen=True)
class Certificate:
    """What a server shows to devices that trust the authority of ``here``.

    Attributes:
        name: of the case.
        make: the certificate with its key.
        says: what the device's owner reads.
    """

    name: str
    make: Callable[[World], Pair]
    says: str


def own_ca(here: World) -> Pair:
    return Pair(here.home.ca.read_bytes(), here.home.ca.with_suffix(".key").read_bytes())


CERTIFICATES = (
    Certificate(
        "expired",
        lambda here: new_server(own_ca(here), ["localhost"], today() - timedelta(days=30), days=10),
        "has expired; its operator renews it",
    ),
    Certificate(
        "of another authority",
        lambda _: new_server(new_ca("another", today()), ["localhost"], today()),
        "is not the server of the invitation",
    ),
    Certificate(
        "of another name",
        lambda here: new_server(own_ca(here), ["elsewhere.example"], today()),
        "its certificate is not accepted",
    ),
)


@pytest.mark.parametrize("case", CERTIFICATES, ids=lambda case: case.name)
def test_a_device_gives_nothing_to_a_server_with_a_certificate(here: World, tmp_path: Path, case: Certificate) -> None:
    device, pem = here.enrolled(tmp_path / "device"), tmp_path / "shown.pem"
    pair = case.make(here)
    pem.write_bytes(pair.certificate + pair.key)
    asked: list[str] = []
    door = Gateway(
        here.registry, here.home.public("request"), lambda *_: asked.append("x"), here.register, lambda: None
    )
    server = serving.server(door, pem, "127.0.0.1", 0)
    trust = device.trust()
    assert trust is not None
    with running(server):
        port = server.servers[0].sockets[0].getsockname()[1]
        trust.model_copy(update={"server": f"localhost:{port}"}).save(device.trust_path)
        with pytest.raises(DeviceError, match=case.says):
            sync(device)
    assert not asked
    trust.save(device.trust_path)
    assert sync(device).on_roster, "it goes on with the right server"


def test_a_device_with_an_unregistered_key_is_turned_away(here: World, tmp_path: Path) -> None:
    device, stranger = here.enrolled(tmp_path / "device"), new_device(tmp_path / "stranger")
    trust = device.trust()
    assert trust is not None
    trust.save(stranger.trust_path)  # it claims another's number, with its own keys
    before = len(here.echo.seen)
    with pytest.raises(DeviceError, match="turns this device away"):
        sync(stranger)
    assert pull(here, stranger) == 401
    assert len(here.echo.seen) == before, "Flower is not reached"


def test_a_revoked_device_is_turned_away_and_the_others_are_not(here: World, tmp_path: Path) -> None:
    revoked, other = here.enrolled(tmp_path / "revoked"), here.enrolled(tmp_path / "other")
    trust = revoked.trust()
    assert trust is not None
    assert pull(here, revoked) == 200
    here.registry.revoke(trust.number, 1)
    assert pull(here, revoked) == 401
    with pytest.raises(DeviceError, match="it was revoked; ask its operator"):
        sync(revoked)
    assert trust.number not in here.registry.roster().members
    assert sync(other).on_roster


def pull(here: World, device: DeviceHome) -> int:
    """The status of a SuperNode's call with a device's node key."""
    key = base64.b64encode(node_key_pem(device.node_public_key.read_bytes())).decode()
    with httpx.Client(base_url=f"https://localhost:{here.port}", verify=here.trust(), trust_env=False) as client:
        call = client.post("/v1/fleet/pull-messages", content=b"x", headers={"flwr-public-key": key})
    return call.status_code


# Apps

KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
APP = build('name = "x"\n')
SIGNED = verification(APP, KEY, "fpk_1", 1_800_000_000)


def with_file(name: str, content: str) -> App:
    """The app with a file more, whoever signs it."""
    bundle = io.BytesIO(APP.content)
    with zipfile.ZipFile(bundle, "a") as archive:
        archive.writestr(name, content)
    return App(bundle.getvalue(), APP.version)


def flower_accepts(app: App, signed: Mapping[str, str | int] | None) -> bool:
    """What a SuperNode that trusts ``fpk_1`` asks of an app before it starts it."""
    rest = {name: value for name, value in (signed or {}).items() if name != "public_key_id"}
    signatures = {} if signed is None else {str(signed["public_key_id"]): json.dumps(rest)}
    key = KEY.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    accepted = _verify_fab(Fab(app.digest, app.content, {**signatures, "valid_license": "Valid"}), {"fpk_1": key})
    return bool(accepted)


@dataclass(frozen=True)
class Served:
    """An app as a SuperLink hands it to a device that trusts ``fpk_1``."""

    name: str
    app: App
    signature: Mapping[str, str | int] | None


APPS = (
    Served("unsigned", APP, None),
    Served("signed by another key", APP, verification(APP, OTHER, "fpk_1", 1_800_000_000)),
    Served("signed by a key that is not trusted", APP, verification(APP, OTHER, "fpk_2", 1_800_000_000)),
    Served("tampered with", replace(APP, content=APP.content + b"x"), SIGNED),
    Served("of another experiment", build('name = "y"\n'), SIGNED),
    Served("signed at another time", APP, {**SIGNED, "signed_at": 1_800_000_001}),
)


@pytest.mark.parametrize("case", APPS, ids=lambda case: case.name)
def test_flower_runs_no_app_that_is(case: Served) -> None:
    assert flower_accepts(APP, SIGNED)
    assert not flower_accepts(case.app, case.signature)


@pytest.mark.parametrize("name", ["fedrec/__init__.py", "sitecustomize.py", "numpy.pth", "../fedrec.py"])
def test_an_app_that_is_rightly_signed_but_carries_code_is_refused(name: str) -> None:
    app = with_file(name, "raise SystemExit")
    assert flower_accepts(app, verification(app, KEY, "fpk_1", 1_800_000_000))
    check_app(APP.content)
    with pytest.raises(LoadClientAppError, match="configuration only"):
        check_app(app.content)
