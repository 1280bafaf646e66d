"""Local training of any torch module for C >= 1 users at once: each from the shared model, on the rows that it touches.

A batch of every user goes through the module in one call, mapped over users (`torch.func.vmap`), and one backward pass
gives every user its own gradient, because a user's loss hangs on no other's numbers. Item tables enter as the rows that
a user looks at, so nothing is as large as users times catalogue. In the first step all users have the shared layers, so
a linear layer is one product for all of them; after it, each of a block's users has its own copy of the layers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from fedrec.contribution import Dense, Part, Rows
from fedrec.release import Arrays
from fedrec.training.local import F32, Ints, number

_BLOCK_EXAMPLES = 8_192
"""Examples that go through the module together: enough to pay for the calls, few enough to bound the memory."""

_BLOCK_COPIES = 2**22
"""Numbers in a block's copies of the module's layers: 16 MB."""

Tensors = dict[str, Tensor]
Pairs = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Examples:
    """What C users learn from, user after user; within a user epoch after epoch, each in the order of its batches.

    Attributes:
        indptr: ``[C + 1]``; user u has the examples ``indptr[u]:indptr[u + 1]``, as many in each epoch.
        items: the rows of the tables that an example looks at ``[N, k]``.
        epochs: passes over a user's examples.
    """

    indptr: Ints
    items: Ints
    epochs: int = 1


def train(
    module: nn.Module,
    tables: Arrays,
    personal: Mapping[str, F32],
    examples: Examples,
    batch_size: int,
    learning_rate: float,
) -> dict[str, Part]:
    """Train every user from the shared model by plain gradient steps, one a batch.

    Args:
        module: maps one user's batch to its loss, a number: ``module(rows, own, weights)``, where ``rows`` holds
            ``[B, k, ...]`` of each table, ``own`` what the user keeps, and ``weights`` ``[B]`` are 1, or 0 at the end
            where a batch is filled up with examples of the same user; these must not count. Its parameters are the
            shared layers, not changed. It holds no state, draws nothing, and does what `torch.func.vmap` knows: no
            ``nn.GRU``, for one.
        tables: the shared item tables ``[n_items, ...]``, as received; not changed.
        personal: arrays ``[C, ...]`` that each user trains along and keeps; what becomes of them is not returned.
        examples: the C users' own.
        batch_size: examples of a step.
        learning_rate: step size, applied to the gradient of a batch's loss.

    Returns:
        The change of each table and of each of the module's parameters.

    Guarantees:
        All at once equals one by one, up to rounding; no user's numbers enter another's. A user without examples
        changes nothing.
    """
    n_users, n_items = len(examples.indptr) - 1, len(next(iter(tables.values())))
    counts = np.diff(examples.indptr) // examples.epochs
    owner = np.repeat(np.arange(n_users), np.diff(examples.indptr))
    codes, slots = number((owner[:, None] * n_items + examples.items).ravel(), n_users * n_items)
    slots = slots.reshape(examples.items.shape)
    touching, touched = np.divmod(codes, n_items)
    start = {name: np.take(table, touched, axis=0) for name, table in tables.items()}
    rows = {name: torch.tensor(array) for name, array in start.items()}
    layers = {name: parameter.detach() for name, parameter in module.named_parameters()}
    learned = {name: np.zeros((n_users, *layer.shape), np.float32) for name, layer in layers.items()}
    with one_thread():
        for users in _blocks(counts, batch_size, sum(layer.numel() for layer in layers.values())):
            own = {name: torch.tensor(array[users]) for name, array in personal.items()}
            block = _Block(module, layers, rows, own, learning_rate)
            for first, sizes in _batches(examples, counts, users, batch_size):
                block.step(slots, first, sizes)
            for name, copy in block.copies.items():
                learned[name][users] = copy.sub_(layers[name]).numpy()
    indptr = np.concatenate([[0], np.cumsum(np.bincount(touching, minlength=n_users))])
    parts: dict[str, Part] = {
        name: Rows(indptr, touched, np.subtract(rows[name].numpy(), start[name]), n_items) for name in tables
    }
    return parts | {name: Dense(change) for name, change in learned.items()}


def _blocks(counts: Ints, batch_size: int, copied: int) -> Iterator[Ints]:
    """Users with examples, the longest first, in blocks whose batches are filled up to about the same length."""
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    start = 0
    while start < len(order):
        widest = min(int(counts[order[start]]), batch_size)
        size = max(min(_BLOCK_EXAMPLES // widest, _BLOCK_COPIES // max(copied, 1)), 1)
        yield order[start : start + size]
        start += size


def _batches(examples: Examples, counts: Ints, users: Ints, batch_size: int) -> Iterator[tuple[Ints, Ints]]:
    """Each step's first examples and batch sizes, of the users of a block that still have a batch: its first ones."""
    for epoch in range(examples.epochs):
        for start in range(0, int(counts[users[0]]), batch_size):
            active = users[: np.count_nonzero(counts[users] > start)]
            first = examples.indptr[active] + epoch * counts[active] + start
            yield first, np.minimum(counts[active] - start, batch_size)


