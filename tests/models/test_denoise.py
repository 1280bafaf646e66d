"""What the server solves in pieces is what the formulas say of the whole."""

from __future__ import annotations

import numpy as np
import pytest

from fedrec.data.interactions import Catalogue
from fedrec.models import denoise
from fedrec.models.denoise import PublicKernels, ease_weights, shrink_spectrum, with_diagonal
from fedrec.models.history import F64

N = 150


def symmetric(seed: int, n: int = N) -> F64:
    matrix = np.random.default_rng(seed).normal(size=(n, n))
    matrix = matrix + matrix.T
    np.fill_diagonal(matrix, 0)
    return np.asarray(matrix)


def catalogue(n: int = N) -> Catalogue:
    rng = np.random.default_rng(4)
    genres = (rng.random((n, 5)) < 0.4).astype(np.float32)
    names = tuple("abcde")
    return Catalogue(
        np.arange(n).astype(str), years=rng.integers(1950, 2000, n).astype(np.float64), genre_names=names, genres=genres
    )


@pytest.mark.parametrize("edge", [0.0, 20.0, 1e6])
def test_the_shrunk_spectrum_is_that_of_all_eigenvectors(edge: float) -> None:
    matrix = symmetric(1)
    values, vectors = np.linalg.eigh(matrix)
    kept = np.where(np.abs(values) > edge, np.sign(values) * (np.abs(values) - 0.8 * edge), 0)
    np.testing.assert_allclose(shrink_spectrum(matrix, edge), (vectors * kept) @ vectors.T, atol=1e-10)


@pytest.mark.parametrize("definite", [True, False])
def test_ease_solves_also_what_noise_left_indefinite(definite: bool) -> None:
    rng = np.random.default_rng(2)
    gram = symmetric(2) * (0.01 if definite else 5.0)
    popularity = rng.uniform(1, 5, N)
    full = with_diagonal(gram, popularity) + 3.0 * np.eye(N)
    assert (np.linalg.eigvalsh(full)[0] > 0) == definite
    inverse = np.linalg.inv(full)
    wanted = -inverse / np.diag(inverse)
    np.fill_diagonal(wanted, 0)
    found = ease_weights(gram, popularity, 3.0)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max())


def test_the_prior_is_the_least_squares_fit_of_all_its_kernels() -> None:
    rng = np.random.default_rng(3)
    gram, popularity, top = symmetric(3), rng.uniform(0.5, 3, N), rng.permutation(N)[:90]
    kernels = PublicKernels.of(catalogue())
    everyone = np.arange(N)
    whole = [kernel * np.outer(popularity, popularity) for kernel in kernels.block(everyone, everyone)]
    assert len(whole) == 7
    for kernel in whole:
        np.fill_diagonal(kernel, 0)
    block = np.ix_(top, top)
    basis = np.stack([kernel[block].ravel() for kernel in whole], axis=1)
    weights = np.linalg.lstsq(basis, gram[block].ravel(), rcond=None)[0]
    found = denoise._public_prior(gram, popularity, kernels, top)
    np.testing.assert_allclose(found, sum(w * kernel for w, kernel in zip(weights, whole, strict=True)), atol=1e-4)


def test_a_catalogue_without_features_has_one_kernel() -> None:
    kernels = PublicKernels.of(Catalogue(np.arange(4).astype(str)))
    (ones,) = kernels.block(np.array([1, 2]), np.arange(4))
    np.testing.assert_array_equal(ones, np.ones((2, 4)))
