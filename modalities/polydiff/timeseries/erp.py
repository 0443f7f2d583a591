"""Epochs of EEG by condition: class, subject and session, with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import Denoiser, Model, VPrediction
from polydiff.core.generator import Generator
from polydiff.core.guidance import ClassifierFree
from polydiff.core.processes import Gaussian
from polydiff.core.sampling import Chain, DPMSolverPP, Sampler
from polydiff.core.schedules import Cosine, uniform_times
from polydiff.core.training import Batches, Denoising
from polydiff.core.training.standard import adamw, train
from polydiff.core.training.weights import VWeight
from polydiff.timeseries.erp_codec import EpochCodec
from polydiff.timeseries.networks import ConvNet, WindowMLP

__all__ = ["ErpConfig", "ErpGenerator"]


@dataclass(frozen=True)
class ErpConfig:
    """Everything about a generator of epochs that is not read off the data.

    Attributes:
        network: ``"conv"`` (dilated convolutions along time) or ``"mlp"`` (an epoch as one vector).
        width: Of the network.
        depth: Of the network.
        dropout: Inside it.
        drop: Share of training epochs whose condition is hidden, for guidance; 1 for an unconditional model.
        steps: Training steps.
        batch_size: Epochs a step.
        lr: Peak rate of AdamW.
        weight_decay: Of AdamW.
        warmup: Steps of linear warm-up; then a cosine to zero.
        ema: Decay of the averaged weights.
        sample_steps: Sampling steps, unless asked otherwise.
        guidance: Scale of guidance, unless asked otherwise; 1 is the conditional model.
    """

    network: Literal["conv", "mlp"] = "conv"
    width: int = 48
    depth: int = 6
    dropout: float = 0.0
    drop: float = 0.1
    steps: int = 4000
    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 1e-2
    warmup: int = 100
    ema: float = 0.995
    sample_steps: int = 32
    guidance: float = 1.0

    def __post_init__(self) -> None:
        for name in ("width", "depth", "steps", "batch_size", "sample_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if not 0 <= self.drop <= 1:
            raise ValueError(f"drop={self.drop}: must be a probability")


class ErpGenerator(Generator):
    """Epochs of EEG given class, subject and session, drawn in the domain of time.

    The network is modulated by the sum of three embeddings. In training all three are hidden together now and then, so that
    guidance can push epochs towards their condition.

    >>> g = np.random.default_rng(0)
    >>> x, label, subject = g.standard_normal((8, 2, 16)), np.arange(8) % 2, np.arange(8) // 4
    >>> erp = ErpGenerator(ErpConfig(width=8, depth=1, steps=2, batch_size=4))
    >>> erp.fit(x, label, subject, progress=False).sample(3, label=1, subject=0, guidance=1.5).shape
    (3, 2, 16)

    Source: Synthesizing EEG Signals from Event-Related Potential Paradigms with Conditional Diffusion Models, 2024, arXiv
    2403.18486.
    """

    modality: ClassVar[str] = "timeseries"
    config_class: ClassVar[type] = ErpConfig
    config: ErpConfig
    codec: EpochCodec | None = None
    model: Denoiser | None = None

    def __init__(
        self, config: ErpConfig | None = None, *, seed: int = 0, device: str | torch.device | None = None
    ) -> None:
        super().__init__(ErpConfig() if config is None else config, seed=seed, device=device)

    def fit(
        self,
        epochs: ArrayLike,
        label: ArrayLike,
        subject: ArrayLike | None = None,
        session: ArrayLike | None = None,
        *,
        progress: bool | None = None,
    ) -> Self:
        """Learn from epochs ``(N, C, T)`` and their conditions ``(N,)``; one subject, or session, if left out.

        Raises:
            ValueError: For epochs of another form, values that are not finite, and conditions of another number.
        """
        c, x = self.config, np.asarray(epochs, dtype=np.float64)
        if x.ndim != 3 or not len(x):
            raise ValueError(f"epochs of shape {x.shape}: need (N, C, T) with at least one epoch")
        zeros = np.zeros(len(x), dtype=int)
        given = {
            "label": label,
            "subject": zeros if subject is None else subject,
            "session": zeros if session is None else session,
        }
        found = {k: np.asarray(v) for k, v in given.items()}
        for name, v in found.items():
            if v.shape != (len(x),):
                raise ValueError(f"{name} of shape {v.shape} with {len(x)} epochs: need one a epoch")
        values = {k: tuple(np.unique(v).tolist()) for k, v in found.items()}
        mean, std = torch.as_tensor(x.mean((0, 2))), torch.as_tensor(x.std((0, 2)))
        self.codec = EpochCodec((x.shape[1], x.shape[2]), values, mean, torch.where(std > 0, std, 1.0))
        model = self._model_from(self.codec).to(self.device)
        batches = Batches(
            self.codec.encode(x),
            cond=self.codec.cond(found, len(x)),
            batch_size=min(c.batch_size, len(x)),
            seed=self.seed,
        )
        self.history = train(
            Denoising(model, weight=VWeight(), drop=c.drop),
            adamw(model, c.lr, c.weight_decay),
            batches,
            c,
            seed=self.seed,
            device=self.device,
            progress=progress,
        )
        self.model = model.eval()
        return self

    def sample(
        self,
        n: int,
        *,
        label: Any = None,
        subject: Any = None,
        session: Any = None,
        guidance: float | None = None,
        steps: int | None = None,
        seed: int = 0,
        sampler: Sampler | None = None,
        batch_size: int = 1024,
        progress: bool | None = False,
    ) -> NDArray[np.float64]:
        """Epochs ``(n, C, T)``.

        Args:
            n: How many.
            label: One for all, or one each. Where nothing is given at all the epochs are unconditional; a model that was never
                asked about one condition without the others has not learned to leave it out alone.
            subject: Likewise.
            session: Likewise.
            guidance: Scale; 1 is the conditional model.
            steps: Sampling steps.
            seed: Epoch i depends on seed, i and its condition alone.
            sampler: In place of DPM-Solver++(2M).
            batch_size: Epochs at a time.
            progress: Show a bar.

        Raises:
            ValueError: For a condition that was not seen in training.
        """
        codec, _ = self._fitted()
        count = self.config.sample_steps if steps is None else steps
        if count < 1:
            raise ValueError(f"steps={count}: sampling needs at least 1 step")
        cond = codec.cond({"label": label, "subject": subject, "session": session}, n)
        scale = 0.0 if label is None and subject is None and session is None else self._scale(guidance)
        made = self._generate(
            n,
            lambda size: torch.zeros(size, codec.shape[1], codec.shape[0], device=self.device),
            lambda rows: Context(cond={k: v[rows].to(self.device) for k, v in cond.items()}),
            Chain(uniform_times(count), DPMSolverPP(order=2)) if sampler is None else sampler,
            seed=seed,
            batch_size=batch_size,
            wrap=lambda denoiser: ClassifierFree(denoiser, scale),
            progress=progress,
        )
        return codec.decode(torch.cat(list(made)))  # type: ignore[arg-type]

    # -------------------------------------------------------------- for Generator

    @classmethod
    def _codec_from(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> EpochCodec:
        values = {k: tuple(v) for k, v in config["values"].items()}
        return EpochCodec((config["shape"][0], config["shape"][1]), values, tensors["mean"], tensors["std"])

    def _model_from(self, codec: EpochCodec) -> Model:
        c, (channels, length) = self.config, codec.shape
        classes, static = len(codec.values["label"]), len(codec.values["subject"]) + len(codec.values["session"])
        size: dict[str, Any] = {
            "width": c.width, "depth": c.depth, "dropout": c.dropout, "static": static, "classes": classes
        }  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(Rng(self.seed).child("weights").seed)
            net = ConvNet(channels, **size) if c.network == "conv" else WindowMLP(length, channels, **size)
        return Model(net, Gaussian(Cosine()), VPrediction(), null={"label": classes, "static": 0.0})
