"""Precision-weighted guidance: where its weights come from, and what it is when they are equal."""

import pytest
import torch

from polydiff.core import Context, FunctionDenoiser, Gaussian, Rng
from polydiff.core.denoisers import EpsPrediction, Model
from polydiff.core.distributions import Normal
from polydiff.core.guidance import ClassifierFree
from polydiff.core.guidance.precision import Precision, RememberEstimates, uncertainty
from polydiff.core.sampling import Ancestral, Heun, sample, trajectory
from polydiff.core.schedules import Cosine, uniform_times


class Told(FunctionDenoiser):
    """``P = c + sin(x_t) scale``, and the same with c = 0 for G; the second element wavers, the first does not."""

    def __init__(self):
        wave = torch.tensor([0.1, 1.0, 3.0], dtype=torch.float64)
        super().__init__(Gaussian(Cosine()), lambda x, t, ctx: Normal(ctx.cond["c"] + wave * torch.sin(5 * x)))

    def nullify(self, ctx):
        return ctx.replace(cond={"c": torch.zeros_like(ctx.cond["c"])})


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def ctx():
    return Context(cond={"c": normal(6, 3, seed=9)})


def test_equal_ends_are_classifier_free_guidance(ctx):
    x, times = normal(6, 3), uniform_times(5)
    for members in (None, 3):
        mine = sample(
            Precision(Told(), 1.7, 1.7, members=members), x, times, Ancestral(0.0), ctx, controls=[RememberEstimates()]
        )
        theirs = sample(ClassifierFree(Told(), 1.7), x, times, Ancestral(0.0), ctx)
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)


def test_weights_are_the_clipped_share_of_the_variance_over_steps_written_out(ctx):
    """A plain recomputation from the recorded path, step by step."""
    guided, times = Precision(Told(), 0.5, 2.0, scale=1.3), uniform_times(7)
    path = list(trajectory(guided, normal(6, 3), times, Ancestral(0.0), ctx, controls=[RememberEstimates(2)]))
    estimates = []
    for tr in path:
        p = Told()(tr.x_t, tr.t, ctx).mean
        g = Told()(tr.x_t, tr.t, Told().nullify(ctx)).mean
        estimates.append(p)
        w = torch.ones_like(p)
        if len(estimates) > 1:
            u = torch.stack(estimates[-3:]).var(0)
            w = (1.3 * u / u.mean(1, keepdim=True)).clamp(0.5, 2.0)
            assert w.min() == 0.5 and w.max() == 2.0
        torch.testing.assert_close(tr.posterior.mean, g + w * (p - g), atol=1e-12, rtol=0)
    assert path[-1].ctx.memory["estimates"].shape == (6, 2, 3)


def test_members_share_the_variance_of_their_group(ctx):
    guided, estimate = Precision(Told(), 0.0, 9.0, members=3), normal(6, 3)
    w = guided.weight(estimate, ctx)
    for group in (slice(0, 3), slice(3, 6)):
        u = estimate[group].var(0)
        torch.testing.assert_close(w[group], (u / u.mean()).clamp(0, 9).expand(3, 3))
    with pytest.raises(ValueError, match="no whole groups of members=4"):
        Precision(Told(), 0.0, 9.0, members=4).weight(estimate, ctx)


def test_an_estimate_that_never_moves_has_the_average_weight(ctx):
    still = Context(memory={"estimates": torch.ones(6, 2, 3)})
    assert uncertainty(torch.ones(6, 3), Context()) is None
    w = Precision(Told(), 0.0, 9.0, scale=1.5).weight(torch.ones(6, 3), still)
    torch.testing.assert_close(w, torch.full((6, 3), 1.5))


def test_a_row_is_guided_alone(ctx):
    """Without members, a sample does not depend on the rest of its batch."""
    x, times = normal(6, 3), uniform_times(5)

    def run(rows):
        guided = Precision(Told(), 0.2, 3.0)
        some = Context(cond={"c": ctx.cond["c"][rows]})
        return sample(guided, x[rows], times, Ancestral(), some, controls=[RememberEstimates()], rng=Rng(0, rows))

    torch.testing.assert_close(run([0, 1, 2, 3])[2:3], run([2]), atol=1e-12, rtol=0)


def test_resampling_carries_the_memory_along(ctx):
    """A control that reverses the batch: every row remembers its own ancestor."""

    def reverse(tr):
        order = torch.arange(5, -1, -1)
        tr.x_s, tr.ancestor = tr.x_s[order], order
        memory = tr.ctx.memory
        tr.ctx = Context(
            cond={"c": tr.ctx.cond["c"][order]}, memory=memory and {k: v[order] for k, v in memory.items()}
        )
        return tr

    guided, x, times = Precision(Told(), 0.2, 3.0), normal(6, 3), uniform_times(4)
    plain = sample(guided, x, times, Ancestral(0.0), ctx, controls=[RememberEstimates()])
    turned = sample(guided, x, times, Ancestral(0.0), ctx, controls=[reverse, RememberEstimates()])
    torch.testing.assert_close(turned, plain, atol=1e-12, rtol=0)  # four reversals


def test_it_guides_networks_and_two_call_steps(ctx):
    model = Model(lambda x, level, c: x + c.cond["c"], Gaussian(Cosine()), EpsPrediction(), null={"c": 0.0})
    for step in (Ancestral(0.0), Heun()):
        y = sample(
            Precision(model, 0.5, 2.0), normal(6, 3), uniform_times(4), step, ctx, controls=[RememberEstimates()]
        )
        assert bool(y.isfinite().all())


def test_what_makes_no_weight_is_refused():
    for kwargs, says in (
        ({"low": 2.0, "high": 1.0}, "low ≤ high"),
        ({"low": 0.0, "high": 1.0, "scale": 0.0}, "positive scale"),
        ({"low": 0.0, "high": 1.0, "members": 1}, "at least 2"),
    ):
        with pytest.raises(ValueError, match=says):
            Precision(Told(), **kwargs)
    with pytest.raises(ValueError, match="window=0"):
        RememberEstimates(0)
