"""Work "torch": local training of torch modules, many clients at once, against a plain PyTorch loop over clients.

python -m simulations.benchmarks.torch_models [--repeats N] [--only ncf|attention|gru] [--json]

MovieLens-100K's 943 users. NCF: one epoch of BPR, one negative a positive, batches of 32, dimension 16, hidden layers
of 32 and 16. One block of causal self-attention (Kang and McAuley 2018, "SASRec") and a GRU (Hidasi et al. 2016),
dimension 32: one step a client on its last 50 items, one negative a position. fedrec's NCF draws orders and negatives
in its time; the loop is given them, and trains a tenth of the clients. Before anything is timed, the two must learn the
same. CPU time of one thread.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import embedding, layer_norm, linear, softplus

from fedrec.config import TrainingConfig, load
from fedrec.contribution import Part
from fedrec.data import source
from fedrec.data.interactions import Interactions
from fedrec.randomness import Key
from fedrec.training import cohort, network
from simulations.benchmarks.rows import BenchmarkError, Row, clients, in_turn, ratio

LENGTH, DIMENSION = 50, 32
TOLERANCE = 1e-4
KEY = Key(1).at(1)
CONFIG = TrainingConfig()

F32 = npt.NDArray[np.float32]
Tensors = Mapping[str, Tensor]


class Sequence(nn.Module):
    """The logistic loss of a sequence model whose output at each position meets the next item and one negative."""

    def forward(self, rows: Tensors, _own: Tensors, weights: Tensor) -> Tensor:
        """From the rows ``[L, 3, d]`` of each position's item, the next one, and one that is not."""
        given, wanted, other = rows["table"].unbind(1)  # not by index: its backward fills arrays of zeros
        _, of_wanted, of_other = rows["bias"].unbind(1)
        out = self.outputs(given)
        positive, negative = (wanted * out).sum(dim=-1) + of_wanted, (other * out).sum(dim=-1) + of_other
        return ((softplus(-positive) + softplus(negative)) * weights).sum()

    def outputs(self, inputs: Tensor) -> Tensor:
        """``[L, d]`` of ``[L, d]``, each of its own and earlier positions."""
        raise NotImplementedError


class Attention(Sequence):
    """One causal block: layer norm, self-attention with one head, layer norm, two pointwise layers, layer norm."""

    position: Tensor
    qkv: Tensor
    out: Tensor
    up: Tensor
    down: Tensor
    up_offset: Tensor
    down_offset: Tensor
    later: Tensor

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        d = DIMENSION
        shapes = {"position": (LENGTH, d), "qkv": (3 * d, d), "out": (d, d), "up": (d, d), "down": (d, d)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape, generator=generator) * d**-0.5))
        for name in ("up_offset", "down_offset", "shift0", "shift1", "shift2"):
            self.register_parameter(name, nn.Parameter(torch.zeros(d)))
        for name in ("gain0", "gain1", "gain2"):
            self.register_parameter(name, nn.Parameter(torch.ones(d)))
        self.register_buffer("later", torch.full((LENGTH, LENGTH), -1e9).triu(1))

    def outputs(self, inputs: Tensor) -> Tensor:
        n = len(inputs)
        x = inputs + self.position[:n]
        query, key, value = linear(self._norm(x, 0), self.qkv).chunk(3, dim=-1)
        # Written out: under vmap, scaled_dot_product_attention takes a slow path.
        attention = torch.softmax(query @ key.T * DIMENSION**-0.5 + self.later[:n, :n], dim=-1)
        x = x + linear(attention @ value, self.out)
        hidden = linear(self._norm(x, 1), self.up, self.up_offset).relu()
        return self._norm(x + linear(hidden, self.down, self.down_offset), 2)

    def _norm(self, x: Tensor, place: int) -> Tensor:
        return layer_norm(x, (DIMENSION,), getattr(self, f"gain{place}"), getattr(self, f"shift{place}"))


