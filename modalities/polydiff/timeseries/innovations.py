"""Windows as standardised surprises: what a linear Gaussian model cannot foresee of the open entries given the told ones."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Innovations", "Spectrum", "spectrum_of"]

_MEMORY = 256  # patterns of told and open entries whose factors are kept


@dataclass(frozen=True, eq=False)
class _Factors:
    """Told entries, then open ones, and the Cholesky factor of their covariance in this order: ``[[A, 0], [B, C]]``."""

    order: Tensor
    told: int
    lower: Tensor


class Innovations:
    """``u = L⁻¹ (z_open − m)`` with ``m = μ_o + Σ_ok Σ_kk⁻¹ (z_told − μ_k)`` and ``L Lᵀ = Σ_oo − Σ_ok Σ_kk⁻¹ Σ_ko``.

    Under ``N(μ, Σ)`` the surprises u are standard normal whatever is told. A diffusion model of them that has learned nothing
    yet (its posterior mean is ``a x_t``) thus draws from the exact conditional of the Gaussian model: linear regression with
    its error bars, step by step in the order of time; training starts there. L is lower triangular in the order of steps, so
    that u is what each step adds to those before it.

    Args:
        mean: ``(L · D,)`` of windows of L steps and D channels, step by step.
        cov: ``(L · D, L · D)``.

    Source: the change of variables of PriorGrad, 2021, arXiv 2106.06406, with a full covariance; the residual of a point
    forecast as in Effective Probabilistic Time Series Forecasting with Fourier Adaptive Noise-Separated Diffusion, 2025,
    arXiv 2505.11306.
    """

    def __init__(self, mean: Tensor, cov: Tensor) -> None:
        if cov.shape != (len(mean), len(mean)):
            raise ValueError(f"cov of shape {tuple(cov.shape)} beside a mean of {len(mean)} entries")
        self.mean, self.cov = mean.double(), cov.double()
        self._kept: OrderedDict[bytes, _Factors] = OrderedDict()

    def encode(self, z: Tensor, known: Tensor, open_: Tensor) -> Tensor:
        """Windows ``(B, L, D)`` with surprises in place of their open entries; the others as they are."""
        out = z.double().flatten(1).clone()
        for rows, f in self._groups(known, open_):
            white = self._white(f.lower, out[rows][:, f.order] - self.mean[f.order])
            out[rows[:, None], f.order[f.told :]] = white[:, f.told :]
        return out.view_as(z).to(z.dtype)

    def decode(self, u: Tensor, known: Tensor, open_: Tensor, repeats: int = 1) -> Tensor:
        """Windows ``(B · repeats, L, D)`` from their surprises; the masks ``(B, L, D)`` are those of each run of repeats."""
        out = u.double().flatten(1).unflatten(0, (len(known), repeats)).clone()
        for rows, f in self._groups(known, open_):
            part, k = out[rows][..., f.order], f.told
            told = self._white(f.lower[:k, :k], (part[..., :k] - self.mean[f.order[:k]]).flatten(0, 1))
            white = torch.cat([told, part[..., k:].flatten(0, 1)], 1)
            made = white @ f.lower[k:].T + self.mean[f.order[k:]]
            out[rows[:, None, None], torch.arange(repeats)[:, None], f.order[k:]] = made.unflatten(0, (-1, repeats))
        return out.flatten(0, 1).view_as(u).to(u.dtype)

    def moments(self, z: Tensor, known: Tensor, open_: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every open entry given the told ones, ``(B, L, D)``; zero elsewhere."""
        flat = z.double().flatten(1)
        mean, std = torch.zeros_like(flat), torch.zeros_like(flat)
        for rows, f in self._groups(known, open_):
            k, at = f.told, (rows[:, None], f.order[f.told :])
            told = self._white(f.lower[:k, :k], flat[rows][:, f.order[:k]] - self.mean[f.order[:k]])
            mean[at] = told @ f.lower[k:, :k].T + self.mean[f.order[k:]]
            std[at] = f.lower[k:, k:].square().sum(1).sqrt().expand(len(rows), -1)
        return mean.view_as(z), std.view_as(z)

    def log_det(self, known: Tensor, open_: Tensor) -> Tensor:
        """``log |dz / du|`` of each window, ``(B,)``."""
        out = torch.zeros(len(known), dtype=torch.float64)
        for rows, f in self._groups(known, open_):
            out[rows] = f.lower.diagonal()[f.told :].log().sum()
        return out

    @staticmethod
    def _white(lower: Tensor, gap: Tensor) -> Tensor:
        """``L⁻¹ gap`` of rows."""
        return torch.linalg.solve_triangular(lower, gap.T, upper=False).T if len(lower) else gap

    def _groups(self, known: Tensor, open_: Tensor) -> list[tuple[Tensor, _Factors]]:
        """Rows of each pattern with its factors."""
        state = (known.flatten(1).to(torch.uint8) + 2 * open_.flatten(1).to(torch.uint8)).cpu()
        patterns, member = torch.unique(state, dim=0, return_inverse=True)
        return [((member == i).nonzero()[:, 0], self._factors(p)) for i, p in enumerate(patterns)]

    def _factors(self, pattern: Tensor) -> _Factors:
        key = pattern.numpy().tobytes()
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        told, asked = ((pattern == v).nonzero()[:, 0] for v in (1, 2))
        order = torch.cat([told, asked])
        found = _Factors(order, len(told), torch.linalg.cholesky(self.cov[order[:, None], order]))
        self._kept[key] = found
        if len(self._kept) > _MEMORY:
            self._kept.popitem(last=False)
        return found


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Mean ``(L · D,)`` and covariance of windows, by its eigenvalues and eigenvectors.

    Attributes:
        mean: Of every entry.
        values: Eigenvalues; those that pairs of entries have made negative too.
        vectors: Eigenvectors, in columns.
    """

    mean: Tensor
    values: Tensor
    vectors: Tensor

    def cov(self, ridge: float = 0.0) -> Tensor:
        """The covariance: eigenvalues at least a ten-thousandth of the mean variance, all raised by ``ridge`` times it."""
        typical = self.values.clamp_min(0).mean().clamp_min(1e-12)
        lifted = self.values.clamp_min(1e-4 * float(typical)) + ridge * typical
        return (self.vectors * lifted) @ self.vectors.T


def spectrum_of(z: Tensor, valid: Tensor) -> Spectrum:
    """Moments of windows ``(N, L, D)`` from the entries that are there: of each pair, from the windows that have both."""
    x, w = z.double().flatten(1), valid.flatten(1).double()
    n = w.sum(0).clamp_min(1)
    mean = (x * w).sum(0) / n
    gap = (x - mean) * w
    cov = (gap.T @ gap) / (w.T @ w).clamp_min(1)
    return Spectrum(mean, *torch.linalg.eigh((cov + cov.T) / 2))
