"""A server's folder: configuration, certificates, signing keys, registry, catalogue, experiment and run."""

from __future__ import annotations

import base64
import hashlib
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, IPvAnyAddress, ValidationError

from fedrec.agreements.statement import in_base64
from fedrec.config import Experiment, parse
from fedrec.data.home import scratch, write_new
from fedrec.data.interactions import Catalogue
from fedrec.data.sources.devices import DevicesConfig
from fedrec.deployment import certificates
from fedrec.deployment.certificates import Pair
from fedrec.deployment.experiment import for_devices
from fedrec.deployment.registry import Registry
from fedrec.device import catalogue as catalogues
from fedrec.device.trust import Invitation
from fedrec.errors import ServerError, UsageError
from fedrec.sections import Section

SIGNERS = ("request", "registrar", "app", "ledger")
"""The keys that a server signs with: requests and publications, rosters, the Flower app, and its ledger."""


_NEW = "tls/.new.pem"


class ServerConfig(Section):
    """What `server.toml` holds.

    Attributes:
        public_name: the host name or address that devices connect to; it stands in the certificate.
        public_port: the port that they connect to.
        host: the address that the gateway listens at.
        port: the port that it listens at; another one than the public one where something stands in front.
        superlink_port: of the SuperLink, on loopback; 0 takes a free one, as for the two below.
        apps_port: of the app registry, on loopback.
        metrics_port: of the metrics, on loopback.
        proxy: the address of a proxy that stands in front and says in X-Real-IP whom it speaks for; None while every
            connection is a device's own.
    """

    public_name: str
    public_port: int = Field(9443, ge=1, le=65535)
    host: str = "0.0.0.0"  # noqa: S104 - devices come from elsewhere
    port: int = Field(9443, ge=1, le=65535)
    superlink_port: int = Field(0, ge=0, le=65535)
    apps_port: int = Field(0, ge=0, le=65535)
    metrics_port: int = Field(0, ge=0, le=65535)
    proxy: IPvAnyAddress | None = None

    @property
    def address(self) -> str:
        """Where devices connect to, ``host:port``."""
        host = f"[{self.public_name}]" if ":" in self.public_name else self.public_name
        return f"{host}:{self.public_port}"


