"""What a device's SuperNode starts instead of Flower's commands: the installed fedrec, and nothing that a server sent.

Flower unpacks an app under FLWR_HOME, puts that folder first on ``sys.path`` and imports what the app names. A device
does none of it. `fedrec.device.supernode` puts commands of Flower's names first on the SuperNode's PATH, and they come
here: a ClientApp's task runs `fedrec.flower.deviceapp.app` as the owner installed it, every other kind of task ends at
once.

Guarantees: no byte of an app is unpacked, imported or executed, whoever signed it. An app that holds more than its
configuration is refused as a whole. If Flower no longer has the two functions that are replaced, nothing runs.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Final

from flwr.clientapp import ClientApp
from flwr.clientapp.client_app import LoadClientAppError

CONFIGURATION: Final = frozenset({"pyproject.toml", ".info/CONTENT"})
"""All that an app may hold."""

_MAX_APP: Final = 1 << 20
_REPLACED: Final = ("install_from_fab", "get_load_client_app_fn")


def check_app(app: bytes) -> None:
    """That an app is configuration only.

    Raises:
        LoadClientAppError: if it is too large, no archive or holds another file. Flower answers with fixed words.
    """
    if len(app) > _MAX_APP:
        raise LoadClientAppError(f"The app has {len(app)} bytes; a configuration has at most {_MAX_APP}.")
    try:
        names = zipfile.ZipFile(BytesIO(app)).namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise LoadClientAppError("The app is no archive.") from error
    if not CONFIGURATION.issuperset(names):
        extra = sorted(set(names) - CONFIGURATION)[0][:80]
        raise LoadClientAppError(f"The app carries {extra!r}; a device runs apps that are configuration only.")


def run_clientapp(arguments: list[str]) -> None:
    """Flower's ``flwr-clientapp``, with the installed ClientApp in place of the one in the app.

    Flower's own command also loads the whole SuperNode, 30 MB that no ClientApp needs; here that is left out.

    Raises:
        LoadClientAppError: this Flower is another than the one that this was written for.
    """
    from flwr.common.args import add_args_flwr_app_common, try_obtain_flwr_app_token
    from flwr.supercore.tls import validate_and_resolve_root_certificates
    from flwr.supernode.runtime import run_clientapp as runtime

    from fedrec.flower.deviceapp import app

    if not all(hasattr(runtime, name) for name in _REPLACED):
        raise LoadClientAppError("This version of Flower is not known to run apps safely; install flwr 1.41.")

    def checked(fab_file: Path | bytes, install_dir: Path | None = None, skip_prompt: bool = False) -> Path:  # noqa: ARG001 - Flower's signature
        if not isinstance(fab_file, bytes):
            raise LoadClientAppError("The app is no byte string.")
        check_app(fab_file)
        return Path()

    def installed(default_app_ref: str, app_path: str | None, multi_app: bool) -> Callable[[str, str, str], ClientApp]:  # noqa: ARG001 - the same
        return lambda *_: app

    for name, function in zip(_REPLACED, (checked, installed), strict=True):
        setattr(runtime, name, function)
    parser = argparse.ArgumentParser(prog="flwr-clientapp")
    parser.add_argument("--runtime-api-address", required=True)
    add_args_flwr_app_common(parser)
    given = parser.parse_args(arguments)
    runtime.run_clientapp(
        runtime_api_address=given.runtime_api_address,
        token=try_obtain_flwr_app_token(given),
        insecure=given.insecure,
        certificates=validate_and_resolve_root_certificates(given.root_certificates, given.insecure),
        parent_pid=given.parent_pid,
        runtime_dependency_install=False,
    )


def main(arguments: list[str]) -> None:
    """Run one of Flower's commands the way that a device allows: its name, then its own arguments."""
    command, *rest = arguments
    if command == "flwr-clientapp":
        run_clientapp(rest)
    elif command == "flower-superexec":
        from flwr.supercore.cli.flower_superexec import flower_superexec

        sys.argv = [command, *rest]
        flower_superexec()
    elif command == "flower-supernode":
        from flwr.supernode.cli.flower_supernode import flower_supernode

        from fedrec.flower.lifeline import end_with

        end_with(int(rest[0]))  # it must not outlive its agent
        sys.argv = [command, *rest[1:]]
        flower_supernode()
    else:
        sys.exit(f"refused: a device runs no '{command}'")


if __name__ == "__main__":
    main(sys.argv[1:])
