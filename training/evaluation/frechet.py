"""The Fréchet distance of two sets of vectors, of pictures say."""

from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """What is asked of a set: mean (width,) and covariance (width, width)."""

    mean: np.ndarray
    covariance: np.ndarray


def moments(vectors: np.ndarray) -> Moments:
    """Mean and covariance of vectors (count, width), in float64."""
    wide = vectors.astype(np.float64)
    return Moments(wide.mean(axis=0), np.cov(wide, rowvar=False))


def frechet(some: Moments, others: Moments) -> float:
    """‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½) (arXiv 1706.08500); too large where the sets are small.

    Σ₁ Σ₂ has the eigenvalues of Σ₁^½ Σ₂ Σ₁^½, which is symmetric, so that no covariance needs an inverse.
    """
    apart = some.mean - others.mean
    values, axes = np.linalg.eigh(some.covariance)
    root = (axes * np.sqrt(np.clip(values, 0, None))) @ axes.T
    common = np.sqrt(np.clip(np.linalg.eigvalsh(root @ others.covariance @ root), 0, None)).sum()
    return float(apart @ apart + np.trace(some.covariance) + np.trace(others.covariance) - 2 * common)
