"""Local training of a torch network: many users at once, or by clipped samples with Opacus, a user or silo at a time.

Loaded only where torch trains.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, softplus

from fedrec.config import TrainingConfig
from fedrec.contribution import Dense, Part, Rows
from fedrec.data.interactions import Interactions
from fedrec.privacy import dpsgd
from fedrec.randomness import Key
from fedrec.release import Arrays, DpSgd
from fedrec.training import cohort
from fedrec.training.local import F32, Ints, Loss, draw_negatives, number, ordered
from fedrec.training.samples import Step, draw, training_key


class Network(nn.Module):
    """A user's scores of items: p · v + b, plus an MLP of (p, v) where there is one.

    Args:
        arrays: ``table`` ``[R, d]`` and ``bias`` ``[R]``; for an MLP ``weight0`` ``[h, 2 d]``, ``offset0`` ``[h]`` and
            so on, the last layer to one number.
        vectors: ``[U, d]``, the users' own.
        loss: ``bpr`` (Rendle et al. 2009) or ``bce`` (logistic, each positive against its negatives).
        trains_user: whether the users' vectors are trained; else they are constants.
    """

    def __init__(self, arrays: Arrays, vectors: F32, loss: Loss, *, trains_user: bool) -> None:
        super().__init__()
        self.table = _embedding(arrays["table"])
        self.bias = _embedding(arrays["bias"][:, None])
        self.users = _embedding(vectors).requires_grad_(trains_user)
        depths = range(sum(name.startswith("weight") for name in arrays))
        layers = [layer for depth in depths for layer in (nn.ReLU(), _linear(arrays, depth))]
        self.mlp = nn.Sequential(*layers[1:])
        self.loss = loss

    def forward(self, users: Tensor, items: Tensor, weights: Tensor) -> Tensor:
        """The samples' losses ``[B]``.

        Args:
            users: ``[B]``.
            items: ``[B, L, 1 + m]``: each positive of a sample and its negatives, as rows of the table.
            weights: ``[B, L]``: 1 for a positive, 0 where a shorter sample is filled up.
        """
        own, vectors = self.users(users)[:, None, None], self.table(items)
        scores = (own * vectors).sum(dim=-1) + self.bias(items).squeeze(-1)
        if len(self.mlp):
            scores = scores + self.mlp(torch.cat([own.expand_as(vectors), vectors], dim=-1)).squeeze(-1)
        return (_losses(scores, self.loss) * weights).sum(dim=-1)

    def arrays(self) -> dict[str, F32]:
        """The shared arrays as they are now."""
        return _named({name: parameter.detach() for name, parameter in self._shared().items()})

    def gradients(self) -> dict[str, F32]:
        """What the last step multiplied by the learning rate, for the same arrays."""
        return _named({name: p.grad for name, p in self._shared().items() if p.grad is not None})

    def _shared(self) -> dict[str, Tensor]:
        shared: dict[str, Tensor] = {"table": self.table.weight, "bias": self.bias.weight}
        for depth, layer in enumerate(layer for layer in self.mlp if isinstance(layer, nn.Linear)):
            shared |= {f"weight{depth}": layer.weight, f"offset{depth}": layer.bias}
        return shared


class Plain(nn.Module):
    """What `Network` computes for one user's batch, without Opacus's layers, so that `cohort.train` can map it.

    Args:
        arrays: as for `Network`; the MLP's become the parameters, under their names.
        loss: as for `Network`.
        regularisation: L2 weight on the rows and the user's vector, once for each time that a batch looks at them.
    """

    def __init__(self, arrays: Arrays, loss: Loss, regularisation: float) -> None:
        super().__init__()
        self.depths = range(sum(name.startswith("weight") for name in arrays))
        for name in (f"{kind}{depth}" for depth in self.depths for kind in ("weight", "offset")):
            self.register_parameter(name, nn.Parameter(torch.tensor(arrays[name])))
        self.loss, self.regularisation = loss, regularisation

    def forward(self, rows: Mapping[str, Tensor], own: Mapping[str, Tensor], weights: Tensor) -> Tensor:
        """The batch's loss, from ``table`` ``[B, 1 + m, d]`` and ``bias``: those of each positive and its negatives."""
        vector, vectors, bias = own["vector"], rows["table"], rows["bias"]
        scores = (vectors * vector).sum(dim=-1) + bias
        if self.depths:
            scores = scores + self._mlp(vector, vectors)
        losses = _losses(scores, self.loss)
        if self.regularisation:
            squares = vectors.square().sum(dim=(1, 2)) + bias.square().sum(dim=1) + vector.square().sum()
            losses = losses + self.regularisation / 2 * squares
        return (losses * weights).sum()

    def _mlp(self, vector: Tensor, vectors: Tensor) -> Tensor:
        weight, offset = self._layer(0)
        by_user, by_item = weight[:, : len(vector)], weight[:, len(vector) :]  # the user's half once a batch
        hidden: Tensor = linear(vectors, by_item) + ((by_user * vector).sum(dim=1) + offset)
        for depth in self.depths[1:]:
            weight, offset = self._layer(depth)
            active = hidden.relu()  # a matrix product with one column takes as long as with sixteen
            product = (active * weight).sum(-1, keepdim=True) if len(weight) == 1 else linear(active, weight)
            hidden = product + offset
        return hidden.squeeze(-1)

    def _layer(self, depth: int) -> tuple[Tensor, Tensor]:
        return getattr(self, f"weight{depth}"), getattr(self, f"offset{depth}")


