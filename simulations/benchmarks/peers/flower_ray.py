"""The round on Flower's simulation runtime: a ClientApp, a ServerApp with FedAvg, Ray with one CPU.

The client trains in NumPy, as a short loop over its batches, so that what is measured above a millisecond or two a
client is the runtime. It clips its change itself and answers with it; FedAvg averages with equal weights. CPU seconds
are those of the whole process tree, which `/proc` counts in hundredths.
"""

from __future__ import annotations

import os
import sys
import traceback
from functools import cache
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.server.superlink.fleet.vce.backend import BackendConfig
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from simulations.benchmarks.peers.serving import Sum, Task, serve

SAMPLE = 200
"""Clients of a timed round, in which noise is added; a round without noise, which is compared, asks everyone."""

TASK = "FEDREC_BENCH_TASK"  # Ray's workers inherit the environment

client_app, server_app = ClientApp(), ServerApp()


@cache
def task() -> Task:
    """The task, read once a process."""
    return Task.read(Path(os.environ[TASK]))


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """One client: train, clip, answer."""
    table, bias = message.content["arrays"].to_numpy_ndarrays()  # type: ignore[union-attr]
    client = int(context.node_config["partition-id"])
    changed = _learned(table, bias, client)
    content = RecordDict({"arrays": ArrayRecord(list(changed)), "metrics": MetricRecord({"num-examples": 1})})
    return Message(content, reply_to=message)


def _learned(table: np.ndarray, bias: np.ndarray, client: int) -> tuple[np.ndarray, np.ndarray]:
    """The clipped change of one client."""
    work, (first, last) = task(), (int(edge) for edge in task().indptr[client : client + 2])
    items, biases, user, rate = table.copy(), bias.copy(), work.personal[client].copy(), np.float32(work.learning_rate)
    for at in range(first, last, work.batch_size):
        batch = slice(at, min(at + work.batch_size, last))
        positive, negative = work.positives[batch], work.negatives[batch]
        difference = items[positive] - items[negative]
        pull = rate / (1 + np.exp(difference @ user + biases[positive] - biases[negative]))
        step = pull[:, None] * user
        user += pull @ difference
        np.add.at(items, positive, step)
        np.subtract.at(items, negative, step)
        np.add.at(biases, positive, pull)
        np.subtract.at(biases, negative, pull)
    items -= table
    biases -= bias
    norm = np.sqrt(np.vdot(items, items) + np.vdot(biases, biases))
    factor = np.float32(min(1.0, work.clip_norm / max(float(norm), 1e-30)))
    return factor * items, factor * biases


@server_app.main()
def serve_rounds(grid: Grid, context: Context) -> None:  # noqa: ARG001 - Flower's signature
    """One round of FedAvg for each question."""
    work, generator = task(), np.random.default_rng(0)
    start = (work.table, work.bias)
    everyone, some = (
        FedAvg(asked / work.clients, 0.0, min_train_nodes=asked, min_available_nodes=work.clients)
        for asked in (work.clients, SAMPLE)
    )

    def run(noise: bool) -> Sum:
        strategy, asked = (some, SAMPLE) if noise else (everyone, work.clients)
        result = strategy.start(grid, ArrayRecord(list(start)), 1, train_config=ConfigRecord({}))
        std = work.noise_std if noise else 0.0
        table, bias = (
            asked * mean.astype(np.float64) + std * generator.standard_normal(mean.shape)
            for mean in result.arrays.to_numpy_ndarrays()
        )
        return table, bias

    serve(run, cpu_of_tree)


def cpu_of_tree() -> float:
    """CPU seconds of this process and of all that it started, ended children included."""
    parents, ticks = {}, {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        process = int(place.parent.name)
        parents[process], ticks[process] = int(fields[1]), sum(int(field) for field in fields[11:15])
    tree, found = set(), {os.getpid()}
    while found:
        tree |= found
        found = {process for process, parent in parents.items() if parent in found}
    return sum(ticks[process] for process in tree) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Start Ray with one CPU and hand over to the ServerApp."""
    os.environ[TASK] = sys.argv[1]
    resources: BackendConfig = {
        "client_resources": {"num_cpus": 1, "num_gpus": 0},
        "init_args": {"num_cpus": 1, "include_dashboard": False},
    }
    try:
        run_simulation(server_app, client_app, num_supernodes=task().clients, backend_config=resources)
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # or the thread of the ServerApp would wait for questions for ever
