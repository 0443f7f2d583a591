"""Correlated noise: laws against dense Gaussians, and what processes, steps and preconditioners make of them, exactly."""

import copy
import itertools
import math

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from polydiff.core.coloured import Coloured
from polydiff.core.data import Context, Rng, index
from polydiff.core.denoisers import EpsPrediction, FunctionDenoiser, Karras, VelocityPrediction, VPrediction
from polydiff.core.distributions import Dirac, Mixture, Normal, ZeroSum
from polydiff.core.distributions.convolved import Convolved
from polydiff.core.distributions.correlated import GP
from polydiff.core.distributions.kernels import RBF, Matern, Periodic, Scaled, regression
from polydiff.core.distributions.ornstein_uhlenbeck import OU
from polydiff.core.processes import Bridge, Flow, Gaussian, LinearGaussian, Residual
from polydiff.core.processes.noises import CentredNoise, GPNoise, OUNoise
from polydiff.core.sampling import Ancestral, Churn, Corrected, DPMSolverPP, Euler, Heun, sample
from polydiff.core.schedules import EDM, VE, Cosine, RectifiedFlow, VPLinear, uniform_times
from polydiff.core.training import Batch, Denoising, Flat, MinibatchOT

F64 = torch.float64
AT = torch.tensor([[0.0, 0.3, 0.35, 1.2, 2.0], [0.1, 0.2, 0.9, 1.0, 1.1]], dtype=F64)
HOLES = torch.tensor([[False, True, True, False, True], [True, True, True, True, False]])
SOME = torch.tensor([[True, False, True, True, True], [True, False, True, True, True]])
EACH = torch.stack([SOME, SOME.flip(1), SOME.roll(1, 1)], 2)


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def law_of(kind, valid=None, at=AT):
    if kind == "gp":
        return GP(0.5 * RBF(0.4) + Matern(1.5, 0.8), at, valid, jitter=1e-4)
    return OU(0.7, at, valid) if kind == "ou" else GP(Matern(0.5, 0.7), at, valid, jitter=0.0)


def dense(law, i, keep=None):
    """``Σ`` of sample i by its columns, on the valid elements (or those of ``keep`` too)."""
    size = law.valid.shape[1] if isinstance(law, ZeroSum) else law.at.shape[1]
    eye = torch.eye(size, dtype=F64)
    root = law.colour(eye.expand(len(AT), size, size))[i]
    here = law.valid[i] if law.valid is not None else torch.ones(size, dtype=torch.bool)
    here = here if keep is None else here & keep
    return (root @ root.T)[here][:, here], here


# ------------------------------------------------------------------ kernels


def test_kernels_are_those_of_an_independent_implementation():
    from sklearn.gaussian_process import kernels as sk

    x, y = rand(6, 2), rand(4, 2, seed=1)
    pairs = [
        (RBF(0.7), sk.RBF(0.7)),
        *((Matern(nu, 0.6), sk.Matern(0.6, nu=nu)) for nu in (0.5, 1.5, 2.5)),
        (2.5 * Matern(2.5), 2.5 * sk.Matern(nu=2.5)),
        (RBF() + 0.5 * Matern(0.5), sk.RBF() + 0.5 * sk.Matern(nu=0.5)),
    ]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours(x, y), torch.as_tensor(theirs(x.numpy(), y.numpy())))
        assert float(ours(x, x)[0, 0]) == pytest.approx(ours.variance)
    line, other = x[:, :1], y[:, :1]
    theirs = sk.ExpSineSquared(0.8, periodicity=1.7)(line.numpy(), other.numpy())
    torch.testing.assert_close(Periodic(1.7, 0.8)(line, other), torch.as_tensor(theirs))


