"""A device's folder: its store, its policy, its keys and whom it trusts. All of it is its owner's alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedrec.data.home import scratch, sync_folder, write_new
from fedrec.device.store import Store, check_private
from fedrec.errors import DeviceError
from fedrec.secagg.enrolment import Identity

if TYPE_CHECKING:
    from fedrec.device.trust import Trust

_KEYS = {"identity": 64, "secret": 32, "alias": 32}
"""Bytes of the raw keys; the node's pair is in the forms that Flower reads."""


@dataclass(frozen=True)
class DeviceHome:
    """Where everything of one device is.

    Attributes:
        root: the folder, mode 0700.

    Guarantees:
        Private keys are files of mode 0600 in folders of mode 0700, and a folder that others can reach is refused.
        Other programs of the same user, and the superuser, can read everything.
    """

    root: Path

    @staticmethod
    def create(root: Path) -> DeviceHome:
        """A new device: fresh keys, an empty store, and a policy under which it takes part in nothing yet.

        It is there whole or not at all.

        Raises:
            DeviceError: if the folder holds something already, or cannot be written.
        """
        from fedrec.device.policy import TEMPLATE

        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise DeviceError(f"'{root}' holds something already; give an empty or new folder with --home.")
        if root.is_mount():
            raise DeviceError(f"'{root}' is a mount point; give a new folder in it: --home '{root / 'device'}'.")
        with scratch(root.absolute().parent) as made:
            new = DeviceHome(made / "device")
            for folder in (new.root, new.keys, new.secagg, new.flwr, new.logs):
                folder.mkdir(mode=0o700)
            new._write_keys()
            write_new(new.policy_path, TEMPLATE.encode())
            Store.create(new.store_path).close()
            sync_folder(new.keys)
            sync_folder(new.root)
            new.root.rename(root)  # onto nothing, or onto an empty folder
        sync_folder(root.absolute().parent)
        return DeviceHome(root)

    @staticmethod
    def open(root: Path) -> DeviceHome:
        """The device of a folder.

        Raises:
            DeviceError: if there is none, or others can reach it.
        """
        home = DeviceHome(root)
        if not home.keys.is_dir():
            raise DeviceError(f"There is no device in '{root}'; make one with 'fedrec device init --home DIR'.")
        check_private(root, "700")
        check_private(home.keys, "700")
        return home

    @property
    def store_path(self) -> Path:
        return self.root / "store.sqlite"

    @property
    def policy_path(self) -> Path:
        return self.root / "policy.toml"

    @property
    def trust_path(self) -> Path:
        return self.root / "trust.json"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def node_key(self) -> Path:
        """EC P-384 in OpenSSH's form, as ``flower-supernode --auth-supernode-private-key`` takes it."""
        return self.keys / "node"

    @property
    def node_public_key(self) -> Path:
        """The same pair's public half, as ``flwr supernode register`` takes it."""
        return self.keys / "node.pub"

    @property
    def secagg(self) -> Path:
        """What secure aggregation keeps between two messages (`fedrec.secagg.store.FolderStore`)."""
        return self.root / "secagg"

    @property
    def flwr(self) -> Path:
        """Flower's own folder (``FLWR_HOME``), emptied at every start."""
        return self.root / "flwr"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def identity(self) -> Identity:
        """The long-term keys of secure aggregation; the signing one also signs what the device asks of its server."""
        raw = self._key("identity")
        return Identity(raw[:32], raw[32:])

    def secret(self) -> bytes:
        """The private randomness of this device, 32 bytes that are never sent."""
        return self._key("secret")

    def alias(self) -> bytes:
        """What this device's pseudonyms in ledgers are made of, 32 bytes that its server knows."""
        return self._key("alias")

    def open_store(self) -> Store:
        """The store; whoever opens it closes it."""
        return Store(self.store_path)

    def trust(self) -> Trust | None:
        """The server that this device is enrolled with, or None."""
        from fedrec.device.trust import Trust

        return Trust.load(self.trust_path) if self.trust_path.exists() else None

    def _key(self, name: str) -> bytes:
        path, size = self.keys / name, _KEYS[name]
        try:
            check_private(path, "600")
            raw = path.read_bytes()
        except OSError as error:
            raise DeviceError(f"Cannot read the key '{path}': {error.strerror}; copy the folder back whole.") from error
        if len(raw) != size:
            raise DeviceError(f"The key '{path}' has {len(raw)} bytes instead of {size}; copy the folder back whole.")
        return raw

    def _write_keys(self) -> None:
        identity = Identity.generate()
        write_new(self.keys / "identity", identity.signing + identity.channel)
        write_new(self.keys / "secret", os.urandom(32))
        write_new(self.keys / "alias", os.urandom(32))
        private, public = _node_pair()
        write_new(self.node_key, private)
        write_new(self.node_public_key, public)


def _node_pair() -> tuple[bytes, bytes]:
    """A fresh key pair for Flower's node authentication."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private, public + b"\n"
