"""Convolutions on the sphere and on the circle, as products of spectra."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["CircularMix", "SphericalConv", "SphericalMix", "SphericalTransform", "legendre"]

Grid = Literal["gauss", "equiangular"]


def legendre(degrees: int, cosine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Associated Legendre functions ``P_lm(x)``, ``(degrees m, J, degrees l)``, zero for l < m.

    Orthonormal on the sphere: ``Y_lm = P_lm(cos θ) e^{imφ}`` has ``∫ |Y_lm|² = 1``. Without the Condon–Shortley phase. By
    recurrence in the degree, which is stable.
    """
    x, sine = cosine, np.sqrt(1 - cosine**2)
    p = np.zeros((degrees, len(x), degrees))
    for m in range(degrees):
        p[m, :, m] = math.sqrt(1 / (4 * math.pi)) if m == 0 else math.sqrt(1 + 0.5 / m) * sine * p[m - 1, :, m - 1]
        for n in range(m + 1, degrees):
            a = math.sqrt((4 * n * n - 1) / (n * n - m * m))
            b = math.sqrt(((n - 1) ** 2 - m * m) / (4 * (n - 1) ** 2 - 1))
            p[m, :, n] = a * (x * p[m, :, n - 1] - b * p[m, :, max(n - 2, 0)])
    return p