def test_regression_is_that_of_an_independent_implementation():
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process import kernels as sk

    x, y, to = rand(6, 1), rand(6, 2, seed=1), rand(5, 1, seed=2)
    mean, cov = regression(Matern(1.5, 0.6), x, y, to, noise=0.01)
    fitted = GaussianProcessRegressor(sk.Matern(0.6, nu=1.5), alpha=0.01, optimizer=None).fit(
        x.numpy(), y[:, 0].numpy()
    )
    expected, covariance = fitted.predict(to.numpy(), return_cov=True)
    torch.testing.assert_close(mean[:, 0], torch.as_tensor(expected))
    torch.testing.assert_close(cov, torch.as_tensor(covariance))
    fitted.fit(x.numpy(), y[:, 1].numpy())
    torch.testing.assert_close(mean[:, 1], torch.as_tensor(fitted.predict(to.numpy())))


@pytest.mark.parametrize(
    "make", [lambda: RBF(0.0), lambda: Matern(1.0), lambda: Periodic(-1.0), lambda: Scaled(RBF(), 0)]
)
def test_impossible_kernels_are_refused(make):
    with pytest.raises(ValueError, match="="):
        make()


# ------------------------------------------------------------------ laws


@pytest.mark.parametrize("valid", [None, HOLES])
def test_ornstein_uhlenbeck_is_the_gaussian_process_with_its_kernel(valid):
    """The Markov recursion against the Cholesky factor: everything that a law can say."""
    ou, gp, z = law_of("ou", valid), law_of("matern", valid), rand(2, 5, 3)
    for mask in (None, SOME, EACH):
        for name in ("whiten", "precision"):
            torch.testing.assert_close(getattr(ou, name)(z, mask), getattr(gp, name)(z, mask))
        torch.testing.assert_close(ou.log_prob(z, z, mask), gp.log_prob(z, z, mask))
        torch.testing.assert_close(ou.kl(z.exp(), z, mask), gp.kl(z.exp(), z, mask))
    torch.testing.assert_close(ou.colour(z), gp.colour(z))
    torch.testing.assert_close(ou.deviation(z) * torch.ones_like(z), gp.deviation(z) * torch.ones_like(z))


