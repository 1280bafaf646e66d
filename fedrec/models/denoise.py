"""What a server may do with noised statistics, free of charge: every function here is post-processing of a release.

The noise's standard deviation is public, so popularity gets a posterior mean under a public prior, and a Gram matrix
keeps only what rises above the edge of its noise's spectrum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedrec.data.interactions import Catalogue
from fedrec.models.history import F32, F64, filled_years, unit_rows

_FLOOR = 0.02  # the least popularity an item may have: log and powers of it are taken
_LOG_SD = 1.25  # spread of log-popularity about its public mean, as on every data set of this kind
_ROWS = 64  # of a block of kernels
_YEAR_EDGES = np.r_[1930:1990:10, 1990:2030]


def denoise_popularity(noised: F64, noise_std: float, catalogue: Catalogue, n_users: int) -> F64:
    """Popularity ``[n_items]``, positive: exp of the posterior mean of its log.

    The likelihood is the known Gaussian noise, the prior lognormal about a ridge regression on public genre and year
    bins. Without noise, the statistic itself.
    """
    if noise_std == 0:
        return np.maximum(noised, _FLOOR)
    bins = np.eye(len(_YEAR_EDGES) + 1)[np.digitize(filled_years(catalogue), _YEAR_EDGES)]
    genres = np.zeros((len(noised), 0)) if catalogue.genres is None else catalogue.genres.astype(np.float64)
    design: F64 = np.hstack([np.ones((len(noised), 1)), genres, bins])
    penalty = np.diag(np.r_[1e-3, np.full(design.shape[1] - 1, 10.0)])
    mean = design @ np.linalg.solve(design.T @ design + penalty, design.T @ noised)
    mean = np.maximum(mean, 0.15 * max(float(noised.mean()), 1e-3))
    grid = np.linspace(np.log(_FLOOR), np.log(max(n_users, 2)), 240)[None]
    log_posterior = -0.5 * ((grid - np.log(mean)[:, None] + _LOG_SD**2 / 2) / _LOG_SD) ** 2
    log_posterior -= 0.5 * ((noised[:, None] - np.exp(grid)) / noise_std) ** 2
    weights = np.exp(log_posterior - log_posterior.max(axis=1, keepdims=True))
    return np.asarray(np.exp((weights * grid).sum(axis=1) / weights.sum(axis=1)))


@dataclass(frozen=True, eq=False)
class PublicKernels:
    """Public similarities between items, in blocks of rows: the basis of the prior of a Gram matrix.

    Attributes:
        years: ``[n_items]``, one for all where none is known.
        features: unit rows of each public matrix ``[n_items, ·]``.
    """

    years: F32
    features: tuple[F32, ...]

    @classmethod
    def of(cls, catalogue: Catalogue) -> PublicKernels:
        known = (catalogue.genres, catalogue.features)
        features = tuple(unit_rows(matrix) for matrix in known if matrix is not None and matrix.shape[1])
        return cls(filled_years(catalogue).astype(np.float32), features)

    def block(self, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> list[F32]:
        """Each kernel between these items, ``[len(rows), len(columns)]``: ones, nearness, cosines."""
        kernels = [np.ones((len(rows), len(columns)), np.float32)]
        dated = bool(np.ptp(self.years)) if len(self.years) else False
        apart = np.abs(self.years[rows, None] - self.years[columns])
        if dated:
            kernels += [np.exp(-apart / np.float32(1.5)), np.exp(-apart / np.float32(6))]
            near = np.exp(-apart / np.float32(3))
        for unit in self.features:
            cosine = np.clip(unit[rows] @ unit[columns].T, 0, 1)
            fourth = np.square(np.square(cosine))
            kernels += [cosine, fourth]
            if dated:
                kernels += [cosine * near, fourth * near]
        return kernels


def denoise_gram(gram: F64, noise_std: float, popularity: F64, catalogue: Catalogue, top_share: float) -> F64:
    """A Gram matrix ``[n, n]`` with a zero diagonal, as the public prior plus what rises above the noise.

    Args:
        gram: as released.
        noise_std: noise of each off-diagonal entry.
        popularity: denoised.
        catalogue: public features.
        top_share: the residual is read on this share of the items, the most popular ones.
    """
    if noise_std == 0:
        return gram
    top = np.argsort(-popularity, kind="stable")[: max(int(top_share * len(popularity)), 2)]
    block = np.ix_(top, top)
    result = _public_prior(gram, popularity, PublicKernels.of(catalogue), top)
    # The spectrum of a symmetric noise matrix of size K ends at 2 · std · sqrt(K) (Wigner's semicircle).
    result[block] += shrink_spectrum(gram[block] - result[block], 2 * noise_std * np.sqrt(len(top)))
    return result


def shrink_spectrum(matrix: F64, edge: float, less: float = 0.8) -> F64:
    """Drop eigenvalues below the edge of the noise's spectrum and pull the others down by ``less`` times the edge."""
    from scipy.linalg import eigh

    shrunk = np.zeros_like(matrix)
    for beyond, sign in (((edge, np.inf), 1), ((-np.inf, -edge), -1)):
        values, vectors = eigh(matrix, subset_by_value=beyond)  # few are kept: the others' vectors are the costly part
        shrunk += (vectors * (values - sign * less * edge)) @ vectors.T
    return shrunk


