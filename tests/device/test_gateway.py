"""A device at its server's gateway: which server it talks to, and what of it it believes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.numpy import save

from fedrec.agreements.publication import read_publication, sign_publication
from fedrec.agreements.roster import sign_roster
from fedrec.deployment import serving
from fedrec.deployment.certificates import new_ca, new_server, today
from fedrec.deployment.gateway import Gateway as Door
from fedrec.deployment.published import Document
from fedrec.device.budget import known_faults
from fedrec.device.connection import Gateway
from fedrec.device.gateway import TURNED_AWAY, enrol, sync
from fedrec.device.home import DeviceHome
from fedrec.device.shared import kept_round
from fedrec.errors import AgreementError, DeviceError, FedrecError, ServerError
from fedrec.privacy.keys import pseudonym
from fedrec.privacy.participants import Seat, cohort_root, is_member
from fedrec.privacy.proofs import canonical_json, sign_checkpoint
from tests.deployment.world import World, new_device, running, world


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path / "world") as made:
        yield made


@pytest.fixture
def device(here: World, tmp_path: Path) -> DeviceHome:
    return here.enrolled(tmp_path / "device")


def put_model(here: World, round_: int, value: float = 1.0) -> bytes:
    here.home.run.mkdir(exist_ok=True)
    about = {"experiment": here.home.experiment().digest(), "round": str(round_)}
    content = bytes(save({"popularity": np.full(30, value, np.float32)}, metadata=about))
    (here.home.run / "published.safetensors").write_bytes(content)
    return content


# Whom it talks to


def test_another_authority_s_server_gets_nothing(here: World, tmp_path: Path) -> None:
    invitation = here.home.invitation(here.invite())
    other = invitation.model_copy(update={"ca": new_ca("another", today()).certificate.decode()})
    device = new_device(tmp_path / "device")
    with pytest.raises(DeviceError, match="is not the server of the invitation"):
        enrol(device, other)
    assert device.trust() is None
    assert here.registry.devices() == []


def test_a_server_of_another_name_gets_nothing(here: World, tmp_path: Path) -> None:
    invitation = here.home.invitation(here.invite())
    other = invitation.model_copy(update={"server": f"127.0.0.1:{here.port}"})
    with pytest.raises(DeviceError, match="its certificate is not accepted"):
        enrol(new_device(tmp_path / "device"), other)


def test_an_expired_certificate_is_told_as_such(here: World, device: DeviceHome) -> None:
    past = today() - timedelta(days=30)
    key = here.home.root / "ca" / "ca.key"
    ca = replace(new_ca("x", past), certificate=here.home.ca.read_bytes(), key=key.read_bytes())
    old = here.home.root / "old.pem"
    pair = new_server(ca, ["localhost"], past, days=10)
    old.write_bytes(pair.certificate + pair.key)
    trust = device.trust()
    assert trust is not None
    door = Door(here.registry, here.home.public("request"), lambda *_: None, here.register, lambda: None)
    server = serving.server(door, old, "127.0.0.1", 0)
    with running(server):
        port = server.servers[0].sockets[0].getsockname()[1]
        trust.model_copy(update={"server": f"localhost:{port}"}).save(device.trust_path)
        with pytest.raises(DeviceError, match="has expired; its operator renews it"):
            sync(device)


def test_a_server_that_is_not_there_is_told(device: DeviceHome) -> None:
    trust = device.trust()
    assert trust is not None
    trust.model_copy(update={"server": "localhost:9"}).save(device.trust_path)
    with pytest.raises(DeviceError, match="cannot be reached"):
        sync(device)


def test_a_proxy_of_the_environment_is_not_used(device: DeviceHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    assert sync(device).on_roster


# What it keeps


def test_a_device_that_is_not_enrolled_cannot_sync(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="not enrolled"):
        sync(new_device(tmp_path / "device"))


def test_the_first_sync_brings_all_that_there_is(here: World, device: DeviceHome) -> None:
    found = sync(device)
    digest = here.home.experiment().digest()
    assert found.on_roster
    assert (found.publication.round, found.publication.model) == (0, None)
    with device.open_store() as store:
        assert store.get("catalogue") == here.home.catalogue_bytes()
        assert store.get(f"experiment-{digest}") == here.home.experiment_text().encode()
        assert store.get(f"roster-{found.publication.roster}") == here.registry.roster().text
        assert store.get("publication") is not None
    assert set(found.changed) >= {"catalogue", "publication", f"experiment-{digest}"}


def test_a_sync_where_nothing_is_new_changes_nothing(here: World, device: DeviceHome) -> None:
    put_model(here, 1)
    here.write_cohorts((1,))
    sync(device)
    assert sync(device).changed == ()


def test_a_newer_model_is_kept_and_one_of_a_round_before_is_not(here: World, device: DeviceHome) -> None:
    digest = here.home.experiment().digest()
    for round_ in (2, 3):
        put_model(here, round_)
        sync(device)
        with device.open_store() as store:
            assert kept_round(store, digest) == round_
    put_model(here, 1)
    with pytest.raises(AgreementError, match="of round 1, and 3 was here"):
        sync(device)
    with device.open_store() as store:
        assert kept_round(store, digest) == 3


def test_ledger_checkpoint_and_seats_are_kept_as_they_come(here: World, device: DeviceHome, tmp_path: Path) -> None:
    for number in (2, 3):
        here.enrolled(tmp_path / f"d{number}")
    here.write_cohorts((1, 2, 3), (2, 3), (1, 3))
    (here.home.run / "ledger.jsonl").write_bytes(b"{}\n")
    (here.home.run / "ledger.checkpoint").write_bytes(b"{}")
    sync(device)
    with device.open_store() as store:
        assert (store.get("ledger"), store.get("ledger-checkpoint")) == (b"{}\n", b"{}")
        shown = json.loads(store.get("proofs") or b"")["attempts"]
    proofs = {
        (one["round"], one["attempt"]): [
            Seat(seat["pseudonym"], seat["index"], tuple(bytes.fromhex(step) for step in seat["proof"]))
            for seat in one["seats"]
        ]
        for one in shown
    }
    run = here.home.experiment().digest()
    names = {one.number: pseudonym(one.alias, run) for one in here.registry.devices()}
    for (round_, attempt), cohort in {(1, 0): (1, 2, 3), (2, 0): (2, 3), (3, 0): (1, 3)}.items():
        root = cohort_root([names[number] for number in cohort])
        assert is_member(names[1], proofs[round_, attempt], len(cohort), root) == (1 in cohort)


def test_a_roster_without_this_device_is_told(here: World, device: DeviceHome, tmp_path: Path) -> None:
    here.enrolled(tmp_path / "two")
    assert sync(device).on_roster
    here.registry.revoke(1, int(time.time()))
    with pytest.raises(DeviceError, match="turns this device away"):
        sync(device)


def test_a_device_that_was_turned_away_keeps_why_until_it_is_let_in(here: World, device: DeviceHome) -> None:
    sync(device)
    with pytest.raises(DeviceError, match=r"the clocks differ by [0-9]+ s; set the one that is wrong"):
        sync(device, lambda: time.time() - 4000)
    with device.open_store() as store:
        assert "clocks differ" in (store.get(TURNED_AWAY) or b"").decode()
    sync(device)
    with device.open_store() as store:
        assert store.get(TURNED_AWAY) is None
    here.registry.revoke(1, int(time.time()))
    with pytest.raises(DeviceError, match=r"it knows it no more, most likely since it was revoked; ask its operator"):
        sync(device)
    with device.open_store() as store:
        assert "revoked" in (store.get(TURNED_AWAY) or b"").decode()


def test_a_new_catalogue_that_cannot_be_read_leaves_the_old_one(here: World, device: DeviceHome) -> None:
    sync(device)
    trust = device.trust()
    assert trust is not None
    for port in lying(here, LIES["a catalogue that cannot be read"]):
        trust.model_copy(update={"server": f"localhost:{port}"}).save(device.trust_path)
        with pytest.raises(AgreementError, match="this device keeps the one that it has"):
            sync(device)
    with device.open_store() as store:
        assert store.get("catalogue") == here.home.catalogue_bytes()


# What it does not believe

Change = Callable[[World, str, bytes], bytes | None]


def lying(here: World, change: Change) -> Iterator[int]:
    """The same server with documents changed on their way out; its port."""
    from fedrec.deployment.published import Published

    honest = Published(here.home, here.registry)

    def document(name: str, _: object) -> Document | None:
        found = honest.document(name, here.registry.devices()[0])
        changed = change(here, name, b"" if found is None else found.content)
        return None if changed is None or not changed else Document.of(changed)

    door = Door(here.registry, here.home.public("request"), document, here.register, lambda: None)
    server = serving.server(door, here.home.certificate, "127.0.0.1", 0)
    with running(server):
        yield server.servers[0].sockets[0].getsockname()[1]


def resigned(here: World, content: bytes, **fields: object) -> bytes:
    """A publication with other fields, by the server's own key."""
    old = read_publication(content, here.home.public("request"))
    return sign_publication(replace(old, **fields), here.home.key("request"))  # type: ignore[arg-type] # fields of it


