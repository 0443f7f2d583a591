"""Rolling: sequences of any length from a window, against autoregressions whose law under any noise is known."""

import itertools

import pytest
import torch

from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import FunctionDenoiser
from polydiff.core.distributions import Categorical, Normal
from polydiff.core.processes import Bridge, Brownian, Discrete, Gaussian
from polydiff.core.sampling import Ancestral, DPMSolverPP
from polydiff.core.sampling.rolling import Rolling
from polydiff.core.schedules import Cosine, LogLinear, uniform_times
from polydiff.core.schedules.per_element import rolling_times
from polydiff.core.wrappers import NFE

PROCESS = Gaussian(Cosine())


def covariances(phi, lags):
    """Autocovariances 0 … lags − 1 of the AR(2) of unit variance with coefficients phi, by Yule–Walker."""
    first, second = phi
    r = [1.0, first / (1 - second)]
    while len(r) < lags:
        r.append(first * r[-1] + second * r[-2])
    return torch.tensor(r[:lags], dtype=torch.float64)


def exact(phi, length):
    """The law of a window of a stationary AR(2), each element at its own level of noise."""
    place = torch.arange(length)
    sigma = covariances(phi, length)[(place[:, None] - place).abs()]
    seen = []

    def f(x, t, ctx):
        assert x.shape[1] == length
        assert t.shape == x.shape[:2]
        seen.append(t[0])
        c = PROCESS.at(t[:1].double())
        a, g = c.a[0], c.g[0]
        gain = torch.linalg.solve(a[:, None] * sigma * a + torch.diag(g * g), a[:, None] * sigma).T
        spread = (sigma - gain @ (a[:, None] * sigma)).diagonal().clamp_min(0).sqrt()
        return Normal((x[..., 0] @ gain.T)[..., None], spread[None, :, None].expand(len(x), -1, 1))

    denoiser = NFE(FunctionDenoiser(PROCESS, f))
    denoiser.seen = seen
    return denoiser


AR1, AR2 = (0.8, 0.0), (1.2, -0.6)


def like(n, length):
    return torch.zeros(n, length, 1, dtype=torch.float64)


def autocovariance(x, lags):
    """Of the last part of each sequence, with its standard error over sequences."""
    v = x[:, -24:, 0]
    each = torch.stack([(v[:, : 24 - k] * v[:, k:]).mean(1) for k in range(lags)], 1)
    return each.mean(0), each.std(0) / len(x) ** 0.5


@pytest.mark.parametrize(("phi", "context"), [(AR1, 1), (AR2, 2)], ids=["AR(1)", "AR(2)"])
def test_a_long_roll_has_the_right_autocovariance(phi, context):
    """Ten windows on: within 4.5 standard errors (a level of 3e-5) and the grid's own 0.03 at each lag, and worse with fewer steps."""
    window, n, length, gaps = 6, 700, 60, []
    for steps in (1, 8):
        sampler = Rolling(uniform_times(steps * window), Ancestral(1.0), window, context)
        x = sampler(exact(phi, window + context), like(n, length), Context(), Rng(0))
        got, error = autocovariance(x, 5)
        gaps.append(float((got - covariances(phi, 5)).abs().max()))
        if steps == 8:
            assert bool(((got - covariances(phi, 5)).abs() < 4.5 * error + 0.03).all()), (
                got,
                covariances(phi, 5),
                error,
            )
    assert gaps[1] < 0.5 * gaps[0], gaps


@pytest.mark.slow
def test_the_error_falls_with_the_steps():
    """Order 1 in the steps of a move, down to the noise of the estimate."""
    gaps = []
    for steps in (1, 2, 4, 8):
        sampler = Rolling(uniform_times(steps * 6), Ancestral(1.0), 6, 2)
        x = sampler(exact(AR2, 8), like(20_000, 60), Context(), Rng(0))
        gaps.append(float((autocovariance(x, 5)[0] - covariances(AR2, 5)).abs().max()))
    assert all(b < 0.75 * a for a, b in itertools.pairwise(gaps)), gaps


def test_a_given_beginning_is_continued_by_its_conditional_law():
    """AR(1) from x = 2: the k-th element on has mean 2 · 0.8^k and variance 1 − 0.64^k."""
    n, context = 4000, 1
    given = like(n, 10) + torch.tensor([9.0, 9.0, 2.0] + [torch.nan] * 7, dtype=torch.float64)[None, :, None]
    known = (torch.arange(10) < 3)[None].expand(n, 10)
    sampler = Rolling(uniform_times(4 * 12), Ancestral(1.0), 4, context)
    x = sampler(exact(AR1, 5), like(n, 10), Context(known=known, given=given), Rng(0))
    assert torch.equal(x[:, :3], given[:, :3])
    k = torch.arange(1, 8)
    torch.testing.assert_close(x[:, 3:, 0].mean(0), 2 * 0.8 ** k.double(), rtol=0, atol=5 / n**0.5)
    torch.testing.assert_close(x[:, 3:, 0].var(0), 1 - 0.64 ** k.double(), rtol=0.13, atol=0)


