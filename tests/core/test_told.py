"""Guidance by known entries against closed forms: a Gaussian pair, a table of two categories, every kind of process."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from polydiff.core.data import Context, Rng, index
from polydiff.core.denoisers import FunctionDenoiser
from polydiff.core.distributions import Categorical, Normal
from polydiff.core.guidance.told import KnownGuidance
from polydiff.core.processes import Discrete, Flow, Gaussian, Indicators, Product
from polydiff.core.processes.tokens import carry_over
from polydiff.core.sampling import Ancestral, sample
from polydiff.core.schedules import Cosine, RectifiedFlow, uniform_times
from polydiff.core.wrappers import NFE

R = 0.8  # correlation of the pair
TABLE = torch.tensor([[0.3, 0.1, 0.05], [0.05, 0.2, 0.3]], dtype=torch.float64)


def pair(process):
    """The exact mean of two standard normals of correlation R, of which the first may be told."""

    def law(x_t, t, ctx):
        c = process.at(t)
        a, g = float(c.a), float(c.g)
        told = torch.zeros_like(x_t, dtype=torch.bool) if ctx.known is None else ctx.known
        scale = torch.where(told, 1.0, a).double()
        noise = torch.where(told, 0.0, g * g).double()
        cov = torch.tensor([[1.0, R], [R, 1.0]], dtype=torch.float64)
        joint = scale[:, :, None] * cov * scale[:, None, :] + torch.diag_embed(noise)
        cross = cov * scale[:, None, :]
        return Normal((cross @ torch.linalg.solve(joint, x_t[..., None]))[..., 0])

    return FunctionDenoiser(process, law, sees_known=True)


def told_pair(n=4):
    given = torch.linspace(-1.5, 1.5, n, dtype=torch.float64)[:, None] * torch.tensor([[1.0, 0.0]])
    known = torch.tensor([[True, False]]).expand(n, 2)
    return Context(known=known, given=given)


@pytest.mark.parametrize("make", [lambda: Gaussian(Cosine()), lambda: Flow(RectifiedFlow())])
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 1.5, 3.0])
@pytest.mark.parametrize("t", [0.9, 0.4])
def test_the_blend_of_a_gaussian_pair_is_the_closed_form(make, scale, t):
    process = make()
    ctx = KnownGuidance.prepare(process, told_pair(), Rng(3, 4))
    x_t = ctx.hold(Rng(4).normal(torch.zeros(4, 2, dtype=torch.float64)))
    found = KnownGuidance(pair(process), scale)(x_t, t, ctx).mean[:, 1]
    k, u = x_t.T
    c = process.at(t)
    a, g = float(c.a), float(c.g)
    z = process.marginal(ctx.given, t, Context(), since=0.0).noise(Rng(3, 4))[:, 0]
    # E[u | u_t, k]: what k leaves of u has variance 1 − R²
    left = 1 - R * R
    cond = R * k + a * left / (a * a * left + g * g) * (u - a * R * k)
    # E[u | u_t, k_t] with k_t = a k + g z
    spread, both = a * a + g * g, a * a * R
    noisy = a * k + g * z
    det = spread**2 - both**2
    uncond = (a * R * (spread * noisy - both * u) + a * (spread * u - both * noisy)) / det
    torch.testing.assert_close(found, scale * cond + (1 - scale) * uncond, rtol=1e-3, atol=1e-3 if scale != 1 else 1e-9)


def test_scale_one_is_the_denoiser_itself_in_one_evaluation():
    process = Gaussian(Cosine())
    ctx, x_t = told_pair(), torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counted = NFE(pair(process))
    guided = KnownGuidance(counted, 1.0)
    assert torch.equal(guided(x_t, 0.5, ctx).mean, pair(process)(x_t, 0.5, ctx).mean) and counted.count == 1
    KnownGuidance(counted, 2.0)(x_t, 0.5, KnownGuidance.prepare(process, ctx, Rng(0, 4)))
    assert counted.count == 3


def test_a_row_without_known_entries_is_left_as_it_is():
    process = Gaussian(Cosine())
    ctx = told_pair()
    ctx = ctx.replace(known=ctx.known & torch.tensor([[True], [False], [True], [False]]))
    ctx = KnownGuidance.prepare(process, ctx, Rng(0, 4))
    x_t = ctx.hold(torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    plain, guided = (d(x_t, 0.5, ctx).mean for d in (pair(process), KnownGuidance(pair(process), 3.0)))
    assert torch.equal(plain[1::2], guided[1::2]) and not torch.equal(plain[::2], guided[::2])


def test_the_state_of_known_entries_never_reaches_the_second_law():
    process = Gaussian(Cosine())
    ctx = KnownGuidance.prepare(process, told_pair(), Rng(0, 4))
    x_t = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    garbage = x_t.clone()
    garbage[:, 0] = torch.nan
    one, two = (KnownGuidance(pair(process), 0.0)(x, 0.5, ctx).mean for x in (x_t, garbage))
    assert torch.equal(one, two)


def table_law(x_t, t, ctx):
    """Exact marginals of the two cells given the ones that show (3 is the mask), at any time."""
    fits = [(x_t[:, i, None] == torch.arange(m)) | (x_t[:, i, None] == 3) for i, m in ((0, 2), (1, 3))]
    joint = TABLE * fits[0][:, :, None] * fits[1][:, None, :]
    first = torch.nn.functional.pad(joint.sum(2), (0, 1))
    return carry_over(x_t, Categorical(torch.stack([first, joint.sum(1)], 1).log()), 3)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_law_of_a_category_guided_by_a_known_one_is_exact(scale):
    """A cell that is revealed at t sees the known one masked with probability t, and only then feels the guidance."""
    process, steps, n, first = Discrete.absorbing(3), 4, 20_000, 1
    known = torch.tensor([[True, False]]).expand(n, 2)
    ctx = Context(known=known, given=torch.tensor([[first, 0]]).expand(n, 2))
    ctx = KnownGuidance.prepare(process, ctx, Rng(5))
    guided = KnownGuidance(FunctionDenoiser(process, table_law, sees_known=True), scale)
    start = process.prior(torch.zeros(n, 2, dtype=torch.long)).sample(None)
    made = sample(guided, start, uniform_times(steps), Ancestral(), ctx, rng=Rng(6))
    cond, plain = TABLE[first] / TABLE[first].sum(), TABLE.sum(0)
    blend = cond**scale * plain ** (1 - scale)
    masked = sum(uniform_times(steps)) / steps  # steps of equal chance begin at 1, 1 − 1/N, …, 1/N
    law = masked * blend / blend.sum() + (1 - masked) * cond
    assert (made[:, 0] == first).all()
    counts = np.bincount(made[:, 1].numpy(), minlength=3)
    assert chisquare(counts, n * law.numpy()).pvalue > 1e-3
    assert scale == 1 or chisquare(counts, n * cond.numpy()).pvalue < 1e-6


PROCESSES = {
    "gaussian": (lambda: Gaussian(Cosine()), torch.linspace(-1, 1, 6000)[:, None]),
    "flow": (lambda: Flow(RectifiedFlow()), torch.linspace(-1, 1, 6000)[:, None]),
    "absorbing": (lambda: Discrete.absorbing(3), torch.arange(6000)[:, None] % 3),
    "uniform": (lambda: Discrete.uniform_of([3]), torch.arange(6000)[:, None] % 3),
    "onehot": (lambda: Indicators(3), torch.arange(6000)[:, None] % 3),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_known_entries_of_the_second_law_have_the_marginal_of_their_time(name):
    make, data = PROCESSES[name]
    process = Product(x=make())
    state = process.fields["x"].points[data] if name == "onehot" else data
    n = len(data)
    seen = {}

    def law(x_t, t, ctx):
        seen[t] = x_t["x"]
        assert not ctx.known["x"].any()
        return Categorical(torch.zeros(n, 1, 3))

    ctx = Context(known={"x": torch.ones(n, 1, dtype=torch.bool)}, given={"x": state})
    ctx = KnownGuidance.prepare(process, ctx, Rng(0))
    guided = KnownGuidance(FunctionDenoiser(process, law, sees_known=True), 0.0)
    for t in (1.0, 0.6, 0.05):
        guided(ctx.hold({"x": state.clone()}), t, ctx)
        direct = process.fields["x"].marginal(data, t)
        if isinstance(direct, Normal):
            mean, std = direct.mean, float(torch.as_tensor(direct.std).flatten()[0])
            z = (seen[t] - mean) / std
            assert abs(float(z.mean())) < 5 / math.sqrt(z.numel()) and float(z.std()) == pytest.approx(1, abs=0.04)
        else:
            stay = float(((seen[t] == data).double()).mean())
            alpha = float(process.fields["x"].schedule.at(t).a)
            expected = alpha + (1 - alpha) * (1 / 3 if name == "uniform" else 0)
            assert stay == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - expected) / n) + 1e-3)
    if name in ("gaussian", "flow"):  # one path: the noise of two times is the same
        a = [process.fields["x"].at(t) for t in (1.0, 0.6)]
        z = [(seen[t] - c.a * state) / c.g for t, c in zip((1.0, 0.6), a)]
        torch.testing.assert_close(z[0], z[1], rtol=0, atol=1e-2)


def test_the_noise_of_a_sample_depends_on_its_slot_alone():
    process = Gaussian(Cosine())
    whole = KnownGuidance.prepare(process, told_pair(4), Rng(0, 4))
    part = KnownGuidance.prepare(process, index(told_pair(4), slice(2, 4)), Rng(0, [2, 3]))
    for key in whole.memory:
        assert torch.equal(whole.memory[key][2:], part.memory[key])


def test_refusals():
    process = Gaussian(Cosine())
    blind = FunctionDenoiser(process, lambda x, t, ctx: Normal(x))
    with pytest.raises(ValueError, match="FunctionDenoiser is not told of known entries"):
        KnownGuidance(blind, 2.0)
    with pytest.raises(ValueError, match="holds no noise for its known entries"):
        KnownGuidance(pair(process), 2.0)(torch.zeros(4, 2), 0.5, told_pair())
    assert KnownGuidance.prepare(process, Context(), Rng(0)) == Context()