class SphericalTransform(nn.Module):
    """Spherical harmonics of real fields on latitudes × longitudes, exact for fields of band-limit ``degrees``.

    ``a_lm = 2π Σ_j w_j P_lm(x_j) · (1/K) Σ_k f(θ_j, φ_k) e^{−imφ_k}`` for 0 ≤ m ≤ l < degrees (negative orders are
    conjugates), and ``f = Σ_lm a_lm Y_lm``.

    Args:
        latitudes: J, from the north.
        longitudes: K, equally spaced from 0.
        grid: ``"gauss"`` (Gauss–Legendre latitudes, band-limit ``min(J, ⌈K/2⌉)``) or ``"equiangular"``
            (``θ_j = π (j + ½) / J`` with Fejér's weights, band-limit ``min(⌈J/2⌉, ⌈K/2⌉)``).

    Source: Spherical Fourier Neural Operators: Learning Stable Dynamics on the Sphere, 2023, arXiv 2306.03838.
    """

    analysis: Tensor
    synthesis: Tensor

    def __init__(self, latitudes: int, longitudes: int, grid: Grid = "gauss") -> None:
        super().__init__()
        if latitudes < 2 or longitudes < 2:
            raise ValueError(f"a grid of {latitudes} × {longitudes}: need at least 2 latitudes and 2 longitudes")
        x, weights = _latitudes(latitudes, grid)
        self.latitudes, self.longitudes = latitudes, longitudes
        self.degrees = min(latitudes if grid == "gauss" else (latitudes + 1) // 2, (longitudes + 1) // 2)
        p = legendre(self.degrees, x)
        self.register_buffer("synthesis", torch.as_tensor(p), persistent=False)
        self.register_buffer("analysis", torch.as_tensor(2 * np.pi * weights[:, None] * p), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., J, K)`` to complex coefficients ``(..., m, l)``."""
        orders = torch.fft.rfft(x, norm="forward")[..., : self.degrees]
        return torch.einsum("...jm,mjl->...ml", orders, self.analysis.to(orders.dtype))

    def inverse(self, a: Tensor) -> Tensor:
        """Complex coefficients ``(..., m, l)`` to ``(..., J, K)``."""
        orders = torch.einsum("...ml,mjl->...jm", a, self.synthesis.to(a.dtype))
        return torch.fft.irfft(orders, self.longitudes, norm="forward")


def _latitudes(n: int, grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``cos θ_j`` from the north, and weights of ``∫ dx`` over [−1, 1]."""
    if grid == "gauss":
        x, w = np.polynomial.legendre.leggauss(n)
        return x[::-1].copy(), w[::-1].copy()
    if grid != "equiangular":
        raise ValueError(f"grid={grid!r}: need 'gauss' or 'equiangular'")
    theta = np.pi * (np.arange(n) + 0.5) / n
    k = np.arange(1, n // 2 + 1)
    w = 2 / n * (1 - 2 * (np.cos(2 * np.outer(theta, k)) / (4 * k**2 - 1)).sum(1))
    return np.cos(theta), w


class SphericalConv(nn.Module):
    """``a_lm ← Σ_c W_c(l[, m]) a_lm,c``: a convolution with learned filters over channels, with the field's band-limit.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        transform: Of the grid.
        filters: ``"zonal"``: real weights a degree, which commute with every rotation; a network of them knows no axis, and
            cannot tell east from west. ``"polar"``: complex weights a degree and order, which commute with rotations about
            the pole alone: for a planet that turns.
    """

    def __init__(
        self, inputs: int, outputs: int, transform: SphericalTransform, filters: Literal["zonal", "polar"] = "polar"
    ) -> None:
        super().__init__()
        if filters not in ("zonal", "polar"):
            raise ValueError(f"filters={filters!r}: need 'zonal' or 'polar'")
        self.transform, n = transform, transform.degrees
        shape = (outputs, inputs, 1, n) if filters == "zonal" else (outputs, inputs, n, n, 2)
        self.zonal = filters == "zonal"
        self.weight = nn.Parameter(torch.randn(shape) / math.sqrt(inputs * (1 if self.zonal else 2)))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, J, K)`` to ``(B, outputs, J, K)``."""
        a = self.transform(x)
        if not self.zonal:
            # (m l, B, in) times (m l, in, out): one batched product of matrices
            w = torch.view_as_complex(self.weight)
            return self.transform.inverse(_mixed(a.flatten(2), w.flatten(2)).unflatten(2, a.shape[2:]))
        mixed = torch.einsum("bcml,ocl->boml", a, self.weight[:, :, 0].to(a.dtype))
        return self.transform.inverse(mixed)


def _mixed(a: Tensor, weight: Tensor) -> Tensor:
    """``(B, in, n)`` and ``(out, in, n)`` to ``(B, out, n)``."""
    return torch.bmm(a.permute(2, 0, 1), weight.permute(2, 1, 0)).permute(1, 2, 0)


class SphericalMix(nn.Module):
    """A spherical convolution beside a pointwise one, on flattened sites ``(B, C, J K)``: a mixer of ``FieldNet``.

    Args:
        width: C.
        shape: (J, K).
        filters: As for ``SphericalConv``.
    """

    def __init__(
        self, width: int, shape: tuple[int, int], filters: Literal["zonal", "polar"] = "polar", grid: Grid = "gauss"
    ) -> None:
        super().__init__()
        self.shape = shape
        self.conv = SphericalConv(width, width, SphericalTransform(*shape, grid), filters)
        self.point = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, J K)``."""
        return self.conv(x.unflatten(-1, self.shape)).flatten(-2) + self.point(x)


class CircularMix(nn.Module):
    """``a_k ← Σ_c W_c(k) a_k,c`` in Fourier modes of a ring of S sites: what a spherical convolution is on one latitude.

    Args:
        width: Channels.
        sites: S.
        modes: Highest wave number with weights, beside a pointwise convolution; all by default.

    Source: Fourier Neural Operator for Parametric Partial Differential Equations, 2020, arXiv 2010.08895.
    """

    def __init__(self, width: int, sites: int, modes: int | None = None) -> None:
        super().__init__()
        self.sites, self.modes = sites, sites // 2 if modes is None else modes
        if not 0 <= self.modes <= sites // 2:
            raise ValueError(f"modes={modes}: a ring of {sites} sites has modes up to {sites // 2}")
        self.weight = nn.Parameter(torch.randn(width, width, self.modes + 1, 2) / math.sqrt(2 * width))
        self.point = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, S)``."""
        a = torch.fft.rfft(x, norm="forward")[..., : self.modes + 1]
        mixed = _mixed(a, torch.view_as_complex(self.weight))
        return torch.fft.irfft(mixed, self.sites, norm="forward") + self.point(x)