@pytest.mark.parametrize(
    ("given", "context", "total"), [(0, 0, 9), (0, 2, 9), (1, 2, 9), (3, 2, 9), (0, 2, 2), (3, 2, 3), (8, 0, 9)]
)
def test_evaluations(given, context, total):
    """N for the first element, N / W for each other one; a start-up that is cut short costs what it costs."""
    steps, window = 3, 4
    denoiser = exact(AR2, window + context)
    known = (torch.arange(total) < given)[None].expand(2, total)
    ctx = Context(known=known, given=like(2, total)) if given else Context()
    x = Rolling(uniform_times(steps * window), Ancestral(0.0), window, context)(denoiser, like(2, total), ctx, Rng(0))
    assert x.shape == (2, total, 1)
    fresh = max(total - given, context - min(given, context) + 1)
    assert denoiser.count == (steps * (window + fresh - 1) if total > given else 0)


def test_what_the_window_meets():
    """Every element falls without a gap from 1 to 0, and moves start where the last one ended."""
    window, context, steps = 4, 2, 3
    denoiser = exact(AR2, window + context)
    Rolling(uniform_times(steps * window), Ancestral(0.0), window, context)(denoiser, like(1, 20), Context(), Rng(0))
    seen = torch.stack(denoiser.seen)
    assert bool((seen[0] == 1).all())
    assert bool((seen[:, 1:] >= seen[:, :-1]).all())
    first_move = (window + context) * steps
    ways = [seen[first_move + steps * i : first_move + steps * (i + 1)] for i in range(4)]
    torch.testing.assert_close(ways[0][0], torch.tensor([0, 0, 0.25, 0.5, 0.75, 1], dtype=torch.float64))
    assert all(torch.equal(a, b) for a, b in itertools.pairwise(ways))
    torch.testing.assert_close(ways[0][:, 2:-1] + 0.25, ways[0][:, 3:])


def test_samples_do_not_depend_on_their_batch():
    sampler = Rolling(uniform_times(8), Ancestral(1.0), 4, 1)
    both = sampler(exact(AR1, 5), like(3, 12), Context(), Rng(0, 3))
    alone = sampler(exact(AR1, 5), like(1, 12), Context(), Rng(0, [2]))
    torch.testing.assert_close(both[2:], alone)
    longer = sampler(exact(AR1, 5), like(3, 30), Context(), Rng(0, 3))
    assert torch.equal(longer[:, :12], both)


def test_conditions_slide_along():
    """The network sees the features of its own elements, the last ones repeated beyond the end."""
    clock, met = torch.arange(7.0)[None, :, None].expand(2, 7, 1), []

    def f(x, t, ctx):
        met.append((ctx.cond["time"][0, :, 0].tolist(), ctx.cond["static"].shape, ctx.valid.shape))
        return Normal(0.5 * x, 0.1)

    ctx = Context(cond={"time": clock, "static": torch.zeros(2, 3)}, valid=torch.ones(2, 7, dtype=torch.bool))
    Rolling(uniform_times(3), Ancestral(0.0), 3, 1)(FunctionDenoiser(PROCESS, f), like(2, 7), ctx, Rng(0))
    assert met[0] == ([0, 1, 2, 3], (2, 3), (2, 4))
    assert met[-1][0] == [5, 6, 6, 6]


def test_sources_slide_along():
    """A bridge starts each element at its own source, and ends where its denoiser says."""
    x1 = torch.arange(9.0, dtype=torch.float64)[None, :, None].expand(2, 9, 1)
    process = Bridge(Brownian(0.5))
    denoiser = FunctionDenoiser(process, lambda x, t, ctx: Normal(2 * ctx.x1, 0.0))
    x = Rolling(uniform_times(12), Ancestral(1.0), 4, 1)(denoiser, like(2, 9), Context(x1=x1), Rng(0))
    torch.testing.assert_close(x, 2 * x1, rtol=0, atol=1e-3)


def test_tokens_roll_too():
    process = Discrete.absorbing(3, LogLinear())
    logits = torch.tensor([0.2, 0.3, 0.5]).log()

    def f(x, t, ctx):
        return Categorical(logits.expand(*x.shape, 3))

    x = Rolling(uniform_times(8), Ancestral(), 4)(
        FunctionDenoiser(process, f), torch.zeros(500, 40, dtype=torch.long), Context(), Rng(0)
    )
    shares = torch.bincount(x.flatten(), minlength=4).double() / x.numel()
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.3, 0.5, 0.0], dtype=torch.float64), rtol=0, atol=0.018)


def test_multistep_solvers_start_anew():
    x = Rolling(uniform_times(16), DPMSolverPP(2), 4, 1)(exact(AR1, 5), like(4, 20), Context(), Rng(0))
    assert bool(torch.isfinite(x).all())


def test_refusals():
    sampler = Rolling(uniform_times(10), Ancestral(), 4)
    with pytest.raises(ValueError, match="multiple"):
        sampler(exact(AR1, 4), like(2, 9), Context(), Rng(0))
    hole = torch.tensor([[False, True, False]]).expand(2, 3)
    with pytest.raises(ValueError, match="leading"):
        Rolling(uniform_times(8), Ancestral(), 4)(
            exact(AR1, 4), like(2, 3), Context(known=hole, given=like(2, 3)), Rng(0)
        )
    with pytest.raises(TypeError, match="one sequence"):
        sampler(exact(AR1, 4), {"x": like(2, 9)}, Context(), Rng(0))
    with pytest.raises(ValueError, match="window=0"):
        Rolling(uniform_times(8), Ancestral(), 0)
    with pytest.raises(ValueError, match="given=3"):
        rolling_times(uniform_times(8), 4, 5, given=3, rolling=False, dtype=torch.float32)
