"""A left-to-right model of the same transformer: the baseline of likelihoods, and a judge of samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from polydiff.core.data import Context, Rng
from polydiff.core.device import autocast_of, device_of
from polydiff.core.distributions import Categorical
from polydiff.core.sampling.confidence import tempered
from polydiff.core.training import Batches, History, Loss, Objective, train
from polydiff.core.training.batches import Batch
from polydiff.text.build import network_of, optimiser_of
from polydiff.text.data import TextCodec, by_length, read_texts
from polydiff.text.likelihood import bits_per_character
from polydiff.text.networks import TextTransformer, tokens_before
from polydiff.text.recipes import TextConfig

__all__ = ["AutoregressiveLM", "NextToken"]


class NextToken(Objective):
    """Cross-entropy of every token given those before it."""

    def __init__(self, network: TextTransformer, start: int, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.network, self.start, self.autocast = network, start, autocast

    def forward(self, batch: Batch, rng: Rng) -> Loss:
        """See ``Objective``; nothing is random."""
        x = batch.x0
        assert isinstance(x, Tensor)
        with torch.autocast(x.device.type, self.autocast) if self.autocast else nullcontext():
            logits = self.network(tokens_before(x, self.start), x.new_zeros(len(x)).float(), batch.ctx)
        nats = cross_entropy(logits.flatten(0, 1).float(), x.flatten(), reduction="none").view_as(x)
        return Loss.masked(nats, batch.ctx.valid, {})


class AutoregressiveLM:
    """The transformer of ``TextGenerator`` with causal attention, trained on the same windows by the same trainer.

    Args:
        config: As for ``TextGenerator``; process, time and sampling are not read.
        seed: Of weights and data order.
        device: Where to run.
    """

    def __init__(self, config: TextConfig, *, seed: int = 0, device: str | torch.device | None = None) -> None:
        self.config, self.seed, self.device = config, seed, device_of(device)
        self.codec: TextCodec | None = None
        self.network: TextTransformer | None = None
        self.history: History | None = None

    def fit(
        self,
        corpus: Any,
        codec: TextCodec | None = None,
        *,
        steps: int | None = None,
        seconds: float | None = None,
        run_dir: str | Path | None = None,
        callbacks: Iterable[Callable[..., None]] = (),
        progress: bool | None = None,
    ) -> Self:
        """Learn a corpus as ``TextGenerator.fit`` does; ``codec`` takes the tokens of another model over."""
        c = self.config
        texts, stream = read_texts(corpus)
        if codec is None:
            codec = TextCodec.fit(texts, stream, kind=c.tokenizer, vocab=c.vocab, length=c.length)
        x = codec.encode(texts if codec.documents else "".join(texts))
        network = network_of(c, TextCodec(codec.tokenizer, codec.length, codec.documents), seed=self.seed, causal=True)
        network = network.to(self.device)
        self.history = train(
            NextToken(network, codec.mask, autocast_of(c.precision, self.device)),
            optimiser_of(c, network, self.device),
            Batches(x, batch_size=min(c.batch_size, len(x)), seed=self.seed),
            c,
            seed=self.seed,
            device=self.device,
            steps=steps,
            seconds=seconds,
            run_dir=run_dir,
            callbacks=callbacks,
            progress=progress,
        )
        self.codec, self.network = codec, network.eval()
        return self

    def log_prob(self, x_BL: Tensor, batch_size: int = 64) -> Tensor:
        """``log p(x_i | x_{<i})`` of token rows ``(B, L)`` in nats, ``(B, L)``."""
        parts = []
        for rows in x_BL.split(batch_size):
            with torch.no_grad():
                x = rows.to(self.device)
                parts.append(self._logits(x).float().log_softmax(-1).gather(-1, x[..., None])[..., 0].cpu())
        return torch.cat(parts)

    def bits_per_character(self, texts: Any) -> tuple[float, float]:
        """Cost of texts and its standard error, each cut into windows as ``TextGenerator.score`` cuts them."""
        codec, _ = self._fitted()
        many, _ = read_texts([texts] if isinstance(texts, (str, Path)) else texts)
        pieces = [p for t in many for p in codec.pieces(t) if len(p)]
        sums = torch.zeros(len(pieces), dtype=torch.float64)
        for _, at in by_length(pieces):
            sums[at] = -self.log_prob(torch.stack([pieces[j] for j in at])).double().sum(1)
        return bits_per_character(sums, [len(p) for p in pieces], sum(map(len, many)))

    def sample(
        self,
        n: int,
        length: int | None = None,
        *,
        prompt: str | list[str] = "",
        temperature: float = 1.0,
        seed: int = 0,
    ) -> list[str]:
        """n texts, token by token, continuing ``prompt``; at temperature 0 each token is the most probable one.

        Prompts, one each, must have one number of tokens.
        """
        codec, _ = self._fitted()
        length = codec.length if length is None else length
        begun = [codec.tokenizer.encode(p) for p in ([prompt] * n if isinstance(prompt, str) else prompt)]
        if len(begun) != n or len({len(row) for row in begun}) > 1:
            raise ValueError(f"{len(begun)} prompts for {n} texts: need one for all, or one each of one length")
        x = torch.tensor(begun, dtype=torch.long, device=self.device).reshape(n, -1)
        rng = Rng(seed, n)
        with torch.no_grad():
            while x.shape[1] < length:
                padded = torch.cat([x, x.new_zeros(n, 1)], 1)
                law = Categorical(self._logits(padded)[:, -1:])
                x = torch.cat([x, tempered(law, temperature).sample(rng)], 1)
        return codec.decode(x.cpu())

    def _logits(self, x_BL: Tensor) -> Tensor:
        """``(B, L, V)``, each from the tokens before it."""
        codec, network = self._fitted()
        return network(tokens_before(x_BL, codec.mask), x_BL.new_zeros(len(x_BL), dtype=torch.float32), Context())

    def _fitted(self) -> tuple[TextCodec, TextTransformer]:
        if self.codec is None or self.network is None:
            raise ValueError("this AutoregressiveLM knows no text yet: call fit")
        return self.codec, self.network
