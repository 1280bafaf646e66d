"""The ClientApp: a node holds one user or a shard of them and answers with a clipped, noised sum."""

from __future__ import annotations

from functools import lru_cache

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedrec.config import named_or_text
from fedrec.engines.run import Setting, load_setting
from fedrec.errors import ContributionError
from fedrec.federation.round import client_round, partition_of
from fedrec.flower.codec import decode, encode

app = ClientApp()


@app.query()
def places(message: Message, context: Context) -> Message:
    """Which partition of how many this node holds."""
    decode(message)
    partition, partitions = _place(context)
    return Message(encode({}, {"partition": partition, "partitions": partitions}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """One attempt at a round: train the shard's users, clip each, sum, add their share of the noise.

    The round's plan is computed here from the experiment, not taken from the message.
    """
    packet = decode(message)
    partition, partitions = _place(context)
    setting = _setting(str(context.run_config["experiment"]))
    federation = setting.federation
    round_ = packet.number("round")
    if not 1 <= round_ <= federation.rounds:
        raise ContributionError(f"Round {round_} is not among the experiment's {federation.rounds} rounds.")
    attempt = packet.number("attempt")
    plan = federation.plan(round_, attempt)
    users = partition_of(plan.cohort, partition, partitions, federation.population)
    shard = client_round(federation.model, packet.arrays, setting.split.train.take(users), plan, partition)
    counts = {"users": shard.n_users, "rejected": shard.rejected}
    answer = {"partition": partition, "round": round_, "attempt": attempt, **counts}
    return Message(encode(shard.arrays, answer), reply_to=message)


def _place(context: Context) -> tuple[int, int]:
    """Set by the simulation runtime, or by ``flower-supernode --node-config``."""
    return int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])


@lru_cache(maxsize=1)
def _setting(experiment: str) -> Setting:
    """The experiment with its data: once a process, not once a message."""
    return load_setting(named_or_text(experiment))
