"""Which device a verb of ``fedrec device`` is about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fedrec.device.home import DeviceHome

HomeOption = Annotated[
    Path | None, typer.Option("--home", metavar="DIR", help="The device's folder; by default $FEDREC_HOME/device.")
]


def place(home: Path | None) -> Path:
    """The device's folder, as given or in fedrec's own."""
    from fedrec.data.home import home as fedrec_home

    return home or fedrec_home() / "device"


def device(home: Path | None) -> DeviceHome:
    """The device that is there.

    Raises:
        DeviceError: if there is none.
    """
    from fedrec.device.home import DeviceHome

    return DeviceHome.open(place(home))