@pytest.mark.parametrize("kind", ["gp", "ou"])
@pytest.mark.parametrize("valid", [None, HOLES])
@pytest.mark.parametrize("mask", [None, SOME, EACH])
def test_densities_and_divergences_are_those_of_dense_gaussians(kind, valid, mask):
    """Per-element scales, padding in any place, and masks that differ between the further axes."""
    law = law_of(kind, valid)
    p, q = (Normal(rand(2, 5, 3, seed=s), rand(2, 5, 3, seed=s + 1).exp(), law) for s in (0, 2))
    x = rand(2, 5, 3, seed=5)
    if valid is not None:  # what padding holds does not matter
        x = torch.where(valid[..., None], x, torch.nan)
        p.mean = torch.where(valid[..., None], p.mean, torch.nan)
    found, gap = p.log_prob(x, mask), p.kl(q, mask)
    for i in range(2):
        density = divergence = 0.0
        for d in range(3):
            keep = None if mask is None else mask[i] if mask.ndim == 2 else mask[i, :, d]
            sigma, here = dense(law, i, keep)
            one, two = (
                MultivariateNormal(n.mean[i, here, d], n.std[i, here, d].diag() @ sigma @ n.std[i, here, d].diag())
                for n in (p, q)
            )
            density += one.log_prob(x[i, here, d])
            divergence += kl_divergence(one, two)
        torch.testing.assert_close(found[i], density)
        torch.testing.assert_close(gap[i], divergence, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", ["gp", "ou"])
@pytest.mark.parametrize("valid", [None, HOLES])
def test_whitening_undoes_colouring_and_padding_is_zero(kind, valid):
    law, w = law_of(kind, valid), rand(2, 5, 3)
    z = law.colour(w)
    inside = w if valid is None else torch.where(valid[..., None], w, 0.0)
    torch.testing.assert_close(law.whiten(z), inside)
    torch.testing.assert_close((z * law.precision(z)).sum((1, 2)), (inside**2).sum((1, 2)))
    if valid is not None:
        assert not z[~valid].any()
        dirty = torch.where(valid[..., None], z, torch.nan)
        assert torch.equal(law.whiten(dirty), law.whiten(z)) and torch.equal(law.colour(dirty), law.colour(z))
    normal = Normal(rand(2, 5, 3, seed=1), 0.7, law)
    torch.testing.assert_close(normal.whiten(normal.draw(z)), z)
    assert torch.equal(normal.sample(Rng(0, 2)), normal.draw(normal.noise(Rng(0, 2))))
    assert torch.equal(law.sample(Rng(0, 2), z)[1], index(law, [1]).sample(Rng(0, [1]), z[1:])[0])


def test_a_far_point_is_infinitely_far_and_laws_of_unlike_noise_are_not_compared():
    law, x = law_of("gp"), rand(2, 5, 1)
    assert torch.equal(Normal(x, 0.0, law).kl(Normal(x, 0.0, law)), torch.zeros(2, dtype=F64))
    assert torch.isinf(Normal(x + 1, 0.0, law).kl(Normal(x, 0.0, law))).all()
    assert torch.isinf(Dirac(x).kl(Normal(x, 1.0, law))).all()
    assert torch.isfinite(
        Normal(x, 1.0, law).kl(Normal(x + 1, 1.0, law_of("gp")))
    ).all()  # equal, though another object
    for other in (law_of("ou"), GP(RBF(0.4), AT), GP(law.kernel, AT + 1, jitter=1e-4)):
        with pytest.raises(TypeError, match="unlike noise"):
            Normal(x, 1.0, law).kl(Normal(x, 1.0, other))
    each = torch.full((2, 5, 1), 0.5, dtype=F64)
    with pytest.raises(TypeError, match="one standard deviation"):
        Normal(x, each, law).affine(1.0, 0.0, 0.3)
    with pytest.raises(TypeError, match="one standard deviation"):
        Normal(x, each, law).lerp(Normal(x, 0.3, law), 0.5)


def test_moments_of_elements_are_their_own():
    law = GP(2.0 * RBF(), AT, jitter=0.5)
    normal = Normal(rand(2, 5, 1), 0.3, law)
    torch.testing.assert_close(
        normal.expect(lambda x: (x - normal.mean) ** 2), torch.full((2, 5, 1), 0.09 * 2.5, dtype=F64)
    )


@pytest.mark.parametrize("mask", [None, torch.ones(2, 5, dtype=torch.bool), SOME, HOLES, EACH])
def test_some_points_of_a_cloud_without_translation(mask):
    """The marginal covariance ``I − 11ᵀ/n`` of a part, and the pseudo-inverse of the whole."""
    law = ZeroSum(torch.tensor([[True, True, True, True, False], [True] * 5]))
    x = law.project(rand(2, 5, 3))
    for i in range(2):
        squares = density = 0.0
        for d in range(3):
            keep = None if mask is None else mask[i] if mask.ndim == 2 else mask[i, :, d]
            sigma, here = dense(law, i, keep)
            inverse, values = torch.linalg.pinv(sigma, hermitian=True), torch.linalg.eigvalsh(sigma)
            values = values[values > 1e-9]
            u = x[i, here, d] / 0.7
            torch.testing.assert_close(law.precision(x / 0.7, mask)[i, here, d], inverse @ u)
            squares += u @ inverse @ u
            density += -0.5 * (u @ inverse @ u + values.log().sum() + len(values) * math.log(2 * math.pi * 0.49))
        torch.testing.assert_close(law.whiten(x / 0.7, mask)[i].square().sum(), squares)
        torch.testing.assert_close(Normal(torch.zeros_like(x), 0.7, law).log_prob(x, mask)[i], density)


def test_bad_places_are_refused():
    with pytest.raises(ValueError, match="increase"):
        OU(1.0, AT.flip(1))
    with pytest.raises(ValueError, match="increase"):
        OU(1.0, torch.zeros(1, 3))
    OU(1.0, AT.flip(1), torch.tensor([[False, True, False, False, False]] * 2))  # padding has no order
    with pytest.raises(ValueError, match="length=0"):
        OU(0.0, AT)
    with pytest.raises(ValueError, match="jitter"):
        GP(RBF(), torch.zeros(1, 3, dtype=F64), jitter=0.0).colour(torch.zeros(1, 3, 1))
    with pytest.raises(ValueError, match="same B and L"):
        law_of("gp").colour(rand(2, 4, 1))
    for noise in (GPNoise(RBF()), OUNoise()):
        with pytest.raises(ValueError, match='side\\["at"\\]'):
            Gaussian(Cosine(), noise=noise).prior(rand(2, 5, 1), Context())
    with pytest.raises(ValueError, match="not both"):
        Flow(source=lambda like, ctx: Normal(like, 1.0), noise=OUNoise())


def test_places_may_have_several_coordinates():
    at = rand(2, 6, 3)
    law = GP(RBF(0.9), at)
    torch.testing.assert_close(law.covariance[0, 1, 4], torch.exp(-0.5 * ((at[0, 1] - at[0, 4]) / 0.9).square().sum()))


# ------------------------------------------------------------------ processes

NOISES = {
    "gp": GPNoise(0.5 * RBF(0.4) + Matern(1.5, 0.8), jitter=1e-4),
    "ou": OUNoise(0.7),
    "zero-sum": CentredNoise(),
}
PROCESSES = {
    "cosine": lambda noise: Gaussian(Cosine(), noise=noise),
    "vp": lambda noise: Gaussian(VPLinear(), noise=noise),
    "ve": lambda noise: Gaussian(VE(), noise=noise),
    "edm": lambda noise: Gaussian(EDM(), noise=noise),
    "flow": lambda noise: Flow(RectifiedFlow(), noise=noise),
    "bridge": lambda noise: LinearGaussian(Bridge().path, observes_source=True, noise=noise),
    "residual": lambda noise: LinearGaussian(Residual().path, observes_source=True, markov=False, noise=noise),
}
PADDED = torch.tensor([[True] * 5, [True, True, True, True, False]])


@pytest.fixture(params=sorted(NOISES))
def noise(request):
    return NOISES[request.param]


@pytest.fixture(params=sorted(PROCESSES))
def process(request, noise):
    return PROCESSES[request.param](noise)


def setting(process, valid=None):
    """Data and context; for clouds the data have no translation either."""
    ctx = Context(side={"at": AT}, valid=valid)
    law = process.law(rand(2, 5, 2), ctx)
    centre = law.project if isinstance(law, ZeroSum) else (lambda x: x)
    return centre(rand(2, 5, 2)), ctx.replace(x1=centre(rand(2, 5, 2, seed=9))) if process.observes_source else ctx


def covariance(law):
    """``(B, L, L)`` of one column, by drawing every white basis vector."""
    basis = torch.eye(5, dtype=F64).expand(2, 5, 5)
    scale = law.std if isinstance(law.std, float) else law.std.reshape(-1, 1, 1)
    root = scale * law.law.colour(basis)
    return root @ root.mT


@pytest.mark.parametrize("valid", [None, PADDED])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("t", "s"), [(1.0, 0.6), (0.7, 0.3), (0.35, 0.02), (0.2, 0.0)])
def test_invariant(process, t, s, eta, valid):
    """x_t ~ q(x_t | x_0), x_s ~ transition(x_t, δ(x_0)) gives x_s ~ q(x_s | x_0): means and whole covariances."""
    x0, ctx = setting(process, valid)
    q_t, q_s = (process.marginal(x0, u, ctx) for u in (t, s))
    k0 = process.transition(q_t.mean, Dirac(x0), t, s, ctx, eta=eta)
    k1 = process.transition(q_t.mean + 1, Dirac(x0), t, s, ctx, eta=eta)
    slope = (k1.mean - k0.mean)[:, :1, :1]
    torch.testing.assert_close(k1.mean - k0.mean, slope.expand(2, 5, 2), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(k0.mean, q_s.mean, rtol=1e-9, atol=1e-10)
    fresh = covariance(k0) if float(k0.std) else 0.0
    torch.testing.assert_close(slope**2 * covariance(q_t) + fresh, covariance(q_s), rtol=1e-8, atol=1e-12)
    assert float(k0.std) == 0.0 or k0.law.same(q_s.law)


def test_forward_kernels_compose(process):
    if not process.markov:
        pytest.skip("a residual process has no forward kernel")
    x0, ctx = setting(process)
    one, two = process.marginal(x0, 0.4, ctx), process.marginal(x0, 0.8, ctx)
    on = process.marginal(one.mean, 0.8, ctx, since=0.4)
    k = process.keep(0.8, 0.4)
    torch.testing.assert_close(on.mean, two.mean)
    torch.testing.assert_close(k**2 * covariance(one) + covariance(on), covariance(two), rtol=1e-8, atol=1e-12)


def test_batched_and_shared_times_agree(process):
    x0, ctx = setting(process)
    x = x0 + process.law(x0, ctx).colour(rand(2, 5, 2, seed=4))
    t, s = torch.full((2,), 0.7, dtype=F64), torch.full((2,), 0.3, dtype=F64)
    for eta in (0.0, 0.5, 1.0):
        a, b = (process.transition(x, Dirac(x0), u, v, ctx, eta=eta) for u, v in ((0.7, 0.3), (t, s)))
        torch.testing.assert_close(a.mean, b.mean)
        torch.testing.assert_close(covariance(a), covariance(b))
    for name in ("velocity", "score"):
        torch.testing.assert_close(*(getattr(process, name)(x, Dirac(x0), u, ctx) for u in (0.7, t)))
    torch.testing.assert_close(*(process.bound(Dirac(x0 + x), x0, x, u, ctx) for u in (0.7, t)))


def test_white_noise_by_the_seam_is_white_noise(noise):
    """The path that correlated noise takes, with independent elements: every number of the plain process."""
    far = Context(side={"at": 1e6 * torch.arange(5, dtype=F64).expand(2, 5)})
    x0, x, guess = rand(3, 2, 5, 2).unbind()
    plain, ours = Gaussian(Cosine()), Gaussian(Cosine(), noise=OUNoise(0.7))
    for eta in (0.0, 0.5, 1.0):
        a, b = (p.transition(x, Normal(guess), 0.7, 0.3, far, eta=eta) for p in (plain, ours))
        torch.testing.assert_close(a.mean, b.mean)
        torch.testing.assert_close(torch.as_tensor(a.std), torch.as_tensor(b.std))
    for name in ("velocity", "score"):
        torch.testing.assert_close(*(getattr(p, name)(x, Dirac(guess), 0.4, far) for p in (plain, ours)))
    for name in ("loss", "bound"):
        torch.testing.assert_close(*(getattr(p, name)(Dirac(guess), x0, x, 0.4, far) for p in (plain, ours)))


@pytest.mark.parametrize("mask", ["none", "known", "each"])
def test_the_bound_is_the_limit_of_the_kl_of_kernels(process, mask):
    """Of the elements that are scored: KL(q(x_s | x_t, x_0) ‖ p(x_s | x_t)) / h for h → 0."""
    x0, ctx = setting(process)
    if mask == "known":
        ctx = ctx.replace(known=~SOME, given=x0)
    if mask == "each":
        ctx = ctx.replace(valid=EACH[..., :2])
    t, h = 0.4, 1e-5
    law = process.law(x0, ctx)
    x_t = process.marginal(x0, t, ctx).mean + law.colour(rand(2, 5, 2, seed=3))
    guess = x0 + law.colour(rand(2, 5, 2, seed=8))
    true, model = (process.transition(x_t, Dirac(v), t, t - h, ctx) for v in (x0, guess))
    found = process.bound(Normal(guess), x0, x_t, t, ctx)
    scored = ctx.scored()
    total = found.sum((1, 2))  # elements that are not scored must be zero already
    torch.testing.assert_close(true.kl(model, scored) / h, total, rtol=1e-3, atol=0)


@pytest.mark.parametrize("noise_name", ["gp", "ou"])
def test_score_and_velocity_of_gaussian_data(noise_name):
    """Data N(0, K): the score is that of N(0, a² K + g² Σ), and v = f x − ½ G Σ score."""
    process = Gaussian(Cosine(), noise=NOISES[noise_name])
    ctx, x, t = Context(side={"at": AT}), rand(2, 5, 2), 0.5
    sigma, data = _pair(process, ctx)
    a, _, g = process.coef(t, ctx)
    precision = torch.linalg.inv(a**2 * data + g**2 * sigma)
    guess = Normal(a * data @ precision @ x)
    score = process.score(x, guess, t, ctx)
    torch.testing.assert_close(score, -precision @ x, rtol=1e-8, atol=1e-8)
    f, rate = process.rate(t, ctx)
    torch.testing.assert_close(process.velocity(x, guess, t, ctx), f * x - 0.5 * rate * sigma @ score)
    known = ctx.replace(known=~SOME, given=x)  # of the free elements, whatever the known ones hold
    part = process.score(x.masked_fill(~SOME[..., None], 77.0), guess, t, known)
    assert not part[~SOME].any()
    here = SOME[0]
    gap = (a * guess.mean - x)[0, here] / g**2
    torch.testing.assert_close(part[0, here], torch.linalg.solve(sigma[0][here][:, here], gap))


def _pair(process, ctx):
    law = process.law(rand(2, 5, 2), ctx)
    root = law.colour(torch.eye(5, dtype=F64).expand(2, 5, 5))
    return root @ root.mT, GP(Matern(2.5, 1.0), AT, jitter=1e-3).covariance


@pytest.mark.parametrize("noise_name", ["gp", "ou"])
@pytest.mark.parametrize(
    "step",
    [Euler(), Heun(), DPMSolverPP(2), Ancestral(eta=0.0), Ancestral(), Churn(Heun(), 0.2), Corrected(Ancestral())],
)
def test_every_step_samples_gaussian_functions(noise_name, step):
    """Deterministic steps map Σ to K, by the images of a basis; random ones are checked by moments of 40,000 draws."""
    process = Gaussian(Cosine(), noise=NOISES[noise_name])
    one = AT[:1]
    sigma, data = (c[0] for c in _pair(process, Context(side={"at": AT})))

    def exact(x, t, ctx):
        a, _, g = process.coef(t, ctx)
        return Normal(a * data @ torch.linalg.inv(a**2 * data + g**2 * sigma) @ x)

    # columns are independent samples: one law, many draws
    denoiser, ctx = FunctionDenoiser(process, exact), Context(side={"at": one})
    if isinstance(step, (Churn, Corrected)) or getattr(step, "eta", 0.0):
        x = process.prior(torch.empty(1, 5, 40_000, dtype=F64), ctx).sample(Rng(0, 1))
        x = sample(denoiser, x, uniform_times(60), step, ctx, rng=Rng(1, 1))[0]
        torch.testing.assert_close(x @ x.T / x.shape[1], data, rtol=0.05, atol=0.04)
    else:
        root = process.law(one[..., None], ctx).colour(torch.eye(5, dtype=F64)[None])
        steps = 2000 if isinstance(step, Euler) else 300
        image = sample(denoiser, root, uniform_times(steps), step, ctx)[0]
        torch.testing.assert_close(image @ image.T, data, rtol=0.02, atol=0.01)


def test_the_bound_in_the_limit_is_the_likelihood():
    """Mean-only denoiser of N(0, K) under noise Σ: the T-step bound goes to −log p as 1/T."""
    process = Gaussian(Cosine(), noise=NOISES["gp"])
    sigma, data = (c[0] for c in _pair(process, Context(side={"at": AT})))
    groups, each = 8, 300  # columns are independent samples
    ctx = Context(side={"at": AT[:1].expand(groups, 5)})
    x = torch.linalg.cholesky(data) @ rand(groups, 5, each)

    def exact(y, t, ctx):
        a, _, g = process.coef(t, ctx)
        return Normal(a * data @ torch.linalg.inv(a**2 * data + g**2 * sigma) @ y)

    truth = -MultivariateNormal(torch.zeros(5, dtype=F64), data).log_prob(x.mT).mean(1)
    gaps = []
    for steps in (25, 100, 400):  # of equal length in log-SNR, where the bound converges with order 1
        times = [float(process.schedule.inverse(v)) for v in torch.linspace(-20, 16, steps + 1).tolist()]
        gaps.append(_kl_sum(process, exact, x, times, ctx) / each - truth)
    means = [float(g.mean()) for g in gaps]
    assert means[0] > means[1] > means[2] > 0
    limit = (4 * gaps[2] - gaps[1]) / 3
    assert abs(float(limit.mean())) < 4 * float(limit.std()) / math.sqrt(groups) + 0.1, means


def _kl_sum(process, exact, x0, times, ctx):
    """``nelbo`` with the last term in the noise of the process, ``N(x̂_0, (g/a)² Σ)``."""
    rng, start = Rng(0), process.marginal(x0, 1.0, ctx)
    x, total = start.sample(rng), start.kl(process.prior(x0, ctx))
    for t, s in itertools.pairwise(times):
        true, model = (process.transition(x, v, t, s, ctx) for v in (Dirac(x0), exact(x, t, ctx)))
        x, total = true.sample(rng), total + true.kl(model)
    a, _, g = process.coef(times[-1], ctx)
    return total - Normal(exact(x, times[-1], ctx).mean, g / a, process.law(x, ctx)).log_prob(x0)


def test_any_posterior_gets_the_noise_of_the_process():
    process, ctx = Gaussian(Cosine(), noise=NOISES["ou"]), Context(side={"at": AT[:1].expand(40_000, 5)})
    x_t, sigma = rand(1, 5, 1).expand(40_000, 5, 1), law_of("matern").covariance[0]
    wide = [v.expand(40_000, *v.shape[1:]) for v in (rand(1, 3), rand(1, 3, 5, 1), rand(1, 3).abs() + 0.2)]
    same = Normal(rand(1, 5, 1).expand(40_000, 5, 1), 0.4, process.law(x_t, ctx))
    z, rho = process._reverse(process.at(0.7), process.at(0.3), 1.0)
    scale = process.at(0.3).a - z * process.at(0.7).a
    for posterior in (Mixture(*wide), Normal(same.mean, 0.4), same):
        kernel = process.transition(x_t, posterior, 0.7, 0.3, ctx)
        assert isinstance(kernel, Normal if posterior is same else Convolved)
        x, x0 = kernel.sample(Rng(0))[..., 0], posterior.sample(Rng(1))[..., 0]
        torch.testing.assert_close(torch.cov(x.T), scale**2 * torch.cov(x0.T) + rho**2 * sigma, rtol=0.05, atol=0.06)
        torch.testing.assert_close(kernel.mean, scale * posterior.mean + z * x_t)
        assert torch.equal(kernel.sample(Rng(2)), kernel.draw(kernel.noise(Rng(2))))


def test_coupled_sources_are_draws_of_the_noise():
    process, x0 = Flow(noise=NOISES["zero-sum"]), ZeroSum(torch.ones(2, 5, dtype=torch.bool)).project(rand(2, 5, 2))
    ctx = MinibatchOT()(process, x0, Context(), Rng(0))
    torch.testing.assert_close(ctx.x1.sum(1), torch.zeros(2, 2, dtype=F64))
    assert torch.equal(process.marginal(x0, 0.3, ctx).value, process.at(0.3).a * x0 + process.at(0.3).g * ctx.x1)


def test_correlated_elements_must_share_their_time_where_noise_is_added(noise):
    process, x = Gaussian(Cosine(), noise=noise), rand(2, 5, 2)
    ctx, t = Context(side={"at": AT}), torch.linspace(0.5, 0.9, 5, dtype=F64).expand(2, 5)
    for call in (
        lambda: process.transition(x, Dirac(x), t, t - 0.1, ctx),
        lambda: process.marginal(x, t, ctx, since=t - 0.1),
        lambda: process.bound(Dirac(x), x, x, t, ctx),
    ):
        with pytest.raises(ValueError, match="one time a sample"):
            call()
    process.transition(x, Dirac(x), t, t - 0.1, ctx, eta=0.0)


# ------------------------------------------------------------------ preconditioner and cache


@pytest.mark.parametrize("inner", [EpsPrediction(), VPrediction(), VelocityPrediction(), Karras()])
def test_networks_predict_in_white_coordinates(noise, inner):
    """The output that a parametrisation asks for, of white coordinates, gives the clean sample back."""
    process = Gaussian(Cosine(), noise=noise)
    ctx, t = Context(side={"at": AT}), 0.4
    law = process.law(rand(2, 5, 2), ctx)
    u0, w = (law.whiten(law.colour(rand(2, 5, 2, seed=s))) for s in (1, 2))
    x_t = law.colour(process.at(t).a * u0 + process.at(t).g * w)
    plain, zero = Gaussian(Cosine()), torch.zeros_like(u0)
    at = (process.at(t).a * u0 + process.at(t).g * w, t, ctx)
    free, one = (inner.posterior(plain, raw, *at).mean for raw in (zero, torch.ones_like(u0)))
    raw = (u0 - free) / (one - free)  # what makes the parametrisation right in white coordinates
    torch.testing.assert_close(Coloured(inner).posterior(process, raw, x_t, t, ctx).mean, law.colour(u0))
    if isinstance(inner, EpsPrediction):
        torch.testing.assert_close(raw, w)
    for found, expected in zip(Coloured(inner).inputs(process, x_t, t, ctx), inner.inputs(plain, x_t, t, ctx)):
        assert torch.equal(found, expected)


def test_one_factor_serves_a_run_and_follows_its_places():
    noise, x = GPNoise(RBF(0.5)), rand(2, 5, 1)
    ctx = Context(side={"at": AT.clone()})
    first = noise(x, ctx)
    assert noise(x, ctx.replace(known=SOME)) is first
    ctx.side["at"].add_(torch.arange(5) ** 2)
    assert noise(x, ctx) is not first
    assert noise(x, ctx.replace(valid=PADDED)).valid is not None
    assert noise == GPNoise(RBF(0.5)) and noise != GPNoise(RBF(0.6))
    twin = copy.deepcopy(Gaussian(Cosine(), noise=noise))
    assert twin.law(x, ctx).same(noise(x, ctx))


def test_missing_values_do_not_touch_the_loss():
    """Garbage where ``Context.valid`` is False, channel by channel."""
    process, x0 = Gaussian(Cosine(), noise=OUNoise(0.7)), rand(2, 5, 3)
    model = FunctionDenoiser(process, lambda x, t, ctx: Normal(torch.zeros_like(x)))
    losses = []
    for garbage in (0.0, 1e6):
        ctx = Context(side={"at": AT}, valid=EACH)
        batch = Batch(torch.where(EACH, x0, garbage), ctx)
        losses.append([Denoising(model, weight=w)(batch, Rng(0)).terms["loss"][0] for w in ("bound", Flat())])
    torch.testing.assert_close(losses[0], losses[1])