def _losses(scores: Tensor, loss: Loss) -> Tensor:
    """Of each positive's score and its negatives' ``[..., 1 + m]``."""
    positive, negative = scores[..., :1], scores[..., 1:]
    if loss == "bpr":
        return softplus(negative - positive).sum(dim=-1)
    return softplus(-positive).squeeze(-1) + softplus(negative).sum(dim=-1)


def _named(tensors: Mapping[str, Tensor]) -> dict[str, F32]:
    """As arrays; the bias, which torch holds in a column, flat."""
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    return arrays | {"bias": arrays["bias"][:, 0]}


def train_whole(
    arrays: Arrays, vectors: F32, users: Interactions, config: TrainingConfig, loss: Loss, key: Key
) -> dict[str, Part]:
    """Train C users at once by plain steps, none of them clipped: for updates that are clipped as a whole afterwards.

    Without an MLP it learns what `fedrec.training.local.train` does: batches and negatives are the same.

    Args:
        arrays: the shared model, as `Network` takes it; not changed.
        vectors: the users' own ``[C, d]``, where each starts; what becomes of them is not returned.
        users: the C users' positives.
        config: epochs, batch size, step size, regularisation, negatives.
        loss: as for `Network`.
        key: the round's key.

    Returns:
        The change of each array. A user without positives, or with no negative left, changes nothing.
    """
    return cohort.train(
        Plain(arrays, loss, config.regularisation),
        {name: arrays[name] for name in ("table", "bias")},
        {"vector": vectors},
        examples(users, config, key),
        config.batch_size,
        config.learning_rate,
    )


def examples(users: Interactions, config: TrainingConfig, key: Key) -> cohort.Examples:
    """Each positive with its negatives ``[1 + m]``, in the order in which `fedrec.training.local.train` meets them."""
    counts = np.where(users.counts < users.n_items, users.counts, 0)
    _, negatives = draw_negatives(users, counts * config.epochs * config.negatives, key)
    events = ordered(users, config.epochs, key)[:, counts[users.user_of_event] > 0].ravel()
    events = events[np.argsort(users.user_of_event[events], kind="stable")]  # user by user, then epoch by epoch
    items = np.column_stack([users.items[events], negatives.reshape(-1, config.negatives)])
    return cohort.Examples(np.concatenate([[0], np.cumsum(counts * config.epochs)]), items, config.epochs)


def train(
    arrays: Arrays, vectors: F32, users: Interactions, plan: DpSgd, n_negatives: int, loss: Loss, key: Key
) -> dict[str, Part]:
    """Train each of C users, or with noise inside and whole histories all of them as one silo, from the shared model.

    Args:
        arrays: the shared model, as `Network` takes it; not changed.
        vectors: the users' own ``[C, d]``, where each starts; what becomes of them is not returned.
        users: the C users' positives.
        plan: how to sample, clip, step and noise.
        n_negatives: for each positive.
        loss: as for `Network`.
        key: the round's key.

    Returns:
        The change of each array; of a silo, in the place of its first user, times the number of its users, so that a
        mean over users weighs silos by their size.

    Guarantees:
        Where noise is inside, it is on every coordinate of every array, touched or not, also of a user without events.
    """
    key = training_key(key, plan)
    steps = draw(users, plan, n_negatives, key)
    silo = plan.inside and plan.sample == "history"
    edges = [0, users.n_users] if silo and users.n_users else list(range(users.n_users + 1))
    with cohort.one_thread():
        learned = [
            _train_group(arrays, vectors, users, steps, plan, loss, key, first, last)
            for first, last in itertools.pairwise(edges)
        ]
    parts = _joined(learned, arrays, users.n_items)
    return _at_first(parts, users.n_users) if silo else parts


Learned = tuple[Ints, dict[str, F32]]
"""The items of the rows that changed, and the change of each array."""


