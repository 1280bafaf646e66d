"""The ClientApp: a node holds one user or a shard of them and answers with a clipped, noised sum, masked or plain."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from logging import getLogger

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedrec.config import named_or_text
from fedrec.engines.setting import Setting, load_setting
from fedrec.errors import ContributionError
from fedrec.federation.cohort import partition_of
from fedrec.federation.round import Plan, client_round
from fedrec.flower.codec import Packet, decode, encode
from fedrec.flower.node import Node, masks, place_of
from fedrec.privacy.mechanism import ShardSum
from fedrec.secagg.messages import Phase

app = ClientApp()

_log = getLogger("fedrec")


@app.query()
def places(message: Message, context: Context) -> Message:
    """Which partition of how many this node holds."""
    decode(message)
    partition, partitions = place_of(context)
    return Message(encode({}, {"partition": partition, "partitions": partitions}), reply_to=message)


@app.query("join")
def join(message: Message, context: Context) -> Message:
    """This node's public keys for secure aggregation."""
    decode(message)
    member = Node(context).join()
    return Message(encode({}, {"identity": member.identity, "channel": member.channel}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """One attempt at a round without masks: train the shard's users, clip each, sum, add their share of the noise.

    The round's plan is computed here from the experiment, not taken from the message.
    """
    packet = decode(message)
    setting, plan = _plan(packet, context)
    if masks(plan, setting.federation, place_of(context)[1]):
        raise ContributionError("This attempt is masked; nothing is answered in the clear.")
    if plan.noise_key is None and plan.mechanism.private:
        Node(context).answer_once(plan)
    shard = _shard(packet, context, setting, plan)
    # How many users' vectors were usable stays here: that would be a count of private data.
    where = {"partition": place_of(context)[0], "round": plan.round, "attempt": plan.attempt}
    return Message(encode(shard.arrays, {**where, "users": shard.n_users}), reply_to=message)


def _step(phase: Phase) -> Callable[[Message, Context], Message]:
    """The handler of one phase of secure aggregation; only the masked vector ever leaves."""

    def step(message: Message, context: Context) -> Message:
        packet = decode(message)
        setting, plan = _plan(packet, context)
        node = Node(context)
        if phase is Phase.ADVERT:
            node.pin(packet.blob("roster"))
        client, text = node.client(setting.federation, plan), packet.blob("message")
        if phase is Phase.MASKED:
            shard = _shard(packet, context, setting, plan)
            reply = client.masked(text, plan.release.flatten(shard.arrays))
        else:
            answers = {
                Phase.ADVERT: client.advert,
                Phase.SHARES: client.shares,
                Phase.AGREE: client.agree,
                Phase.UNMASK: client.unmask,
            }
            reply = answers[phase](text)
        return Message(encode({}, {"message": reply}), reply_to=message)

    return step


for _phase in Phase:
    app.train(_phase.name.lower())(_step(_phase))


def _plan(packet: Packet, context: Context) -> tuple[Setting, Plan]:
    """The attempt that a message names, planned here from the experiment."""
    setting = _setting(str(context.run_config["experiment"]))
    round_, rounds = packet.number("round"), setting.federation.rounds
    if not 1 <= round_ <= rounds:
        raise ContributionError(f"Round {round_} is not among the experiment's {rounds} rounds.")
    attempt, attempts = packet.number("attempt"), setting.experiment.federation.attempts
    if not 0 <= attempt < attempts:
        raise ContributionError(f"Attempt {attempt} is not among the {attempts} that a round may have.")
    return setting, setting.federation.plan(round_, attempt)


def _shard(packet: Packet, context: Context, setting: Setting, plan: Plan) -> ShardSum:
    """What this node's users contribute to an attempt."""
    partition, partitions = place_of(context)
    federation = setting.federation
    users = partition_of(plan.cohort, partition, partitions, federation.population)
    try:
        return client_round(federation.model, packet.arrays, setting.split.train.take(users), plan, partition)
    except Exception as error:  # what went wrong may depend on a history, and Flower sends an error's words
        _log.exception("round %d: no contribution", plan.round)
        raise ContributionError("This node has no contribution.") from error


@lru_cache(maxsize=1)
def _setting(experiment: str) -> Setting:
    """The experiment with its data: once a process, not once a message."""
    return load_setting(named_or_text(experiment).replaced(engine={"name": "flower"}))
