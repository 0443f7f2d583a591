"""Named, complete configurations as plain functions; any field can be changed with ``dataclasses.replace``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from polydiff.core.device import Precision

__all__ = ["TableConfig", "default", "imputing", "large", "medium", "small"]


@dataclass(frozen=True)
class TableConfig:
    """Everything about a table generator that is not read off the data.

    Attributes:
        network: ``"mlp"``, or ``"transformer"`` with a token a column.
        width: Of the network's blocks.
        depth: Number of blocks.
        heads: Of the transformer's attention.
        dropout: Inside the blocks.
        frequencies: Periodic features of each number.
        scale: Standard deviation of their frequencies, in radians a standard deviation of the number.
        numbers: Process of numeric cells: ``"gaussian"`` (cosine schedule, v-prediction) or ``"flow"`` (straight lines).
        categories: Process of categorical cells: ``"absorbing"`` (masks), ``"uniform"`` (multinomial, as in TabDDPM) or
            ``"onehot"`` (Gaussian noise on indicators).
        clocks: ``"learned"`` gives every column a schedule of its own.
        share: Of training rows that are told some of their cells: what holding, imputing and conditioning live on.
        balance: Weight of the categories' cross-entropy beside the numbers' squared error.
        steps: Training steps.
        batch_size: Rows a step.
        lr: Peak rate of AdamW.
        weight_decay: Of AdamW.
        warmup: Steps of linear warm-up; then a cosine to zero.
        ema: Decay of the averaged weights, which are the ones that are used and saved.
        precision: ``"fp32"``, ``"bf16"``, or ``"auto"``: bf16 where the hardware multiplies it.
        sample_steps: Sampling steps, unless asked otherwise.
    """

    network: Literal["mlp", "transformer"] = "mlp"
    width: int = 256
    depth: int = 4
    heads: int = 4
    dropout: float = 0.0
    frequencies: int = 32
    scale: float = 8.0
    numbers: Literal["gaussian", "flow"] = "gaussian"
    categories: Literal["absorbing", "uniform", "onehot"] = "absorbing"
    clocks: Literal["none", "learned"] = "none"
    share: float = 0.3
    balance: float = 1.0
    steps: int = 12_000
    batch_size: int = 512
    lr: float = 2e-3
    weight_decay: float = 1e-4
    warmup: int = 100
    ema: float = 0.999
    precision: Precision = "auto"
    sample_steps: int = 32

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "steps", "batch_size", "sample_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.width % self.heads:
            raise ValueError(f"width={self.width} is no multiple of heads={self.heads}")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share={self.share}: must be a probability")


def small() -> TableConfig:
    """Hundreds of rows: under a minute on two cores, small and regularised, so that rows are not copied."""
    return TableConfig(
        width=128, depth=3, dropout=0.1, frequencies=0, steps=1500, batch_size=128, lr=1e-3, weight_decay=1e-2
    )


def imputing() -> TableConfig:
    """Hundreds of rows with holes: every training row is told some cells, and the fit ends before it is overconfident."""
    return TableConfig(
        width=128,
        depth=3,
        dropout=0.3,
        frequencies=0,
        share=1.0,
        steps=1000,
        batch_size=128,
        lr=1e-3,
        weight_decay=1e-2,
        ema=0.995,
    )


def medium() -> TableConfig:
    """Thousands of rows: three minutes of CPU time."""
    return TableConfig(dropout=0.1, scale=2.0, steps=3000)


def large() -> TableConfig:
    """Tens of thousands of rows: ten minutes of CPU time."""
    return TableConfig()


def default(rows: int) -> TableConfig:
    """By the number of rows."""
    return small() if rows < 2000 else medium() if rows < 8000 else large()