STRANGE = Ed25519PrivateKey.generate()

LIES: dict[str, Change] = {
    "a publication by another key": lambda here, name, content: (
        sign_publication(read_publication(content, here.home.public("request")), STRANGE)
        if name == "publication"
        else content
    ),
    "a publication that was edited": lambda _, name, content: (
        content.replace(b'"round":1', b'"round":7') if name == "publication" else content
    ),
    "a publication of an earlier round": lambda here, name, content: (
        resigned(here, content, round=0, model=None) if name == "publication" else content
    ),
    "a roster by another key": lambda here, name, content: (
        sign_roster(99, here.registry.roster().members, STRANGE).text if name == "roster" else content
    ),
    "another catalogue": lambda _, name, content: content + b" " if name == "catalogue" else content,
    "another experiment": lambda _, name, content: (
        content.replace(b"min_cohort = 3", b"min_cohort = 2") if name == "experiment" else content
    ),
    "an experiment that is none": lambda _, name, content: b"\xff[[" if name == "experiment" else content,
    "another model": lambda _, name, content: content[:-1] + b"\x01" if name == "model" else content,
    "a model that cannot be read": lambda here, name, content: (
        b"junk"
        if name == "model"
        else resigned(here, content, model=Document.of(b"junk").digest)
        if name == "publication"
        else content
    ),
    "a catalogue that cannot be read": lambda here, name, content: (
        b"junk"
        if name == "catalogue"
        else resigned(here, content, catalogue=Document.of(b"junk").digest)
        if name == "publication"
        else content
    ),
    "no roster": lambda _, name, content: None if name == "roster" else content,
}


