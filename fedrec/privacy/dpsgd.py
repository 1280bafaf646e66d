"""Training by clipped samples on a torch module (DP-SGD, Abadi et al. 2016), with Opacus.

Opacus computes each sample's gradient (`GradSampleModule`), clips and sums (`DPOptimizer`); both are built directly,
because ``PrivacyEngine.make_private`` takes rate, steps and normaliser from the length of the data. The noise is drawn
here and joins at the optimizer's step hook: torch's CPU generator is a Mersenne Twister that keeps 32 bits of its seed,
so whoever sees rows of pure noise could find the seed and take the noise away.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from fedrec.privacy.stream import SecureWords, Words
from fedrec.randomness import Key, Lane
from fedrec.release import DpSgd

if TYPE_CHECKING:
    from torch import Tensor, nn

F32 = npt.NDArray[np.float32]

_CHUNK = 2**23
"""Numbers that the samples' gradients of one pass may hold: 32 MB. A larger step is taken in several passes."""


class Normal(Protocol):
    """A source of independent standard normal numbers, float32 in a shape."""

    def __call__(self, shape: tuple[int, ...]) -> F32: ...


def normal_source(plan: DpSgd, key: Key, user: int) -> Normal:
    """The noise of one client: of its own number in a simulation, else from the operating system."""
    return secure_normal(SecureWords()) if plan.secure else seeded_normal(key, user)


def seeded_normal(key: Key, user: int) -> Normal:
    """Noise that a simulation can repeat; it protects nobody."""
    generator = key.generator(Lane.NOISE, user)

    def normal(shape: tuple[int, ...]) -> F32:
        return generator.standard_normal(shape, np.float32)

    return normal


def secure_normal(words: Words) -> Normal:
    """Normal numbers from cryptographic words, by Box and Muller (1958) in double precision.

    Guarantees:
        No number can be predicted from others. They are rounded normal numbers, so that no exact guarantee covers what
        floating point gives away (Mironov 2012).
    """

    def normal(shape: tuple[int, ...]) -> F32:
        n = int(np.prod(shape))
        uniform = ((words.words(2 * ((n + 1) // 2)) >> np.uint64(11)) + 0.5) * 2.0**-53
        radius, angle = np.sqrt(-2 * np.log(uniform[::2])), 2 * np.pi * uniform[1::2]
        pairs = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return pairs[:n].reshape(shape).astype(np.float32)

    return normal


def train(module: nn.Module, steps: Sequence[tuple[Tensor, ...]], plan: DpSgd, normal: Normal) -> None:
    """Take one step of DP-SGD for each batch, changing the module in place.

    Args:
        module: maps a batch to its samples' losses ``[B]``, each of its own sample alone. Its trainable parameters
            belong to layers that Opacus knows.
        steps: each step's batch: tensors whose first axis is the sample; it may hold none.
        plan: clip norm, step size, normaliser and noise.
        normal: draws the noise.

    Guarantees:
        A step moves the parameters by ``plan.step_scale`` times the sum of the samples' gradients, each clipped to
        ``plan.clip_norm`` over all parameters together, plus noise of standard deviation ``noise_multiplier`` ·
        ``clip_norm`` on every coordinate, also where the batch is empty. Nothing else is derived from the batches.
    """
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer
    from torch.optim import SGD

    wrapped = GradSampleModule(module, loss_reduction="sum")
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = DPOptimizer(
        SGD(parameters, lr=plan.learning_rate),
        noise_multiplier=0.0,
        max_grad_norm=plan.clip_norm,
        expected_batch_size=plan.expected_batch,
    )
    if plan.noise_multiplier:
        optimizer.attach_step_hook(lambda optimizer: [p.grad.add_(_noise(p, plan, normal)) for p in optimizer.params])
    size = sum(parameter.numel() for parameter in parameters)
    chunk = max(_CHUNK // max(size, 1), 1)
    with warnings.catch_warnings():
        # Opacus hooks into layers whose input needs no gradient, item numbers for one, and torch remarks on it.
        warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
        for batch in steps:
            for passed, last in _passes(batch, chunk):
                optimizer.zero_grad(set_to_none=True)
                wrapped(*passed).sum().backward()
                _drop_unusable(parameters)
                optimizer.signal_skip_step(not last)
                optimizer.step()


def _drop_unusable(parameters: Sequence[nn.Parameter]) -> None:
    """Zero each sample's gradient that has a value which is not finite: it would outlive the clip and the noise."""
    import torch

    found: list[Tensor | None] = [getattr(parameter, "grad_sample", None) for parameter in parameters]
    samples = [one for one in found if one is not None]
    if samples:
        usable = torch.stack([torch.isfinite(one.flatten(1)).all(dim=1) for one in samples]).all(dim=0)
        for one in samples:
            one[~usable] = 0


def noise_alone(parameter: Tensor, plan: DpSgd, normal: Normal) -> None:
    """What `train` does to a parameter that no sample touches, in place and in the same arithmetic."""
    for _ in range(plan.steps):
        parameter.add_(_noise(parameter, plan, normal), alpha=-plan.learning_rate)


def _noise(parameter: Tensor, plan: DpSgd, normal: Normal) -> Tensor:
    """One step's noise, divided like the sum that it joins."""
    import torch

    std = plan.noise_multiplier * plan.clip_norm / plan.expected_batch
    return torch.from_numpy(normal(tuple(parameter.shape))) * std


def _passes(batch: tuple[Tensor, ...], size: int) -> Iterator[tuple[tuple[Tensor, ...], bool]]:
    """A batch in passes of at most ``size`` samples, one at least, each with whether it is the last."""
    n = len(batch[0])
    for start in range(0, max(n, 1), size):
        yield tuple(tensor[start : start + size] for tensor in batch), start + size >= n
