"""No data at all: the interactions stay on the devices, and only the public catalogue is agreed on."""

from __future__ import annotations

from typing import Annotated, Literal, NoReturn

from pydantic import StringConstraints

from fedrec.config import DataConfig
from fedrec.errors import DataError
from fedrec.registry import SOURCES


class DevicesConfig(DataConfig):
    """Names the catalogue that every device and the server must hold.

    Attributes:
        catalogue: SHA-256 of its bytes (`fedrec.device.catalogue`), in hex.
    """

    name: Literal["devices"] = "devices"
    catalogue: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


@SOURCES.register("devices")
class Devices:
    """The data of a deployment, which nobody but each device can load."""

    about = "The interactions on real devices, which stay there: fedrec server up runs an experiment on them."
    Config = DevicesConfig

    @staticmethod
    def load(config: DevicesConfig) -> NoReturn:  # noqa: ARG004 - every source's signature
        """Refuse.

        Raises:
            DataError: always.
        """
        raise DataError(
            "data.name = 'devices' has no data here: it stays on the devices; run it with fedrec server up."
        )
