"""``fedrec server`` and ``fedrec device enrol``, as somebody types them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedrec.deployment.certificates import new_ca, new_server, today
from fedrec.deployment.home import ServerHome
from fedrec.device.home import DeviceHome
from fedrec.device.trust import Invitation
from tests.cli.conftest import Done
from tests.deployment.world import World, experiment, new_device, world

Fedrec = Callable[..., Done]


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path / "world") as made:
        yield made


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "exp.toml").write_text(experiment().to_toml())
    (tmp_path / "items.csv").write_text("item_id,title,genres,size\na,One,x|y,1\nb,Two,x,2\n")
    return tmp_path


def init(fedrec: Fedrec, files: Path, *more: str | Path) -> Done:
    home, text = files / "server", files / "exp.toml"
    return fedrec("server", "init", "--home", home, "--experiment", text, "--host", "fedrec.example", *more)


def test_a_server_is_made_of_an_experiment_and_its_items(fedrec: Fedrec, files: Path) -> None:
    done = init(fedrec, files, "--items", files / "items.csv", "--feature", "size", "--port", "7000")
    assert (done.code, done.err) == (0, "")
    told = done.out.splitlines()
    assert told[0] == f"made a server in {files / 'server'} for fedrec.example:7000"
    assert told[1].startswith("it costs a device epsilon ")
    assert any("min_cohort = 3 or less" in line for line in told)
    assert any("of 5 devices that begin a round, 1 may go before its end" in line for line in told)
    assert "fedrec server token" in told[-1]
    home = ServerHome.open(files / "server")
    catalogue = home.catalogue()
    assert catalogue.ids.tolist() == ["a", "b"]
    assert catalogue.titles is not None
    assert catalogue.features is not None
    assert (catalogue.genre_names, catalogue.features.tolist()) == (("x", "y"), [[1.0], [2.0]])
    assert home.config.address == "fedrec.example:7000"


def test_the_items_may_be_a_data_set_s(fedrec: Fedrec, files: Path) -> None:
    assert init(fedrec, files, "--catalogue-of", "synthetic", "--set", "federation.cohort=4").code == 0
    home = ServerHome.open(files / "server")
    assert len(home.catalogue()) > 100
    assert home.experiment().federation.cohort == 4


def test_the_gateway_may_listen_elsewhere(fedrec: Fedrec, files: Path) -> None:
    assert init(fedrec, files, "--items", files / "items.csv", "--listen", "127.0.0.1:8443").code == 0
    config = ServerHome.open(files / "server").config
    assert (config.host, config.port, config.public_port) == ("127.0.0.1", 8443, 9443)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--items", "missing.csv"], "missing.csv"),
        (["--items", "items.csv", "--item-column", "id"], "no column 'id'"),
        (["--items", "items.csv", "--catalogue-of", "synthetic"], "Give either --items FILE"),
        ([], "Give either --items FILE"),
        (["--items", "items.csv", "--set", "federation.min_cohort=none"], "needs federation.cohort"),
        (["--items", "items.csv", "--set", "privacy.epsilon=none"], "devices refuse it"),
        (["--items", "items.csv", "--cert", "items.csv"], "--cert and --key belong together"),
        (["--items", "items.csv", "--cert", "items.csv", "--key", "items.csv"], "give all three or none"),
        (["--items", "items.csv", "--registrar-key", "x"], "not a public key"),
        (["--items", "items.csv", "--listen", "a:b"], "not of the form"),
    ],
)
def test_what_cannot_be_a_server_is_told_and_leaves_nothing(
    fedrec: Fedrec, files: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], told: str
) -> None:
    monkeypatch.chdir(files)
    done = init(fedrec, files, *more)
    assert done.code in {1, 2}
    assert told in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert {path.name for path in files.iterdir()} <= {"exp.toml", "items.csv", "home"}


def test_a_host_that_is_no_name_is_told(fedrec: Fedrec, files: Path) -> None:
    done = init(fedrec, files, "--items", files / "items.csv", "--host", "https://x")
    assert (done.code, "neither a host name nor an IP address" in done.err) == (1, True)
    assert init(fedrec, files, "--items", files / "items.csv").code == 0
    assert "holds something already" in init(fedrec, files, "--items", files / "items.csv").err


def test_one_copied_line_enrols_a_device(fedrec: Fedrec, here: World, tmp_path: Path) -> None:
    """From the invitation to the list of nodes, and out again."""
    server, device = here.home.root, tmp_path / "device"
    line = fedrec("server", "token", "--home", server, "--hours", "2").out.strip()
    assert fedrec("device", "init", "--home", device).code == 0
    done = fedrec("device", "enrol", line, "--home", device)
    assert (done.code, "as device 1" in done.out) == (0, True), done.err
    (node,) = json.loads(fedrec("server", "nodes", "--json", "--home", server).out)
    assert (node["number"], node["revoked"]) == (1, None)
    assert "1 devices, of 1 that ever enrolled" in fedrec("server", "nodes", "--home", server).out
    assert fedrec("server", "revoke", "1", "--home", server).out.startswith("revoked device 1")
    assert "revoked 20" in fedrec("server", "nodes", "--home", server).out
    again = fedrec("server", "revoke", "1", "--home", server)
    assert (again.code, "revoked already" in again.err) == (1, True)


def test_an_invitation_may_be_in_a_file(fedrec: Fedrec, here: World, tmp_path: Path) -> None:
    """A line on a command line can be read by others of the machine; a file and stdin cannot."""
    device, file = new_device(tmp_path / "device"), tmp_path / "invitation"
    file.write_text(here.home.invitation(here.invite()).encoded() + "\n")
    assert fedrec("device", "enrol", file, "--home", device.root).code == 0
    assert DeviceHome.open(device.root).trust() is not None
    for wrong in ("nothing", "fedrec1-abc"):
        done = fedrec("device", "enrol", wrong, "--home", device.root)
        assert (done.code, len(done.err.strip().splitlines())) == (2, 1)


def test_a_certificate_is_renewed(fedrec: Fedrec, here: World, tmp_path: Path) -> None:
    assert "365 days" in fedrec("server", "renew", "--home", here.home.root).out
    ca = new_ca("another", today())
    pair = new_server(ca, ["localhost"], today())
    (tmp_path / "c.pem").write_bytes(pair.certificate)
    (tmp_path / "k.pem").write_bytes(pair.key)
    done = fedrec(
        "server", "renew", "--cert", tmp_path / "c.pem", "--key", tmp_path / "k.pem", "--home", here.home.root
    )
    assert (done.code, "Devices would not accept the certificate" in done.err) == (1, True)


def test_a_roster_is_signed_on_another_machine(fedrec: Fedrec, files: Path) -> None:
    key = files / "registrar.key"
    public = fedrec("server", "registrar-key", key).out.strip()
    assert key.stat().st_mode & 0o077 == 0
    assert init(fedrec, files, "--items", files / "items.csv", "--registrar-key", public).code == 0
    home = files / "server"
    draft, signed = files / "draft", files / "signed"
    assert fedrec("server", "roster-export", draft, "--home", home).code == 0
    refused = fedrec("server", "roster-import", draft, "--home", home)
    assert (refused.code, "another key" in refused.err) == (1, True)
    assert fedrec("server", "roster-sign", draft, signed, "--key", key).code == 0
    assert "version 1 with 0 devices is in force" in fedrec("server", "roster-import", signed, "--home", home).out
    assert Invitation.decoded(fedrec("server", "token", "--home", home).out).registrar_key == public


def test_a_folder_without_a_server_is_told(fedrec: Fedrec, tmp_path: Path) -> None:
    for verb in (["token"], ["nodes"], ["revoke", "1"], ["renew"]):
        done = fedrec("server", *verb, "--home", tmp_path)
        assert (done.code, "no server in" in done.err) == (2, True)