def with_diagonal(gram: F64, popularity: F64) -> F64:
    """The Gram matrix with its diagonal, which is not released.

    The diagonal is d_i = Σ 1/n_u over the users u of item i, the off-diagonal row sum o_i = Σ (n_u - 1)/n_u and the
    popularity p_i = Σ 1/√n_u. By Cauchy and Schwarz p_i² ≤ d_i (d_i + o_i), near equality; d solves it as one.
    """
    off = np.maximum(gram.sum(axis=1), 0)
    full = gram.copy()
    np.fill_diagonal(full, (np.sqrt(off**2 + 4 * popularity**2) - off) / 2)
    return full


def spectral_factor(gram: F64, popularity: F64, rank: int, damping: float) -> tuple[F32, F32]:
    """A table T ``[n, rank]`` and item weights p^-½ ``[n]``: a profile x is scored as (x · weights) T Tᵀ.

    That is x D^-½ F D^½ with D = diag(p) and F = U w/(w + damping·w₁) Uᵀ the filtered spectrum of D^-½ G D^-½: a graph
    filter on the item-item matrix (Shen et al. 2021, "How powerful is graph convolution for recommendation?").

    Args:
        gram: with a zero diagonal.
        popularity: positive.
        rank: eigenvectors kept.
        damping: how strongly small eigenvalues are held back, as a share of the largest.
    """
    from scipy.sparse.linalg import eigsh

    scale = popularity**-0.5
    scaled = with_diagonal(gram, popularity) * scale[:, None] * scale[None]
    n = len(scaled)
    values, vectors = eigsh(scaled, k=min(rank, n - 1), which="LA", v0=np.ones(n))
    values = np.maximum(values, 0)
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    vectors = vectors * np.sign(largest)  # an eigenvector's sign is arbitrary: fixed, so that engines agree
    table = vectors * np.sqrt(values / (values + damping * values.max())) / scale[:, None]
    return table.astype(np.float32), scale.astype(np.float32)


def ease_weights(gram: F64, popularity: F64, ridge: float) -> F32:
    """The item weights of EASE (Steck 2019), ``[n, n]`` with a zero diagonal: -P_ij / P_jj, P = (G + ridge)⁻¹."""
    full = with_diagonal(gram, popularity)
    full[np.diag_indices(len(full))] += ridge
    inverse = _inverse(full)
    inverse /= -np.diag(inverse)
    np.fill_diagonal(inverse, 0)
    return np.ascontiguousarray(inverse, np.float32)


def _inverse(matrix: F64) -> F64:
    """The inverse of a symmetric matrix: by Cholesky, half the work, where it is positive definite."""
    from scipy.linalg.lapack import dpotrf, dpotri

    factor, failed = dpotrf(matrix, lower=True, clean=False)
    if failed:  # noise or a poor prior may leave negative eigenvalues
        return np.asarray(np.linalg.inv(matrix), np.float64)
    inverse, _ = dpotri(factor, lower=True, overwrite_c=True)
    for first in range(0, len(inverse), _ROWS):  # above the diagonal, a mirror image, without a second matrix
        last = first + _ROWS
        inverse[first:last, last:] = inverse[last:, first:last].T
        corner = np.tril(inverse[first:last, first:last])
        inverse[first:last, first:last] = corner + np.tril(corner, -1).T
    return np.asarray(inverse, np.float64)


def _public_prior(gram: F64, popularity: F64, kernels: PublicKernels, top: npt.NDArray[np.int64]) -> F64:
    """p_i p_j Σ_k a_k K_k(i, j), a by least squares on the released entries among the top items."""
    weights = _prior_weights(gram, popularity, kernels, top)
    n = len(gram)
    prior = np.empty_like(gram)
    for rows in _row_blocks(np.arange(n)):
        block = np.zeros((len(rows), n))
        for weight, kernel in zip(weights, kernels.block(rows, np.arange(n)), strict=True):
            block += weight * kernel
        prior[rows] = block * popularity[rows, None] * popularity
    np.fill_diagonal(prior, 0)
    return prior


def _prior_weights(gram: F64, popularity: F64, kernels: PublicKernels, top: npt.NDArray[np.int64]) -> F64:
    """The weight of each kernel."""
    normal, target = np.zeros((1, 1)), np.zeros(1)
    for rows in _row_blocks(top):
        outer = np.outer(popularity[rows], popularity[top])
        outer[rows[:, None] == top] = 0  # the diagonal
        basis = np.stack([(kernel * outer).ravel() for kernel in kernels.block(rows, top)])
        normal = normal + basis @ basis.T
        target = target + basis @ gram[np.ix_(rows, top)].ravel()
    return np.asarray(np.linalg.solve(normal + 1e-9 * np.trace(normal) * np.eye(len(normal)), target))


def _row_blocks(items: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Some rows at a time, so that a kernel between them and all items stays in the cache."""
    return np.array_split(items, -(-len(items) // _ROWS)) if len(items) else []