@pytest.mark.parametrize("lie", LIES)
def test_what_the_keys_did_not_sign_is_not_kept(here: World, device: DeviceHome, lie: str) -> None:
    put_model(here, 1)
    trust = device.trust()
    assert trust is not None
    if lie == "a publication of an earlier round":
        sync(device)
    with device.open_store() as store:
        before = store.get("publication")
    for port in lying(here, LIES[lie]):
        trust.model_copy(update={"server": f"localhost:{port}"}).save(device.trust_path)
        with pytest.raises(FedrecError):
            sync(device)
    with device.open_store() as store:
        assert store.get("publication") == before
        assert (store.get("catalogue") or here.home.catalogue_bytes()) == here.home.catalogue_bytes()
        assert lie == "a publication of an earlier round" or kept_round(store, here.home.experiment().digest()) == -1
    trust.save(device.trust_path)
    assert sync(device).publication.round == 1  # the honest server goes on


def test_an_older_roster_is_a_step_back(here: World, device: DeviceHome, tmp_path: Path) -> None:
    first = here.registry.roster()
    here.enrolled(tmp_path / "two")
    sync(device)
    trust = device.trust()
    assert trust is not None

    def older(_: World, name: str, content: bytes) -> bytes:
        if name == "publication":
            return resigned(here, content, roster=first.digest)
        return first.text if name == "roster" else content

    for port in lying(here, older):
        trust.model_copy(update={"server": f"localhost:{port}"}).save(device.trust_path)
        with pytest.raises(AgreementError, match="version"):
            sync(device)