class Gru(Sequence):
    """One layer of `torch.nn.GRU`, its cell written as matrix products, which vmap knows."""

    w_in: Tensor
    w_hidden: Tensor
    b_in: Tensor
    b_hidden: Tensor

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        d = DIMENSION
        for name, shape in {"w_in": (3 * d, d), "w_hidden": (3 * d, d), "b_in": (3 * d,), "b_hidden": (3 * d,)}.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape, generator=generator) * d**-0.5))

    def outputs(self, inputs: Tensor) -> Tensor:
        d = DIMENSION
        hidden = torch.zeros_like(inputs[0])
        outputs = []
        for given in linear(inputs, self.w_in, self.b_in).unbind(0):  # not by index: its backward is a third of this
            past = linear(hidden, self.w_hidden, self.b_hidden)
            reset, update = torch.sigmoid(given[: 2 * d] + past[: 2 * d]).chunk(2)
            candidate = torch.tanh(given[2 * d :] + reset * past[2 * d :])
            hidden = candidate + update * (hidden - candidate)
            outputs.append(hidden)
        return torch.stack(outputs)


class FusedGru(Gru):
    """The same by torch's own kernel: what a loop over clients would use."""

    def outputs(self, inputs: Tensor) -> Tensor:
        weights = [self.w_in, self.w_hidden, self.b_in, self.b_hidden]
        return torch.gru(inputs[None], torch.zeros(1, 1, DIMENSION), weights, True, 1, 0.0, True, False, True)[0][0]


@dataclass(frozen=True)
class Work:
    """One module with what its clients learn from.

    Attributes:
        module, plain: as fedrec and as the loop run it; the same parameters.
        tables, personal, examples, batch_size, learning_rate: as `fedrec.training.cohort.train` takes them.
    """

    module: nn.Module
    plain: nn.Module
    tables: Mapping[str, F32]
    personal: Mapping[str, F32]
    examples: cohort.Examples
    batch_size: int
    learning_rate: float

    def at_once(self) -> dict[str, Part]:
        """What every client learns, by fedrec."""
        return cohort.train(self.module, self.tables, self.personal, self.examples, self.batch_size, self.learning_rate)

    def one_by_one(self, n_clients: int) -> dict[str, npt.NDArray[np.float64]]:
        """The sum of what the first clients learn, by a plain loop: autograd and `torch.optim.SGD`."""
        start: dict[str, Tensor] = {name: torch.tensor(table) for name, table in self.tables.items()}
        start |= {name: parameter.detach() for name, parameter in self.plain.named_parameters()}
        total = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in start.items()}
        for client, (first, last) in enumerate(
            zip(self.examples.indptr, self.examples.indptr[1 : n_clients + 1], strict=False)
        ):
            own = {name: torch.tensor(array[client]).requires_grad_() for name, array in self.personal.items()}
            now = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
            optimizer = torch.optim.SGD([*now.values(), *own.values()], lr=self.learning_rate)
            layers = {name: tensor for name, tensor in now.items() if name not in self.tables}
            for begin in range(first, last, self.batch_size):
                batch = torch.from_numpy(self.examples.items[begin : min(begin + self.batch_size, last)])
                optimizer.zero_grad()
                rows = {name: embedding(batch, now[name].view(len(now[name]), -1)) for name in self.tables}
                rows["bias"] = rows["bias"].squeeze(-1)
                functional_call(self.plain, layers, (rows, own, torch.ones(len(batch)))).backward()
                optimizer.step()
            for name, tensor in now.items():
                total[name] += tensor.detach() - start[name]
        return {name: tensor.numpy() for name, tensor in total.items()}


def works(users: Interactions) -> dict[str, Callable[[], Work]]:
    """By name."""
    return {
        "ncf": lambda: ncf(users),
        "attention": lambda: sequence(users, Attention, Attention),
        "gru": lambda: sequence(users, Gru, FusedGru),
    }


