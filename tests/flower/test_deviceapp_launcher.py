"""What the SuperNode of a device starts, with apps that carry code: in processes as Flower starts them, handed their
messages by a SuperNode's own Runtime API."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, RecordDict
from flwr.clientapp.client_app import LoadClientAppError
from flwr.common.constant import ErrorCode

from fedrec.device.home import DeviceHome
from fedrec.device.supernode import SuperNode, environment
from fedrec.flower.launcher import check_app
from simulations.benchmarks.node_runtime import EMPTY, Ended, NodeRuntime, node_runtime, pack
from tests.deployment.members import without_server

HOSTILE = "import os\nopen(os.environ['MARKER'], 'a').write(__file__)\n"
"""A module of an app that leaves a trace when it is imported."""


@pytest.fixture(scope="module")
def node() -> Iterator[NodeRuntime]:
    with node_runtime() as running:
        yield running


@pytest.fixture
def device(tmp_path: Path) -> DeviceHome:
    home = without_server(tmp_path / "device")
    trust = home.trust()
    assert trust is not None
    SuperNode(home, trust)
    return home


def ask(
    node: NodeRuntime, home: DeviceHome, command: str, app: bytes, kind: str = "train.masked"
) -> tuple[Ended, Path]:
    """One message to one process that is started by this command, and where a hostile module would leave its trace."""
    marker = home.root.parent / "marker"
    around = environment(home, {**os.environ, "MARKER": str(marker)})
    content = RecordDict({"config": ConfigRecord({"protocol": 2, "request": b"", "message": b""})})
    return node.answer([command], around, app, content, kind, {"experiment": ""}), marker


def launcher(home: DeviceHome) -> str:
    return str(home.flwr / "bin" / "flwr-clientapp")


def said(ended: Ended) -> Mapping[str, object]:
    """All that a reply holds."""
    assert ended.reply is not None
    assert not ended.reply.has_error(), ended.output
    content = ended.reply.content
    assert not content.array_records or not any(content.array_records.values())
    assert not content.metric_records
    return dict(content.config_records["config"])


@pytest.mark.slow
def test_an_app_with_its_own_fedrec_wins_where_flower_starts_it(node: NodeRuntime, device: DeviceHome) -> None:
    app = pack({"fedrec/__init__.py": HOSTILE, "fedrec/flower/__init__.py": "", "fedrec/flower/deviceapp.py": EMPTY})
    _, marker = ask(node, device, "flwr-clientapp", app)  # the device's comes first on this PATH, so:
    assert not marker.exists()
    _, marker = ask(node, device, f"{Path(sys.executable).parent}/flwr-clientapp", app)
    assert marker.exists()


@pytest.mark.parametrize(
    "files",
    [
        {"fedrec/__init__.py": HOSTILE, "fedrec/flower/__init__.py": "", "fedrec/flower/deviceapp.py": EMPTY},
        pytest.param({"numpy.py": HOSTILE}, marks=pytest.mark.slow),
        pytest.param({"../fedrec.py": HOSTILE}, marks=pytest.mark.slow),
    ],
    ids=["own fedrec", "shadowed module", "path that leaves the folder"],
)
def test_an_app_that_carries_code_is_refused_and_never_unpacked(
    node: NodeRuntime, device: DeviceHome, files: Mapping[str, str]
) -> None:
    ended, marker = ask(node, device, launcher(device), pack(files))
    assert ended.reply is not None
    assert ended.reply.has_error()
    assert ended.reply.error.code == ErrorCode.LOAD_CLIENT_APP_EXCEPTION
    assert ended.reply.error.reason == "An exception was raised when attempting to load `ClientApp`"
    assert "configuration only" in ended.output  # the owner's log says why
    assert not marker.exists()
    assert not (device.flwr / "apps").exists()


@pytest.mark.slow
def test_an_app_cannot_choose_what_runs(node: NodeRuntime, device: DeviceHome) -> None:
    ended, _ = ask(node, device, launcher(device), pack({}, component="os:system"))
    assert said(ended) == {"protocol": 2, "refused": 1}
    assert not (device.flwr / "apps").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["query", "evaluate.x", "train.other"])
def test_a_message_of_an_unknown_kind_gets_the_one_constant(node: NodeRuntime, device: DeviceHome, kind: str) -> None:
    assert said(ask(node, device, launcher(device), pack({}), kind)[0]) == {"protocol": 2, "refused": 1}


@pytest.mark.parametrize(
    "command", ["flwr-agentapp", "flwr-model", "flwr-connector", "flwr-serverapp", "flwr-simulation"]
)
def test_no_other_kind_of_task_runs_on_a_device(device: DeviceHome, command: str) -> None:
    done = subprocess.run(
        [command, "--token", "1"], env=environment(device, os.environ), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.strip() == f"refused: a device runs no '{command}'"


@pytest.mark.parametrize(
    "app",
    [b"", b"no archive", bytes(2 << 20), pack({"sitecustomize.py": ""}), pack({"LICENSE": ""}), pack({"x.pth": ""})],
    ids=["empty", "no archive", "large", "sitecustomize", "a licence", "a path file"],
)
def test_all_but_configuration_is_refused(app: bytes) -> None:
    with pytest.raises(LoadClientAppError):
        check_app(app)


def test_a_configuration_is_accepted() -> None:
    check_app(pack({}))