@dataclass(frozen=True)
class _Block:
    """Users that train together.

    Attributes:
        module: what they train.
        layers: its parameters, shared.
        rows: all users' rows of the tables, changed in place.
        own: what the users keep ``[C, ...]``, changed in place.
        learning_rate: step size.
        copies: each user's own layers ``[C, ...]``; empty before the first step.
    """

    module: nn.Module
    layers: Tensors
    rows: Tensors
    own: Tensors
    learning_rate: float
    copies: Tensors = field(default_factory=dict)

    def step(self, slots: Ints, first: Ints, sizes: Ints) -> None:
        """One batch of the block's first A users; in the first step, of all.

        Args:
            slots: each example's rows ``[N, k]``.
            first: the example where each one's batch begins ``[A]``.
            sizes: examples in each one's batch ``[A]``.
        """
        position = np.arange(sizes.max())
        filled = first[:, None] + np.minimum(position, sizes[:, None] - 1)
        weights = torch.from_numpy((position < sizes[:, None]).astype(np.float32))
        batch = torch.from_numpy(slots[filled])  # [A, B, k]
        flat, n = batch.view(-1), len(sizes)
        rows = {
            name: table.index_select(0, flat).view(*batch.shape, *table.shape[1:]) for name, table in self.rows.items()
        }
        own = {name: array[:n] for name, array in self.own.items()}
        if self.copies:
            layers = {name: copy[:n] for name, copy in self.copies.items()}
        else:
            layers = {name: layer.expand(n, *layer.shape) for name, layer in self.layers.items()}
        of_layers, of_rows, of_own = self._steps(layers, rows, own, weights, shared=not self.copies)
        if self.copies:
            for name, copy in self.copies.items():
                copy[:n].add_(of_layers[name])
        else:
            self.copies.update({name: (layer + of_layers[name]).contiguous() for name, layer in self.layers.items()})
        for name, array in own.items():
            array.add_(of_own[name])
        for name, table in self.rows.items():
            step = of_rows[name].reshape(len(flat), *table.shape[1:])
            index = flat.view(-1, *[1] * (step.dim() - 1)).expand_as(step)
            table.scatter_add_(0, index, step)  # five times as fast as index_add_

    def _steps(
        self, layers: Tensors, rows: Tensors, own: Tensors, weights: Tensor, *, shared: bool
    ) -> tuple[Tensors, Tensors, Tensors]:
        """What a step adds to each of the arrays ``[A, ...]``; ``shared`` where the layers are the module's own."""
        layers, rows, own = _leaves(layers), _leaves(rows), _leaves(own)
        common, used = _leaves(self.layers if shared else {}), list[tuple[str, str | None]]()

        def run(layers: Tensors, rows: Tensors, own: Tensors, weights: Tensor) -> tuple[Tensor, Pairs]:
            with _Linears({id(layers[name]): (name, layer) for name, layer in common.items()}) as linears:
                loss: Tensor = functional_call(self.module, layers, (rows, own, weights))
            used.extend(linears.used)
            return loss, linears.pairs

        losses, pairs = vmap(run)(layers, rows, own, weights)
        leaves = [*layers.values(), *rows.values(), *own.values()]
        scale = torch.full_like(losses, -self.learning_rate)
        wanted = [*leaves, *(output for _, output in pairs)]
        found = torch.autograd.grad(losses, wanted, scale, allow_unused=True)
        errors = found[len(leaves) :]
        if any(error is None for error in errors):  # an output of no use, or the same for all users
            return self._steps(layers, rows, own, weights, shared=False)
        steps = (torch.zeros_like(leaf) if step is None else step for leaf, step in zip(leaves, found, strict=False))
        of_layers, of_rows, of_own = ({name: next(steps) for name in tensors} for tensors in (layers, rows, own))
        for weight, offset in dict.fromkeys(used):
            places = [place for place, names in enumerate(used) if names == (weight, offset)]
            given = _joined([pairs[place][0].detach().flatten(1, -2) for place in places])
            error = _joined([errors[place].flatten(1, -2) for place in places])
            of_layers[weight] = of_layers[weight] + error.mT @ given
            if offset is not None:
                of_layers[offset] = of_layers[offset] + error.sum(dim=1)
        return of_layers, of_rows, of_own


class _Linears(TorchFunctionMode):
    """Lets linear layers run on shared weights, and keeps what each user's own gradient is made of.

    It is the sum over positions of errors times inputs (Goodfellow 2015): one product for a layer, however often it
    runs, where autograd would add up one for each time.

    Args:
        shared: by the id of what the module sees, the name and the shared tensor.

    Attributes:
        used: names of weight and offset, for each call.
        pairs: a user's input ``[..., B, i]`` and output ``[..., B, o]`` of each.
    """

    def __init__(self, shared: Mapping[int, tuple[str, Tensor]]) -> None:
        super().__init__()
        self.shared = shared
        self.used: list[tuple[str, str | None]] = []
        self.pairs: Pairs = []

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self._linear(*args, **(kwargs or {})) if func is linear else func(*args, **(kwargs or {}))

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002 - torch's name
        if id(weight) not in self.shared:
            return linear(input, weight, bias)
        name, weight = self.shared[id(weight)]
        offset, common = self.shared.get(id(bias), (None, None))
        given = input[None] if input.dim() == 1 else input
        output = linear(given, weight, common)
        self.used.append((name, offset))
        self.pairs.append((given, output))
        result = output[0] if input.dim() == 1 else output
        return result if offset is not None or bias is None else result + bias


def _joined(tensors: list[Tensor]) -> Tensor:
    """Positions after one another ``[A, n, ...]``; one tensor is not copied."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim=1)


def _leaves(tensors: Tensors) -> Tensors:
    return {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """On tensors as small as one user's, threads wait for each other ten times longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