def ncf_arrays(n_items: int) -> dict[str, F32]:
    """A shared NCF model whose every layer takes part."""
    generator = np.random.default_rng(1)
    shapes = {"table": (n_items, 16), "weight0": (32, 32), "weight1": (16, 32), "weight2": (1, 16)}
    arrays = {name: 0.2 * generator.standard_normal(shape) for name, shape in shapes.items()}
    arrays |= {
        "bias": np.zeros(n_items),
        **{f"offset{depth}": np.zeros(arrays[f"weight{depth}"].shape[0]) for depth in range(3)},
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def vectors_of(users: Interactions) -> F32:
    """Where the clients' own vectors start."""
    return (0.5 * np.random.default_rng(2).standard_normal((users.n_users, 16))).astype(np.float32)


def ncf(users: Interactions) -> Work:
    """One epoch of the model `ncf`."""
    arrays = ncf_arrays(users.n_items)
    module = network.Plain(arrays, "bpr", 0.0)
    tables = {name: arrays[name] for name in ("table", "bias")}
    examples = network.examples(users, CONFIG, KEY)
    own = {"vector": vectors_of(users)}
    return Work(module, module, tables, own, examples, CONFIG.batch_size, CONFIG.learning_rate)


def sequence(
    users: Interactions, kind: Callable[[torch.Generator], Sequence], plain: Callable[[torch.Generator], Sequence]
) -> Work:
    """One step of a sequence model on each client's last positions."""
    counts = np.clip(users.counts - 1, 0, LENGTH)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    inputs = np.arange(indptr[-1]) + np.repeat(users.indptr[1:] - 1 - counts - indptr[:-1], counts)
    generator = np.random.default_rng(1)
    negatives = generator.integers(users.n_items, size=len(inputs))
    items = np.column_stack([users.items[inputs], users.items[inputs + 1], negatives]).astype(np.int64)
    table = (0.2 * generator.standard_normal((users.n_items, DIMENSION))).astype(np.float32)
    tables = {"table": table, "bias": np.zeros(users.n_items, np.float32)}
    one, other = (make(torch.Generator().manual_seed(1)) for make in (kind, plain))
    return Work(one, other, tables, {}, cohort.Examples(indptr, items), LENGTH, CONFIG.learning_rate)


def check(name: str, work: Work, n_clients: int) -> None:
    """Hold the sum of what the first clients learn against the loop's.

    Raises:
        BenchmarkError: if they differ.
    """
    parts, loop = work.at_once(), work.one_by_one(n_clients)
    first = (np.arange(len(work.examples.indptr) - 1) < n_clients).astype(np.float64)
    norm = sum(float(np.square(wanted).sum()) for wanted in loop.values()) ** 0.5
    for array, wanted in loop.items():
        apart = float(np.linalg.norm(parts[array].weighted_sum(first) - wanted)) / norm
        if not apart <= TOLERANCE:
            raise BenchmarkError(
                f"'{name}': the loop's '{array}' differs from fedrec's by {apart:.1e} of all it learns."
            )


def rows(repeats: int, only: str | None = None) -> list[Row]:
    """Two rows for each module and their ratio, in this run.

    Raises:
        BenchmarkError: if fedrec and the loop do not learn the same.
    """
    users = source.load(load("default").data)
    found: list[Row] = []
    for name, make in works(users).items():
        if only in (None, name):
            found += measured(name, make(), users, repeats)
    return found


def measured(name: str, work: Work, users: Interactions, repeats: int) -> list[Row]:
    """The rows of one module, fedrec and the loop in turn."""
    some = users.n_users // 10
    with cohort.one_thread():
        check(name, work, some)
        keys = iter(range(1, 2**62))
        arrays, vectors = ncf_arrays(users.n_items), vectors_of(users)

        def at_once() -> object:
            if name != "ncf":
                return work.at_once()
            return network.train_whole(arrays, vectors, users, CONFIG, "bpr", Key(1, next(keys)))

        (cpu, wall), (loop_cpu, loop_wall) = in_turn([at_once, lambda: work.one_by_one(some)], repeats)
    each, loop_each = [one / users.n_users for one in cpu], [one / some for one in loop_cpu]
    return [
        clients(f"torch-{name}", "fedrec-torch", users.n_users, cpu, wall),
        clients(f"torch-{name}", "torch-loop", some, loop_cpu, loop_wall),
        ratio(
            f"torch-{name}", "fedrec-torch over torch-loop", each, loop_each, note="CPU seconds a client, in this run"
        ),
    ]


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", choices=["ncf", "attention", "gru"])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = rows(arguments.repeats, arguments.only)
    for row in found:
        low, high = row.spread
        print(f"{row.work}: {row.name}: {row.value:,.1f} {row.unit} (from {low:,.1f} to {high:,.1f})")
    if arguments.json:
        print(json.dumps({"rows": [row.as_json() for row in found]}))


if __name__ == "__main__":
    main()
