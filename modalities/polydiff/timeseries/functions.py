"""FunctionGenerator: fit it on functions, each a set of points; draw functions, condition them on observed points."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import Model, VPrediction
from polydiff.core.generator import Generator
from polydiff.core.processes import Gaussian
from polydiff.core.sampling import Chain, DPMSolverPP, Sampler
from polydiff.core.schedules import Cosine, uniform_times
from polydiff.core.training import Batches, Denoising, VWeight, adamw, train
from polydiff.timeseries.function_data import Function, FunctionCodec
from polydiff.timeseries.function_networks import BiDimensionalNet

__all__ = ["FunctionConfig", "FunctionGenerator", "context_masks"]


@dataclass(frozen=True)
class FunctionConfig:
    """Everything about a generator of functions that is not read off the data.

    Attributes:
        width: Of a token of the network.
        depth: Number of bi-dimensional blocks.
        heads: Of their attention.
        steps: Training steps.
        batch_size: Functions a step.
        lr: Peak rate of AdamW.
        weight_decay: Of AdamW.
        warmup: Steps of linear warm-up; then a cosine to zero.
        ema: Decay of the averaged weights.
        sample_steps: Sampling steps, unless asked otherwise.
    """

    width: int = 32
    depth: int = 2
    heads: int = 4
    steps: int = 4000
    batch_size: int = 64
    lr: float = 2e-3
    weight_decay: float = 1e-4
    warmup: int = 100
    ema: float = 0.995
    sample_steps: int = 32

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "steps", "batch_size", "sample_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")


def context_masks(x0: Any, rng: Rng) -> Tensor:
    """Which points of a function are told, ``(B, N)``: none of a fifth of the functions, else any share of the points."""
    share = rng.uniform(x0[:, 0, 0]) * 1.25 - 0.25
    return rng.uniform(x0[:, :, 0]) < share[:, None]


class FunctionGenerator(Generator):
    """Learns a law over functions from sets of points, in any number, order and place: a neural diffusion process.

    Args:
        config: ``FunctionConfig()`` if left out.
        seed: Of weights, data order and training noise.
        device: Where to run; the best one at hand if left out.

    >>> import numpy as np
    >>> x = np.linspace(0, 1, 8)
    >>> waves = [(x[: 5 + i % 4], np.sin(6 * x[: 5 + i % 4] + i)) for i in range(32)]
    >>> model = FunctionGenerator(FunctionConfig(batch_size=8)).fit(waves, steps=2, progress=False)
    >>> model.sample(x, n=3).shape, model.condition(x[:2], [0.0, 0.1], x, n=4).shape
    ((3, 8, 1), (4, 8, 1))

    Source: Neural Diffusion Processes, 2022, arXiv 2206.03992. Observed points are told to the network in training, in place
    of the paper's resampling at sampling time.
    """

    modality: ClassVar[str] = "functions"
    config_class: ClassVar[type] = FunctionConfig

    def __init__(
        self, config: FunctionConfig | None = None, *, seed: int = 0, device: str | torch.device | None = None
    ) -> None:
        super().__init__(FunctionConfig() if config is None else config, seed=seed, device=device)

    @classmethod
    def _codec_from(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FunctionCodec:
        return FunctionCodec(**config, mean=tensors["mean"], std=tensors["std"])

    def _model_from(self, codec: FunctionCodec) -> Model:
        c = self.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            net = BiDimensionalNet(codec.outputs, width=c.width, depth=c.depth, heads=c.heads)
        return Model(net, Gaussian(Cosine()), VPrediction(), sees_known=True).to(self.device)

    # -------------------------------------------------------------- fitting

    def fit(
        self,
        functions: Sequence[Function],
        *,
        steps: int | None = None,
        seconds: float | None = None,
        run_dir: str | Path | None = None,
        callbacks: Iterable[Callable[..., None]] = (),
        progress: bool | None = None,
    ) -> Self:
        """Learn from functions.

        Args:
            functions: Pairs ``(x, y)`` of arrays ``(N_i, D_x)`` and ``(N_i, D_y)`` (or ``(N_i,)``); N_i may vary.
            steps: Training steps; those of the configuration if left out.
            seconds: Stop after this time if it comes first.
            run_dir: Folder of log and checkpoints.
            callbacks: ``callback(trainer, step, logs)``.
            progress: Show a bar; by default only on a terminal.

        Raises:
            ValueError: For sets without points, of unequal lengths or widths, and for values that are not finite.
        """
        codec = FunctionCodec.fit(functions)
        values, places, valid = codec.pack(functions)
        model, c = self._model_from(codec), self.config
        ctx = Context(cond={"at": places}, valid=valid)
        self.history = train(
            Denoising(model, weight=VWeight(), known=context_masks),
            adamw(model, c.lr, c.weight_decay),
            Batches(values, ctx=ctx, batch_size=min(c.batch_size, len(values)), seed=self.seed),
            c,
            seed=self.seed,
            device=self.device,
            steps=steps,
            seconds=seconds,
            run_dir=run_dir,
            callbacks=callbacks,
            progress=progress,
        )
        self.codec, self.model = codec, model.eval()
        return self

    # -------------------------------------------------------------- sampling

    def sample(
        self, x: Any, n: int = 1, *, steps: int | None = None, seed: int = 0, sampler: Sampler | None = None
    ) -> np.ndarray:
        """n functions at places x ``(N, D_x)`` or ``(N,)``: ``(n, N, D_y)``."""
        codec, _ = self._fitted()
        places = codec.places(x)
        empty = torch.zeros(0, codec.outputs)
        return self._drawn(places[:0], empty, places, n, steps, seed, sampler)

    def condition(
        self,
        known_x: Any,
        known_y: Any,
        x: Any,
        n: int = 100,
        *,
        steps: int | None = None,
        seed: int = 0,
        sampler: Sampler | None = None,
    ) -> np.ndarray:
        """n functions at places x given values at others: draws of the joint posterior, ``(n, N, D_y)``.

        Args:
            known_x: Places of the observations ``(M, D_x)``.
            known_y: Observations ``(M, D_y)`` or ``(M,)``.
            x: Places asked for ``(N, D_x)``.
            n: How many; draw i depends on seed and i alone.
            steps: Sampling steps.
            seed: Of the draws.
            sampler: Any Sampler in place of DPM-Solver++(2M).
        """
        codec, _ = self._fitted()
        before, values = codec.places(known_x), codec.values(known_y)
        if len(before) != len(values):
            raise ValueError(f"{len(before)} places and {len(values)} observations: need one observation a place")
        return self._drawn(before, values, codec.places(x), n, steps, seed, sampler)

    def _drawn(
        self,
        before: Tensor,
        values: Tensor,
        places: Tensor,
        n: int,
        steps: int | None,
        seed: int,
        sampler: Sampler | None,
    ) -> np.ndarray:
        """Points to draw come first, so that their noise does not depend on how many are told."""
        codec, _ = self._fitted()
        at = torch.cat([places, before]).to(self.device)
        given = torch.cat([torch.zeros(len(places), codec.outputs), values]).to(self.device)
        known = torch.arange(len(at), device=self.device) >= len(places)
        run = Chain(uniform_times(self.config.sample_steps if steps is None else steps), DPMSolverPP(2))

        def context(rows: slice) -> Context:
            size = rows.stop - rows.start
            wide = [v.expand(size, *v.shape) for v in (at, known, given)]
            return Context(cond={"at": wide[0]}, known=wide[1], given=wide[2])

        batches = self._generate(
            n,
            lambda size: given.new_zeros(size, *given.shape),
            context,
            run if sampler is None else sampler,
            seed=seed,
            batch_size=256,
            progress=False,
        )
        found: np.ndarray = codec.decode(torch.cat([b for b in batches if isinstance(b, Tensor)]))[:, : len(places)]
        return found
