"""Devices of a server in the same process: enrolled, with a history each, and prepared for its experiment."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import numpy as np

from fedrec.agreements.enrolment import Enrolment, node_key_pem
from fedrec.data.interactions import Catalogue
from fedrec.deployment.certificates import new_ca, today
from fedrec.deployment.home import ServerHome
from fedrec.deployment.registry import Registry
from fedrec.device import catalogue as catalogues
from fedrec.device import history, preparation
from fedrec.device.home import DeviceHome
from fedrec.device.trust import Trust

ITEMS = Catalogue(np.array([f"item-{number}" for number in range(40)]))
POLICY = """
opt_in = true
min_cohort = 3
min_noise_multiplier = 0.1
epsilon_day = 50.0
epsilon_total = 50.0
answer_seconds = 0.0
"""


def seen(number: int) -> list[str]:
    """What a device's user has seen at the beginning."""
    return [f"item-{item}" for item in range(number, 40, 2 + number)]


def enrol(home: ServerHome, registry: Registry, number: int, device: DeviceHome, node: int) -> None:
    """Enrol a device, which must become this number, under a node id of Flower's, and prepare it."""
    token, member = registry.new_token(int(time.time()), 1.0), device.identity().member()
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    key = node_key_pem(device.node_public_key.read_bytes())
    asked = Enrolment(raw, member.identity, member.channel, device.alias(), key)
    assert registry.enrol(asked, int(time.time())).number == number
    registry.note_node(number, str(node))
    invitation = home.invitation(token).model_dump(exclude={"token"})
    Trust(**invitation, number=number, node_id=str(node)).save(device.trust_path)
    device.policy_path.write_text(POLICY)
    with device.open_store() as store:
        store.put(catalogues.DOCUMENT, catalogues.to_bytes(ITEMS))
        for place, item in enumerate(seen(number)):
            history.record(store, item, at=1_700_000_000 + place)
        preparation.prepare(store, home.experiment_text())


def without_server(root: Path) -> DeviceHome:
    """A device that is enrolled with a server that there is none of."""
    home, key = DeviceHome.create(root), base64.b64encode(bytes(31) + b"\1").decode()
    keys = dict.fromkeys(("request_key", "registrar_key", "app_key", "ledger_key"), key)
    authority = new_ca("test", today()).certificate.decode()
    Trust(server="localhost:1", ca=authority, **keys, app_key_id="fpk_1", number=3, node_id="1").save(home.trust_path)
    return home