def test_a_document_without_end_is_not_read(here: World, device: DeviceHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedrec.device.connection._MOST", 100)
    trust = device.trust()
    assert trust is not None
    with Gateway(trust, device.identity().signing) as gateway, pytest.raises(DeviceError, match="more than 100 bytes"):
        gateway.fetch("catalogue", trust.number)
    assert here.up


# The ledger


def put_ledger(here: World, key: Ed25519PrivateKey) -> None:
    """An opened ledger, with its checkpoint."""
    run = here.home.experiment().digest()
    opening = {"type": "open", "version": 2, "prev": "0" * 64, "run": run, "unit": "user", "delta": "1e-05"}
    line = canonical_json(opening)
    here.home.run.mkdir(exist_ok=True)
    (here.home.run / "ledger.jsonl").write_bytes(line + b"\n")
    (here.home.run / "ledger.checkpoint").write_text(sign_checkpoint([line], run, key))


def test_a_ledger_by_the_key_of_the_invitation_holds(here: World, device: DeviceHome) -> None:
    put_ledger(here, here.home.key("ledger"))
    assert sync(device).faults == ()
    with device.open_store() as store:
        assert known_faults(store) == ()


def test_another_key_s_ledger_is_a_fault_that_is_kept_until_all_holds(here: World, device: DeviceHome) -> None:
    put_ledger(here, STRANGE)
    (fault,) = sync(device).faults
    assert "signed by another key" in fault
    with device.open_store() as store:
        assert known_faults(store) == (fault,)
    put_ledger(here, here.home.key("ledger"))
    assert sync(device).faults == ()
    with device.open_store() as store:
        assert known_faults(store) == ()


@pytest.mark.usefixtures("here")
def test_charges_that_were_edited_are_a_fault(device: DeviceHome) -> None:
    with device.open_store() as store, store.transaction() as connection:
        connection.execute("INSERT INTO charges VALUES ('e', 1, 0, 1, '1970-01-01', 'r', '{}', '{}', 5, x'00')")
    assert "edited" in sync(device).faults[0]


def test_when_the_ledger_was_asked_for_is_kept_at_every_sync(here: World, device: DeviceHome) -> None:
    put_ledger(here, here.home.key("ledger"))
    for ahead in (0, 60):
        now = time.time() + ahead
        sync(device, lambda now=now: now)  # type: ignore[misc] # the default is the value of this turn
        with device.open_store() as store:
            assert store.get("ledger-fetched") == str(int(now)).encode()


def test_a_sync_that_ends_between_checkpoint_and_ledger_keeps_neither(here: World, device: DeviceHome) -> None:
    put_ledger(here, here.home.key("ledger"))
    trust = device.trust()
    assert trust is not None
    fails = {"ledger": True}

    def broken(_: World, name: str, content: bytes) -> bytes:
        if name == "ledger" and fails["ledger"]:
            raise ServerError("The disk is gone.")
        return content

    for port in lying(here, broken):
        trust.model_copy(update={"server": f"localhost:{port}"}).save(device.trust_path)
        with pytest.raises(DeviceError, match="'ledger'"):
            sync(device)
        with device.open_store() as store:
            assert (store.get("ledger"), store.get("ledger-checkpoint")) == (None, None)
        fails["ledger"] = False
        assert {"ledger", "ledger-checkpoint"} <= set(sync(device).changed)
