"""A server's folder: made whole or not at all, checked before it is made, and its owner's alone."""

from __future__ import annotations

import base64
import os
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedrec.config import Experiment
from fedrec.deployment import certificates
from fedrec.deployment.certificates import new_ca, new_server, today
from fedrec.deployment.home import SIGNERS, ServerConfig, ServerHome
from fedrec.device.catalogue import digest
from fedrec.device.trust import Invitation
from fedrec.errors import ConfigError, FedrecError, MissingExtraError, ServerError, UsageError
from tests.deployment.world import catalogue, experiment
from tests.deployment.world import new_server as make_server

CONFIG = ServerConfig(public_name="localhost")


def test_a_server_has_all_that_it_needs(tmp_path: Path) -> None:
    home = make_server(tmp_path / "server")
    opened = ServerHome.open(tmp_path / "server")
    assert opened.config == home.config
    assert opened.catalogue().ids.tolist() == catalogue().ids.tolist()
    assert len({opened.public(name) for name in SIGNERS}) == len(SIGNERS)
    assert opened.registry().devices() == []
    assert 364 < opened.certificate_days() <= 365


def test_the_experiment_is_the_one_that_devices_run(tmp_path: Path) -> None:
    home = make_server(tmp_path / "server")
    resolved = home.experiment()
    assert resolved.data.model_dump()["catalogue"] == digest(home.catalogue_bytes())
    assert (resolved.data.name, resolved.privacy.source, resolved.engine.name) == ("devices", "secure", "flower")
    assert resolved.deployment is not None
    assert resolved.noise == "skellam"


def test_everything_is_the_owner_s_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        home = make_server(tmp_path / "server")
        registry = home.registry()  # its database's files are there while it is open
        registry.new_token(0, 1.0)
        home.renew()
    finally:
        os.umask(before)
    for path in [home.root, *home.root.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    home.keys.chmod(0o750)
    with pytest.raises(ServerError, match="chmod 700"):
        ServerHome.open(home.root)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"federation": {"cohort": 5}}, "needs federation.cohort and federation.min_cohort"),
        ({"federation": {"min_cohort": 2}}, "needs federation.cohort and federation.min_cohort"),
        ({"privacy": {"epsilon": "none"}}, "devices refuse it"),
        ({"privacy": {"trust": "central", "noise_multiplier": 1.0}}, "devices refuse it"),
        ({"federation": {"cohort": 1, "min_cohort": 1}}, "at least 2"),
        ({"privacy": {"noise": "gaussian", "noise_multiplier": 1.0}}, "needs privacy.noise = 'skellam'"),
    ],
)
def test_an_experiment_that_no_device_would_run_makes_no_server(
    tmp_path: Path, sections: dict[str, object], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        ServerHome.create(tmp_path / "server", CONFIG, experiment(**sections), catalogue())
    assert not list(tmp_path.iterdir())


def test_a_model_that_cannot_be_trained_here_makes_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedrec.models.base.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"fedrec\[torch\]"):
        ServerHome.create(tmp_path / "server", CONFIG, experiment(model={"name": "ncf"}), catalogue())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", ["_write_keys", "_write_certificates", "_registrar"])
def test_a_server_that_fails_half_way_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise ServerError("no more")

    with monkeypatch.context() as patch:
        patch.setattr(ServerHome, step, fail)
        with pytest.raises(ServerError, match="no more"):
            make_server(tmp_path / "server")
    assert not list(tmp_path.iterdir())
    make_server(tmp_path / "server")


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(ServerError, match="holds something already"):
        make_server(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(UsageError, match="no server in"):
        ServerHome.open(tmp_path)


def test_a_certificate_of_one_s_own_is_taken_if_devices_accept_it(tmp_path: Path) -> None:
    ca = new_ca("mine", today())
    good, bad = new_server(ca, ["localhost"], today()), new_server(ca, ["elsewhere.example"], today())
    with pytest.raises(ServerError, match="would not accept"):
        ServerHome.create(tmp_path / "bad", CONFIG, experiment(), catalogue(), (bad, ca.certificate))
    home = ServerHome.create(tmp_path / "good", CONFIG, experiment(), catalogue(), (good, ca.certificate))
    assert home.invitation("t").ca.encode() == ca.certificate
    with pytest.raises(ServerError, match="authority's key is not in this folder"):
        home.renew()
    with pytest.raises(ServerError, match="would not accept"):
        home.renew(bad)
    home.renew(new_server(ca, ["localhost"], today(), days=20))
    assert home.certificate_days() <= 20


def test_a_certificate_that_has_expired_is_told_and_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = make_server(tmp_path / "server")
    later = today() + timedelta(days=400)
    with monkeypatch.context() as patch:
        patch.setattr(certificates, "today", lambda: later)
        assert home.certificate_days() < 0
    before = home.certificate.read_bytes()
    home.renew()
    assert home.certificate.read_bytes() != before
    assert [path.name for path in home.certificate.parent.iterdir()] == ["server.pem"]


def test_an_invitation_says_whom_to_trust(tmp_path: Path) -> None:
    home = make_server(tmp_path / "server", public_name="127.0.0.1")
    found = Invitation.decoded(home.invitation("the-token").encoded())
    assert found == home.invitation("the-token")
    assert found.server == f"127.0.0.1:{home.config.public_port}"
    assert base64.b64decode(found.app_key) == home.public("app")
    assert found.app_key_id == home.app_key_id


def test_rosters_can_be_signed_elsewhere(tmp_path: Path) -> None:
    registrar = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    home = ServerHome.create(tmp_path / "server", CONFIG, experiment(), catalogue(), None, registrar)
    assert not home.signs_rosters
    assert home.public("registrar") == registrar
    with pytest.raises(ServerError, match="kept elsewhere"):
        home.key("registrar")
    with pytest.raises(ServerError, match="no roster yet"):
        home.registry().roster()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("server.toml", b"port = 1", "public_name"),
        ("server.toml", b"public_name = 'a'\nport = 'x'", "'port'"),
        ("server.toml", b"[[", "not valid TOML"),
        ("experiment.toml", b"[[", "not valid TOML"),
        ("keys/request.key", b"short", "32-byte"),
        ("state.sqlite", b"not a database, whatever its name says; long enough to be looked at as one" * 9, "registry"),
        ("state.sqlite", b"", "not a registry"),
        ("catalogue.bin", b"nothing", r"catalogue\.bin' is not the catalogue that"),
        ("tls/server.pem", b"nothing", "no PEM certificate"),
    ],
)
def test_a_damaged_file_is_told_in_a_sentence(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    home = make_server(tmp_path / "server")
    (home.root / name).write_bytes(content)
    with pytest.raises(FedrecError, match=told):
        _use(ServerHome.open(home.root))


def _use(home: ServerHome) -> tuple[ServerConfig, Experiment]:
    home.key("request")
    home.registry()
    home.catalogue()
    home.certificate_days()
    return home.config, home.experiment()
