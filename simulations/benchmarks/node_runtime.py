"""A SuperNode's Runtime API in this process, which hands messages to ClientApp processes as Flower does.

No SuperLink: what a process is to answer is put into the SuperNode's state by hand.
"""

from __future__ import annotations

import hashlib
import re
import resource
import socket
import subprocess
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import uvicorn
from flwr.app import Context, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.servicer.runtime.runtime_handlers import acquire_task
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory

PYPROJECT = """[project]
name = "fedrec-run"
version = "1.0.0"
description = "configuration only"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "fedrec"

[tool.flwr.app.components]
serverapp = "{server}"
clientapp = "{component}"

[tool.flwr.app.config]
experiment = ""
"""

EMPTY = """from flwr.app import Message
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    return Message(message.content, reply_to=message)
"""


@dataclass(frozen=True)
class Ended:
    """A ClientApp process that has ended.

    Attributes:
        code: its exit code.
        seconds: from its start to its end.
        cpu: seconds of one core.
        peak: memory in bytes.
        reply: what it answered, if it did.
        output: what it printed.
    """

    code: int
    seconds: float
    cpu: float
    peak: int
    reply: Message | None
    output: str


def pack(
    files: Mapping[str, str],
    component: str = "fedrec.flower.deviceapp:app",
    server: str = "fedrec.flower.deployapp:app",
) -> bytes:
    """An app of Flower's: a pyproject, these files, and the list of their hashes."""
    files = {"pyproject.toml": PYPROJECT.format(component=component, server=server), **files}
    listed = [f"{path},{hashlib.sha256(text.encode()).hexdigest()},{8 * len(text)}" for path, text in files.items()]
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        for path, text in {**files, ".info/CONTENT": "\n".join(listed)}.items():
            opened.writestr(path, text)
    return archive.getvalue()


class NodeRuntime:
    """A SuperNode's Runtime API on loopback, with its messages put in by hand in place of a SuperLink."""

    def __init__(self, address: str) -> None:
        self.address = address
        objects = ObjectStoreFactory()
        self.factory = NodeStateFactory(objectstore_factory=objects)
        self._state, self._objects, self._runs = self.factory.state(), objects.store(), 0
        self._state.set_node_id(1)

    def answer(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        app: bytes,
        content: RecordDict,
        message_type: str = "train",
        run_config: Mapping[str, str] | None = None,
    ) -> Ended:
        """Hand one message to one new process and wait until it has ended."""
        self._runs += 1
        run = Run.create_empty(self._runs)
        run.fab_id, run.fab_version, run.fab_hash = "fedrec/fedrec-run", "1.0.0", hashlib.sha256(app).hexdigest()
        run.series_id = run.run_id
        state, store = self._state, self._objects
        context = Context(run.run_id, 1, {}, RecordDict(), dict(run_config or {}), series_id=run.series_id)
        state.set_run_series_context(run.series_id, context)
        state.store_run(run)
        state.store_fab(Fab(run.fab_hash, app, {}))
        state.create_task(task_type=TaskType.CLIENT_APP, run_id=run.run_id, fab_hash=run.fab_hash)
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run.run_id, 1
        message = Message(content, dst_node_id=1, message_type=message_type)
        message.metadata.__dict__["_message_id"] = message.object_id
        with no_object_id_recompute():
            state.store_message(remove_content_from_message(message))
            store.preregister(run.run_id, get_object_tree(message))
            for name, item in get_all_nested_objects(message).items():
                store.put(name, item.deflate())
        token = acquire_task(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]), state).token
        given = ["--insecure", "--runtime-api-address", self.address, "--token", token]
        code, seconds, cpu, peak, output = _measured([*command, *given], environment)
        return Ended(code, seconds, cpu, peak, self._reply(), output)

    def _reply(self) -> Message | None:
        for reply in self._state.get_messages_legacy(is_reply=True):
            if reply.has_error():
                return reply
            tree = self._objects.get_object_tree(reply.metadata.message_id)
            contents = {item.object_id: self._objects.get(item.object_id) or b"" for item in iterate_object_tree(tree)}
            inflated = inflate_object_from_contents(tree.object_id, contents)
            if isinstance(inflated, Message):
                return inflated
        return None


@contextmanager
def node_runtime() -> Iterator[NodeRuntime]:
    """A running `NodeRuntime`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    node = NodeRuntime(f"127.0.0.1:{port}")
    config = uvicorn.Config(create_app(node.factory), host="127.0.0.1", port=port, ws="none", log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise SystemExit("The SuperNode's Runtime API did not start.")
            time.sleep(0.01)
        yield node
    finally:
        server.should_exit = True
        thread.join()


def _measured(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, float, float, int, str]:
    """Exit code, seconds, CPU seconds, peak memory and output of a process.

    VmHWM only grows, so that what is read last, within 5 ms of the end, is the peak; getrusage would count the parent.
    """
    peak, cpu, begun = 0, _cpu_of_children(), time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, env=dict(environment), stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text(encoding="ascii"))
            peak = max(peak, 1024 * int(found.group(1))) if found else peak
            time.sleep(0.005)
        seconds = time.perf_counter() - begun
        output.seek(0)
        return process.returncode, seconds, _cpu_of_children() - cpu, peak, output.read()


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