@dataclass(frozen=True)
class ServerHome:
    """Where everything of one server is.

    Attributes:
        root: the folder, mode 0700.

    Guarantees:
        Private keys are files of mode 0600, and a folder that others can reach is refused. It is made whole or not
        at all, and a renewed certificate replaces the old one whole.
    """

    root: Path

    @staticmethod
    def create(
        root: Path,
        config: ServerConfig,
        experiment: Experiment,
        catalogue: Catalogue,
        given: tuple[Pair, bytes] | None = None,
        registrar: bytes | None = None,
    ) -> ServerHome:
        """A new server.

        Args:
            root: an empty folder, or one that is not there yet.
            config: what devices connect to.
            experiment: what devices are to train.
            catalogue: the public items.
            given: a certificate with its key, and the authority that devices are to trust for it (PEM); None makes an
                authority and a certificate.
            registrar: the public key that signs rosters, if it is kept elsewhere; None makes one.

        Raises:
            ServerError: if the folder holds something already, or devices would not accept the certificate.
            ConfigError: if the experiment cannot run on devices.
            PrivacyError: if nothing is proved for it.
        """
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise ServerError(f"'{root}' holds something already; give an empty or new folder with --home.")
        resolved = for_devices(experiment, catalogue)
        with scratch(root.absolute().parent) as made:
            new = ServerHome(made / "server")
            for folder in (new.root, new.ca.parent, new.certificate.parent, new.keys, new.flwr, new.logs):
                folder.mkdir(mode=0o700)
            new._write("server.toml", tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)).encode())
            new._write("experiment.toml", resolved.to_toml().encode())
            new._write("catalogue.bin", catalogues.to_bytes(catalogue))
            new._write_keys(registrar)
            new._write_certificates(config, given)
            Registry.create(new.state, new._registrar())
            new.root.rename(root)  # onto nothing, or onto an empty folder
        return ServerHome(root)

    @staticmethod
    def open(root: Path) -> ServerHome:
        """The server of a folder.

        Raises:
            UsageError: if there is none.
            ServerError: if others can reach it.
        """
        root = root.absolute()  # its processes run in folders of their own
        home = ServerHome(root)
        if not (root / "server.toml").is_file():
            raise UsageError(f"There is no server in '{root}'; make one with 'fedrec server init --home DIR'.")
        for path in (root, home.keys):
            if path.stat().st_mode & 0o077:
                raise ServerError(f"Others on this machine can reach '{path}'; run: chmod 700 '{path}'")
        return home

    # Places

    @property
    def ca(self) -> Path:
        """The certificate of the authority that devices trust; its key is beside it if it was made here."""
        return self.root / "ca" / "ca.pem"

    @property
    def certificate(self) -> Path:
        """The server's certificate and its key, in one file: no crash can leave one with another's."""
        return self.root / "tls" / "server.pem"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def state(self) -> Path:
        """The registry's SQLite file."""
        return self.root / "state.sqlite"

    @property
    def catalogue_file(self) -> Path:
        return self.root / "catalogue.bin"

    @property
    def experiment_file(self) -> Path:
        return self.root / "experiment.toml"

    @property
    def run(self) -> Path:
        """The run folder (`fedrec.reporting.folder`), which the first round makes."""
        return self.root / "run"

    @property
    def flwr(self) -> Path:
        """Flower's own folder (``FLWR_HOME``)."""
        return self.root / "flwr"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    # Contents

    @cached_property
    def config(self) -> ServerConfig:
        """``server.toml``.

        Raises:
            ServerError: naming the key that is wrong.
        """
        path = self.root / "server.toml"
        try:
            return ServerConfig.model_validate(tomllib.loads(self._read("server.toml").decode()))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ServerError(f"{path}: '{where}': {first['msg'].lower()}; correct it.") from error
        except ValueError as error:
            raise ServerError(f"{path} is not valid TOML: {error}.") from error

    def experiment_text(self) -> str:
        """The resolved experiment as every device gets it."""
        return self._read(self.experiment_file.name).decode()

    def experiment(self) -> Experiment:
        return parse(self.experiment_text(), str(self.experiment_file))

    def catalogue_bytes(self) -> bytes:
        """The catalogue as every device gets it."""
        return self._read(self.catalogue_file.name)

    def catalogue(self) -> Catalogue:
        """The public items.

        Raises:
            ServerError: if they are not those that the experiment names, which no device would take.
        """
        content, data = self.catalogue_bytes(), self.experiment().data
        if not isinstance(data, DevicesConfig) or catalogues.digest(content) != data.catalogue:
            raise ServerError(
                f"'{self.catalogue_file}' is not the catalogue that '{self.experiment_file}' names: it is damaged or "
                "was replaced; restore it from a backup."
            )
        return catalogues.from_bytes(content)

    def key(self, name: str) -> Ed25519PrivateKey:
        """One of `SIGNERS`.

        Raises:
            ServerError: if it is missing or damaged, or is the registrar's and kept elsewhere.
        """
        path = self.keys / f"{name}.key"
        if name == "registrar" and not path.exists():
            raise ServerError("The registrar's key is kept elsewhere; sign rosters there (fedrec server roster-sign).")
        raw = self._read(f"keys/{name}.key")
        if len(raw) != 32:
            raise ServerError(f"'{path}' is not a 32-byte Ed25519 key; restore it from a backup.")
        return Ed25519PrivateKey.from_private_bytes(raw)

    def public(self, name: str) -> bytes:
        """The public half of one of `SIGNERS`, 32 bytes."""
        registrar = self._registrar() if name == "registrar" else self.key(name)
        return registrar if isinstance(registrar, bytes) else registrar.public_key().public_bytes_raw()

    @property
    def signs_rosters(self) -> bool:
        """Whether the registrar's key is here."""
        return not isinstance(self._registrar(), bytes)

    @property
    def app_key_id(self) -> str:
        """What Flower calls the app's key."""
        return "fpk_" + hashlib.sha256(self.public("app")).hexdigest()[:32]

    def registry(self) -> Registry:
        return Registry(self.state, self._registrar())

    def invitation(self, token: str) -> Invitation:
        """What the owner of a device is given with a token."""
        return Invitation(
            server=self.config.address,
            ca=self._read("ca/ca.pem").decode("ascii"),
            request_key=in_base64(self.public("request")),
            registrar_key=in_base64(self.public("registrar")),
            ledger_key=in_base64(self.public("ledger")),
            app_key=in_base64(self.public("app")),
            app_key_id=self.app_key_id,
            token=token,
        )

    # Certificates

    def certificate_days(self) -> float:
        """Days until the server's certificate ends."""
        return certificates.days_left(self._read("tls/server.pem"), certificates.today())

    def renew(self, given: Pair | None = None) -> None:
        """Put a new certificate, made here or given, in the place of the server's; a gateway that runs takes it up.

        Raises:
            ServerError: if devices would not accept it, or the authority's key is not here.
        """
        pair = given or self._issue(self.config.public_name)
        certificates.check_server(pair, self._read("ca/ca.pem"), self.config.public_name)
        (self.root / _NEW).unlink(missing_ok=True)
        self._write(_NEW, _both(pair))
        (self.root / _NEW).rename(self.certificate)

    def _issue(self, name: str) -> Pair:
        if not self.ca.with_suffix(".key").exists():
            raise ServerError("The authority's key is not in this folder; give --cert and --key that it has signed.")
        ca = Pair(self._read("ca/ca.pem"), self._read("ca/ca.key"))
        return certificates.new_server(ca, [name], certificates.today())

    # Below

    def _registrar(self) -> Ed25519PrivateKey | bytes:
        elsewhere = self.keys / "registrar.pub"
        return base64.b64decode(elsewhere.read_bytes()) if elsewhere.exists() else self.key("registrar")

    def _write_keys(self, registrar: bytes | None) -> None:
        for name in SIGNERS:
            if name == "registrar" and registrar is not None:
                self._write("keys/registrar.pub", base64.b64encode(registrar))
            else:
                self._write(f"keys/{name}.key", Ed25519PrivateKey.generate().private_bytes_raw())

    def _write_certificates(self, config: ServerConfig, given: tuple[Pair, bytes] | None) -> None:
        if given is None:
            ca = certificates.new_ca(config.public_name, certificates.today())
            self._write("ca/ca.key", ca.key)
        self._write("ca/ca.pem", ca.certificate if given is None else given[1])
        server = self._issue(config.public_name) if given is None else given[0]
        certificates.check_server(server, self._read("ca/ca.pem"), config.public_name)
        self._write("tls/server.pem", _both(server))

    def _read(self, name: str) -> bytes:
        path = self.root / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise ServerError(f"Cannot read '{path}': {error.strerror}; restore it from a backup.") from error

    def _write(self, name: str, content: bytes) -> None:
        write_new(self.root / name, content)


def _both(pair: Pair) -> bytes:
    return pair.certificate.rstrip() + b"\n" + pair.key
