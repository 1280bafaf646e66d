"""Enrolment through the door: a token enrols one device, whatever is sent at once, lost or made up."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from fedrec.agreements.enrolment import Enrolment, node_key_pem, sign_enrolment
from fedrec.agreements.publication import read_publication
from fedrec.device.gateway import enrol
from fedrec.device.home import DeviceHome
from fedrec.errors import DeviceError, ServerError
from fedrec.secagg.crypto import signing_public
from tests.deployment.test_gateway import get
from tests.deployment.world import World, new_device, world


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path / "world") as made:
        yield made


@pytest.fixture
def client(here: World) -> Iterator[httpx.Client]:
    with reaching(here) as made:
        yield made


def reaching(here: World) -> httpx.Client:
    return httpx.Client(base_url=f"https://localhost:{here.port}", verify=here.trust(), timeout=30)


def enrolment_of(device: DeviceHome, token: str) -> Enrolment:
    identity = device.identity()
    return Enrolment(
        token=base64.urlsafe_b64decode(token + "="),
        identity=signing_public(identity.signing),
        channel=identity.member().channel,
        alias=device.alias(),
        node_key=node_key_pem(device.node_public_key.read_bytes()),
    )


def post(client: httpx.Client, device: DeviceHome, enrolment: Enrolment) -> httpx.Response:
    return client.post("/fedrec/v1/enrol", content=sign_enrolment(enrolment, device.identity().signing))


def test_one_line_enrols_a_device(here: World, tmp_path: Path) -> None:
    device = new_device(tmp_path / "device")
    trust = enrol(device, here.home.invitation(here.invite()))
    assert device.trust() == trust
    kept = here.registry.device(trust.number)
    assert kept is not None
    assert kept.member == device.identity().member()
    assert (kept.alias, kept.node_id) == (device.alias(), trust.node_id)
    assert here.registered == [node_key_pem(device.node_public_key.read_bytes())]
    with pytest.raises(DeviceError, match="enrolled with"):
        enrol(device, here.home.invitation(here.invite()))


def test_a_lost_answer_does_not_burn_the_device(here: World, client: httpx.Client, tmp_path: Path) -> None:
    device, token = new_device(tmp_path / "device"), here.invite()
    first = post(client, device, enrolment_of(device, token)).json()
    assert post(client, device, enrolment_of(device, token)).json() == first
    assert post(client, device, enrolment_of(device, here.invite())).json() == first  # with another good token
    assert len(here.registry.devices()) == 1


def test_a_token_enrols_no_second_device(here: World, tmp_path: Path) -> None:
    token = here.invite()
    enrol(new_device(tmp_path / "one"), here.home.invitation(token))
    with pytest.raises(DeviceError, match="has enrolled another device"):
        enrol(new_device(tmp_path / "two"), here.home.invitation(token))


def test_of_devices_that_use_a_token_at_once_one_is_enrolled(here: World, tmp_path: Path) -> None:
    token, devices = here.invite(), [new_device(tmp_path / f"d{number}") for number in range(6)]

    def ask(device: DeviceHome) -> int:
        with httpx.Client(base_url=f"https://localhost:{here.port}", verify=here.trust(), timeout=30) as own:
            return post(own, device, enrolment_of(device, token)).status_code

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(ask, devices)) == [200, 403, 403, 403, 403, 403]
    assert len(here.registry.devices()) == 1


def test_unknown_and_expired_tokens_are_refused(here: World, tmp_path: Path) -> None:
    device = new_device(tmp_path / "device")
    unknown = base64.urlsafe_b64encode(bytes(32)).decode().rstrip("=")
    with pytest.raises(DeviceError, match="does not know this invitation"):
        enrol(device, here.home.invitation(unknown))
    expiring = here.home.invitation(here.invite(hours=1))
    here.ahead = 3601
    with pytest.raises(DeviceError, match="expired"):
        enrol(device, expiring)
    assert device.trust() is None


@pytest.mark.parametrize("name", ["channel", "alias", "node_key"])
def test_no_device_takes_a_key_of_another(here: World, client: httpx.Client, tmp_path: Path, name: str) -> None:
    one, two = here.enrolled(tmp_path / "one"), new_device(tmp_path / "two")
    taken = enrolment_of(one, here.invite())
    wanted = replace(enrolment_of(two, here.invite()), **{name: getattr(taken, name)})
    answer = post(client, two, wanted)
    assert (answer.status_code, answer.json()) == (403, {"refused": "keys"})
    assert here.registry.roster().version >= 1


def test_no_device_takes_another_s_identity_for_its_channel(here: World, client: httpx.Client, tmp_path: Path) -> None:
    """The roster lists each key once: such a device would keep it from ever being signed again."""
    one, two = here.enrolled(tmp_path / "one"), new_device(tmp_path / "two")
    identity = enrolment_of(one, here.invite()).identity
    answer = post(client, two, replace(enrolment_of(two, here.invite()), channel=identity))
    assert answer.status_code in {400, 403}
    assert set(here.registry.roster().members) == {1}


def test_a_channel_of_low_order_is_refused(here: World, client: httpx.Client, tmp_path: Path) -> None:
    device = new_device(tmp_path / "device")
    for weak in (bytes(32), (1).to_bytes(32, "little")):
        answer = post(client, device, replace(enrolment_of(device, here.invite()), channel=weak))
        assert (answer.status_code, answer.json()) == (400, {"refused": "malformed"})


def test_nobody_enrols_with_another_s_identity(here: World, client: httpx.Client, tmp_path: Path) -> None:
    """What is signed with one key and names another is not taken."""
    one, two = new_device(tmp_path / "one"), new_device(tmp_path / "two")
    text = sign_enrolment(enrolment_of(one, here.invite()), one.identity().signing)
    theirs = base64.b64encode(signing_public(two.identity().signing))
    ours = base64.b64encode(signing_public(one.identity().signing))
    assert client.post("/fedrec/v1/enrol", content=text.replace(ours, theirs)).status_code == 400


def test_failures_of_one_address_are_slowed_down(here: World, client: httpx.Client, tmp_path: Path) -> None:
    statuses = [client.post("/fedrec/v1/enrol", content=b"x").status_code for _ in range(11)]
    assert statuses == [400] * 10 + [429]
    device = new_device(tmp_path / "device")
    with pytest.raises(DeviceError, match="wait a minute"):
        enrol(device, here.home.invitation(here.invite()))
    here.ahead = 61
    assert enrol(device, here.home.invitation(here.invite())).number == 1


def statuses(client: httpx.Client, address: str, times: int) -> list[int]:
    headers = {"X-Real-IP": address}
    return [client.post("/fedrec/v1/enrol", content=b"x", headers=headers).status_code for _ in range(times)]


def test_behind_the_proxy_each_address_that_it_names_is_slowed_down_by_itself(tmp_path: Path) -> None:
    with world(tmp_path / "proxied", "127.0.0.1") as here, reaching(here) as client:
        assert statuses(client, "192.0.2.1", 11) == [400] * 10 + [429]
        assert statuses(client, "192.0.2.2", 1) == [400]


def test_nobody_else_s_word_on_an_address_is_believed(tmp_path: Path) -> None:
    for number, proxy in enumerate((None, "192.0.2.9")):
        with world(tmp_path / str(number), proxy) as here, reaching(here) as client:
            found = [statuses(client, f"192.0.2.{one}", 1) for one in range(1, 12)]
            assert found == [[400]] * 10 + [[429]]


def test_a_revoked_device_cannot_enrol_again(here: World, tmp_path: Path) -> None:
    device = here.enrolled(tmp_path / "device")
    device.trust_path.unlink()
    here.registry.revoke(1, int(time.time()))
    with pytest.raises(DeviceError, match="has revoked this device"):
        enrol(device, here.home.invitation(here.invite()))


def test_an_enrolment_that_flower_missed_goes_on_later(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, invitation = new_device(tmp_path / "device"), here.home.invitation(here.invite())
    with monkeypatch.context() as patch:
        patch.setattr(here, "fails", True)
        with pytest.raises(DeviceError, match="again in a minute"):
            enrol(device, invitation)
    (waiting,) = here.registry.devices()
    assert waiting.node_id is None
    assert enrol(device, invitation).number == waiting.number


def test_every_enrolment_and_every_revocation_is_published(here: World, client: httpx.Client, tmp_path: Path) -> None:
    device = here.enrolled(tmp_path / "one")
    trusted = here.home.public("request")

    def published() -> str:
        return read_publication(get(client, here, device, "publication").content, trusted).roster

    first = published()
    assert published() == first == here.registry.roster().digest
    here.enrolled(tmp_path / "two")
    second = published()
    here.registry.revoke(2, int(time.time()))
    assert len({first, second, published()}) == 3
    assert set(here.registry.roster().members) == {1}
    with pytest.raises(ServerError, match="revoked already"):
        here.registry.revoke(2, int(time.time()))