def _train_group(
    arrays: Arrays,
    vectors: F32,
    users: Interactions,
    steps: Sequence[Step],
    plan: DpSgd,
    loss: Loss,
    key: Key,
    first: int,
    last: int,
) -> Learned:
    """Train on the samples of users ``first`` to ``last`` (left out), on a table of the rows that they touch."""
    mine = []
    for step in steps:
        within = slice(*np.searchsorted(step.events, users.indptr[[first, last]]))
        events = step.events[within]
        pairs = np.column_stack([users.items[events], step.negatives[within]])
        mine.append((users.user_of_event[events] - first, pairs))
    items, place = number(np.concatenate([pairs.ravel() for _, pairs in mine]), users.n_items)
    slots = np.split(place, np.cumsum([pairs.size for _, pairs in mine])[:-1])
    batches = [_batch(owner, slot.reshape(pairs.shape), plan) for (owner, pairs), slot in zip(mine, slots, strict=True)]
    start = {name: array[items] if name in ("table", "bias") else array for name, array in arrays.items()}
    network = Network(start, vectors[first:last], loss, trains_user=plan.trains_user)
    normal = dpsgd.normal_source(plan, key, int(users.users[first]))
    dpsgd.train(network, batches, plan, normal)
    if plan.steps == 1:  # not a difference of parameters: its rounding grows with them, and would move the bound
        change = {name: -plan.learning_rate * grad for name, grad in network.gradients().items()}
    else:
        change = {name: array - start[name] for name, array in network.arrays().items()}
    if plan.noise_multiplier:
        rest = np.setdiff1d(np.arange(users.n_items), items)
        for name in ("table", "bias"):
            moved = torch.tensor(arrays[name][rest])
            dpsgd.noise_alone(moved, plan, normal)
            change[name] = np.concatenate([change[name], moved.numpy() - arrays[name][rest]])
        items = np.concatenate([items, rest])
    return items, change


def _batch(owner: Ints, pairs: Ints, plan: DpSgd) -> tuple[Tensor, Tensor, Tensor]:
    """What `Network` takes: users, items and weights of a step's samples, whole histories filled up to the longest."""
    holders, sizes = owner, np.ones(len(owner), np.int64)
    if plan.sample == "history":
        holders, sizes = np.unique(owner, return_counts=True)
    sample = np.repeat(np.arange(len(sizes)), sizes)
    position = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    items = np.zeros((len(sizes), int(sizes.max(initial=0)), pairs.shape[1]), np.int64)
    items[sample, position] = pairs
    weights = np.zeros(items.shape[:2], np.float32)
    weights[sample, position] = 1
    return torch.from_numpy(holders), torch.from_numpy(items), torch.from_numpy(weights)


def _joined(learned: Sequence[Learned], arrays: Arrays, n_items: int) -> dict[str, Part]:
    """The groups' changes as parts of one contribution, a user a group."""
    indptr = np.concatenate([[0], np.cumsum([len(items) for items, _ in learned], dtype=np.int64)])
    touched = np.concatenate([items for items, _ in learned] or [np.zeros(0, np.int64)])
    parts: dict[str, Part] = {}
    for name, array in arrays.items():
        changes = [change[name] for _, change in learned]
        if name in ("table", "bias"):
            values = np.concatenate(changes or [np.zeros((0, *array.shape[1:]), np.float32)])
            parts[name] = Rows(indptr, touched, values, n_items)
        else:
            parts[name] = Dense(np.stack(changes) if changes else np.zeros((0, *array.shape), np.float32))
    return parts


def _at_first(parts: Mapping[str, Part], n_users: int) -> dict[str, Part]:
    """A silo's parts in the place of the first of its users, times their number; zero for the others."""
    placed: dict[str, Part] = {}
    for name, part in parts.items():
        if isinstance(part, Rows):
            indptr = np.concatenate([[0], np.full(n_users, part.indptr[-1])])
            placed[name] = Rows(indptr, part.items, part.values * np.float32(n_users), part.n_items)
        elif isinstance(part, Dense):
            values = np.zeros((n_users, *part.values.shape[1:]), np.float32)
            values[:1] = part.values * np.float32(n_users)
            placed[name] = Dense(values)
    return placed


def _embedding(rows: F32) -> nn.Embedding:
    return nn.Embedding(rows.shape[0], rows.shape[1], _weight=torch.tensor(rows))


def _linear(arrays: Arrays, depth: int) -> nn.Linear:
    weight, offset = arrays[f"weight{depth}"], arrays[f"offset{depth}"]
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")  # so that no start is drawn globally
    layer.weight, layer.bias = nn.Parameter(torch.tensor(weight)), nn.Parameter(torch.tensor(offset))
    return layer
