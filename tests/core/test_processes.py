"""Every process: the invariant, composition, identity at t == s, agreement of float and batched times."""

import itertools

import pytest
import torch

from polydiff.core.data import Context, Rng
from polydiff.core.distributions import Categorical, Dirac, Joint, Normal
from polydiff.core.oracles import ExactTokens, GaussianMixture
from polydiff.core.processes import Bridge, Discrete, Flow, Gaussian, Residual
from polydiff.core.schedules import Cosine, LogLinear

X0 = torch.tensor([[1.3], [-0.4]], dtype=torch.float64)
CTX = Context(x1=torch.tensor([[-0.7], [0.9]], dtype=torch.float64))
GRID = [(1.0, 0.6), (0.7, 0.3), (0.35, 0.02), (0.2, 0.0)]


def ctx_of(process):
    return CTX if process.observes_source else Context()


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("t", "s"), GRID)
def test_invariant_of_linear_processes(linear, t, s, eta):
    """x_t ~ q(x_t | x_0), x_s ~ transition(x_t, δ(x_0)) gives x_s ~ q(x_s | x_0): exactly, by the rules of Gaussians."""
    ctx, post = ctx_of(linear), Dirac(X0)
    q_t, q_s = linear.marginal(X0, t, ctx), linear.marginal(X0, s, ctx)
    k0 = linear.transition(q_t.mean, post, t, s, ctx, eta=eta)
    k1 = linear.transition(q_t.mean + 1, post, t, s, ctx, eta=eta)
    slope = k1.mean - k0.mean
    torch.testing.assert_close(k0.mean, q_s.mean, rtol=1e-9, atol=1e-10)
    var = (slope * q_t.std) ** 2 + torch.as_tensor(k0.std, dtype=torch.float64) ** 2
    torch.testing.assert_close(var, torch.full_like(var, q_s.std**2), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("t", "s"), GRID)
def test_invariant_of_discrete_processes(discrete, t, s):
    """Σ over x_t of q(x_t | x_0) transition(x_t, δ(x_0)) equals q(x_s | x_0), by enumeration."""
    n = discrete.states
    states = torch.arange(n)[:, None]
    for clean in range(3):
        x0 = torch.full((n, 1), clean)
        q_t, q_s = (discrete.marginal(x0, u, Context()).log_prob(states).exp() for u in (t, s))
        kernel = discrete.transition(states, Categorical.delta(x0, 3), t, s, Context())
        moved = torch.stack([kernel.log_prob(torch.full((n, 1), y)).exp() for y in range(n)], 1)
        reached = q_t > 0  # the kernel out of an impossible state is arbitrary
        torch.testing.assert_close((q_t[reached, None] * moved[reached]).sum(0), q_s, rtol=1e-10, atol=1e-12)


def test_invariant_catches_a_wrong_coefficient(monkeypatch):
    """The slip of a published implementation, alpha_t for alpha_s, does not pass."""
    process = Gaussian(Cosine())
    right = process.transition(X0, Dirac(X0), 0.7, 0.3, Context(), eta=0.0).mean
    at, to = process.at(0.7), process.at(0.3)
    slip = to.g / at.g * (X0 - at.a * X0) + at.a * X0
    assert float((right - slip).abs().max()) > 0.05


def test_products_transit_field_by_field(product):
    x0 = {"pos": X0, "atom": torch.tensor([[1, 2], [0, 3]]), "kind": torch.tensor([[2], [1]])}
    post = Joint({"pos": Dirac(X0), "atom": Categorical.delta(x0["atom"], 4), "kind": Categorical.delta(x0["kind"], 3)})
    x_t = product.marginal(x0, 0.6, Context()).sample(Rng(0, 2))
    joint = product.transition(x_t, post, 0.6, 0.2, Context())
    for name, process in product.fields.items():
        alone = process.transition(x_t[name], post.fields[name], 0.6, 0.2, Context())
        x = alone.sample(Rng(1, 2))
        torch.testing.assert_close(joint.fields[name].log_prob(x), alone.log_prob(x))


def test_forward_kernels_compose(markov):
    ctx, (u, s, t) = ctx_of(markov), (0.1, 0.4, 0.8)
    one, two = markov.marginal(X0, s, ctx, since=u), markov.marginal(X0, t, ctx, since=u)
    slope = markov.marginal(X0 + 1, t, ctx, since=s).mean - markov.marginal(X0, t, ctx, since=s).mean
    torch.testing.assert_close(markov.marginal(one.mean, t, ctx, since=s).mean, two.mean)
    step = markov.marginal(X0, t, ctx, since=s).std
    torch.testing.assert_close((slope * one.std) ** 2 + step**2, torch.full_like(X0, two.std**2))


def test_forward_kernels_compose_for_tokens(discrete):
    n, (u, s, t) = discrete.states, (0.1, 0.4, 0.8)
    states = torch.arange(n)[:, None]

    def matrix(a, b):
        law = discrete.marginal(states, b, Context(), since=a)
        return torch.stack([law.log_prob(torch.full((n, 1), y)).exp() for y in range(n)], 1)

    torch.testing.assert_close(matrix(u, s) @ matrix(s, t), matrix(u, t))
    torch.testing.assert_close(matrix(u, u), torch.eye(n, dtype=torch.float64))


def test_residual_shifting_has_no_forward_kernel_without_x0():
    with pytest.raises(ValueError, match="depends on x_0"):
        Residual().marginal(X0, 0.5, CTX, since=0.2)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_transition_at_equal_times_is_the_identity(linear, eta):
    x = torch.tensor([[0.3], [-2.0]], dtype=torch.float64)
    kernel = linear.transition(x, Dirac(X0), 0.4, 0.4, ctx_of(linear), eta=eta)
    torch.testing.assert_close(kernel.mean, x, rtol=1e-12, atol=1e-12)
    assert float(kernel.std) == pytest.approx(0.0, abs=1e-7)


def test_transition_at_equal_times_is_the_identity_for_tokens(discrete):
    x = torch.arange(discrete.states)[:, None]
    kernel = discrete.transition(x, Categorical.delta(torch.zeros_like(x), 3), 0.4, 0.4, Context())
    keep = torch.arange(discrete.states) == x[:, 0]
    torch.testing.assert_close(
        kernel.log_prob(x)[keep], torch.zeros(int(keep.sum()), dtype=torch.float64), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_float_and_batched_times_agree(linear, eta):
    ctx, x = ctx_of(linear), torch.tensor([[0.3], [-2.0]], dtype=torch.float64)
    t, s = torch.full((2,), 0.7, dtype=torch.float64), torch.full((2,), 0.3, dtype=torch.float64)
    a, b = (linear.transition(x, Normal(X0, 0.2), u, v, ctx, eta=eta) for u, v in ((0.7, 0.3), (t, s)))
    torch.testing.assert_close(a.mean, b.mean)
    torch.testing.assert_close(
        torch.as_tensor(a.std, dtype=torch.float64).expand(2, 1), torch.as_tensor(b.std).expand(2, 1)
    )
    torch.testing.assert_close(linear.marginal(X0, 0.7, ctx).mean, linear.marginal(X0, t, ctx).mean)
    for f in (linear.velocity, linear.score):
        torch.testing.assert_close(f(x, Dirac(X0), 0.7, ctx), f(x, Dirac(X0), t, ctx))


def test_float_and_batched_times_agree_for_tokens(discrete):
    x, t = torch.arange(discrete.states)[:, None], torch.full((discrete.states,), 0.7, dtype=torch.float64)
    post = Categorical.delta(torch.ones_like(x), 3)
    a, b = (discrete.transition(x, post, u, v, Context()) for u, v in ((0.7, 0.3), (t, t - 0.4)))
    torch.testing.assert_close(a.log_prob(x), b.log_prob(x))


def test_a_frozen_element_keeps_its_value():
    """An element at t == s == 0 beside a moving one is left alone (per-element times)."""
    process, x = Gaussian(Cosine()), torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    t = torch.tensor([[0.0, 0.5]], dtype=torch.float64)
    s = torch.tensor([[0.0, 0.4]], dtype=torch.float64)
    kernel = process.transition(x, Dirac(torch.full_like(x, 9.0)), t, s, Context(), eta=0.0)
    assert float(kernel.mean[0, 0]) == pytest.approx(1.0, abs=1e-12)
    assert float(kernel.mean[0, 1]) != 1.0


def test_velocity_is_the_derivative_of_the_probability_flow(linear):
    """Along x_t = a x_0 + shift + g z with x_0 fixed, dx/dt is the velocity under δ(x_0)."""
    ctx, z, h = ctx_of(linear), torch.tensor([[0.7], [-1.1]], dtype=torch.float64), 1e-5

    def path(t):
        a, shift, g = linear.coef(t, ctx)
        return a * X0 + shift + g * z

    numeric = (path(0.4 + h) - path(0.4 - h)) / (2 * h)
    torch.testing.assert_close(linear.velocity(path(0.4), Dirac(X0), 0.4, ctx), numeric, rtol=1e-7, atol=1e-7)


def test_score_is_the_gradient_of_the_log_density(linear, mixture):
    ctx = Context(x1=torch.tensor([[0.3, -0.5]] * 3, dtype=torch.float64)) if linear.observes_source else Context()
    x = torch.tensor([[0.1, 0.2], [-1.0, 0.5], [2.0, 1.0]], dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(mixture.noised(linear, 0.5, x, ctx).log_prob(x).sum(), x)
    score = linear.score(x, mixture.posterior(linear, x, 0.5, ctx), 0.5, ctx)
    torch.testing.assert_close(score, exact, rtol=1e-9, atol=1e-10)


def test_velocity_and_score_satisfy_the_probability_flow_identity(unpinned):
    """v = f x − G/2 · score (with an observed source the drift contains it; there the path test stands alone)."""
    linear = unpinned
    x = torch.tensor([[0.1], [-1.0]], dtype=torch.float64)
    f, rate = linear.rate(0.5, Context())
    v, score = (h(x, Dirac(X0), 0.5, Context()) for h in (linear.velocity, linear.score))
    torch.testing.assert_close(v, f * x - 0.5 * rate * score, rtol=1e-9, atol=1e-9)


def test_noise_is_added_at_the_rate_of_the_forward_kernel(markov):
    t, h, ctx = 0.4, 1e-6, ctx_of(markov)
    _, rate = markov.rate(t, ctx)
    assert markov.marginal(X0, t + h, ctx, since=t).std ** 2 / h == pytest.approx(rate, rel=1e-3)


def test_encoding_with_noise_is_refused(unpinned):
    with pytest.raises(ValueError, match="eta=0 to encode"):
        unpinned.transition(X0, Dirac(X0), 0.3, 0.7, Context(), eta=1.0)


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_eta_outside_its_range_is_refused(eta):
    with pytest.raises(ValueError, match="eta"):
        Gaussian(Cosine()).transition(X0, Dirac(X0), 0.7, 0.3, Context(), eta=eta)


def test_tokens_have_only_the_markov_posterior(discrete):
    with pytest.raises(ValueError, match="eta=1"):
        discrete.transition(
            torch.zeros(1, 1, dtype=torch.long), Categorical(torch.zeros(1, 1, 3)), 0.5, 0.2, Context(), eta=0.0
        )


def test_bridges_refuse_to_run_without_their_source():
    with pytest.raises(ValueError, match="x1"):
        Bridge().marginal(X0, 0.5, Context())


def test_bridge_velocity_at_its_pinned_end_is_refused():
    with pytest.raises(ValueError, match="singular"):
        Bridge().velocity(X0, Dirac(X0), 1.0, CTX)


# ------------------------------------------------------------------ flows from other sources


def _uniform(like, ctx):
    two = GaussianMixture(*(torch.tensor(v, dtype=like.dtype) for v in ([0.5, 0.5], [[-2.0], [2.0]], [0.1, 0.1])))
    return two.law(len(like))


def test_flow_from_another_source_has_the_marginal_of_its_paths():
    flow, n = Flow(source=_uniform), 200_000
    x0 = torch.full((n, 1), 1.3, dtype=torch.float64)
    x = flow.marginal(x0, 0.4, Context()).sample(Rng(0))
    a, _, g = flow.coef(0.4, Context())
    assert float(x.mean()) == pytest.approx(a * 1.3, abs=0.01)
    assert float(x.var()) == pytest.approx(g**2 * 4.01, rel=0.01)
    with pytest.raises(ValueError, match="eta=0"):
        flow.transition(x, Dirac(x0), 0.4, 0.2, Context(), eta=1.0)


def test_coupled_source_takes_the_place_of_the_noise():
    x1 = torch.tensor([[0.5], [0.2]], dtype=torch.float64)
    for process in (Flow(), Gaussian(Cosine())):
        a, _, g = process.coef(0.3, Context())
        torch.testing.assert_close(process.marginal(X0, 0.3, Context(x1=x1)).sample(None), a * X0 + g * x1)


# ------------------------------------------------------------------ bounds


def test_continuous_bound_is_half_the_slope_of_the_snr(markov):
    """The general integrand of linear processes reduces to −½ dSNR/dt (x̂_0 − x_0)² for Markov ones."""
    ctx, t, h = ctx_of(markov), 0.4, 1e-6

    def snr(u):
        c = markov.at(u)
        return c.a**2 / c.g**2

    integrand = markov.bound(Normal(X0 + 1), X0, X0, t, ctx)
    assert float(integrand[0]) == pytest.approx(-0.5 * (snr(t + h) - snr(t - h)) / (2 * h), rel=1e-5)


def test_continuous_bound_is_the_limit_of_the_kl_of_kernels(linear):
    ctx, t, h = ctx_of(linear), 0.4, 1e-5
    x_t = linear.marginal(X0, t, ctx).mean + 0.3
    true, model = (linear.transition(x_t, Dirac(v), t, t - h, ctx) for v in (X0, X0 + 0.5))
    exact = linear.bound(Normal(X0 + 0.5), X0, x_t, t, ctx)
    torch.testing.assert_close(true.kl(model) / h, exact[:, 0], rtol=1e-3, atol=0)


def test_discrete_bound_is_the_limit_of_the_kl_of_kernels(discrete):
    t, h, n = 0.4, 1e-6, discrete.states
    x_t = torch.arange(n)[:, None]
    guess = Categorical(torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log().expand(n, 1, 3))
    for clean in range(3):
        x0 = torch.full((n, 1), clean)
        true, model = (discrete.transition(x_t, p, t, t - h, Context()) for p in (Categorical.delta(x0, 3), guess))
        exact = discrete.bound(guess, x0, x_t, t, Context())
        possible = discrete.marginal(x0, t, Context()).log_prob(x_t) > -torch.inf
        torch.testing.assert_close(true.kl(model)[possible] / h, exact[possible, 0], rtol=1e-4, atol=1e-6)


def test_discrete_transition_is_bayes_by_enumeration(table):
    """p(x_s | x_t) from the process equals Bayes on the joint table of (x_0, x_s, x_t) for one token."""
    prior = table.sum(1)
    for make in (lambda: Discrete.uniform(3), lambda: Discrete.absorbing(3), lambda: Discrete.marginal_prior(prior)):
        process, (t, s) = make(), (0.7, 0.3)
        n = process.states
        states = torch.arange(n)[:, None]
        forward = torch.stack(
            [process.marginal(torch.full((n, 1), k), s, Context()).log_prob(states).exp() for k in range(3)]
        )
        kernel = torch.stack(
            [process.marginal(torch.full((n, 1), y), t, Context(), since=s).log_prob(states).exp() for y in range(n)]
        )
        joint = torch.einsum("k,ks,st->st", prior, forward, kernel)
        law = process.transition(states, ExactTokens(prior, process)(states, t, Context()), t, s, Context())
        ours = torch.stack([law.log_prob(torch.full((n, 1), y)).exp() for y in range(n)])
        possible = joint.sum(0) > 0
        torch.testing.assert_close(ours[:, possible], (joint / joint.sum(0))[:, possible])


def test_exact_tokens_are_bayes(table):
    process = Discrete.uniform(3, LogLinear())
    oracle, t = ExactTokens(table, process), 0.6
    x_t = torch.tensor(list(itertools.product(range(3), repeat=2)))
    a = 1 - t
    like = a * torch.eye(3, dtype=torch.float64) + (1 - a) / 3
    joint = table[None] * like[:, x_t[:, 0]].T[:, :, None] * like[:, x_t[:, 1]].T[:, None, :]
    joint = joint / joint.sum((1, 2), keepdim=True)
    torch.testing.assert_close(oracle(x_t, t, Context()).probs[:, 0], joint.sum(2))
    torch.testing.assert_close(oracle(x_t, t, Context()).probs[:, 1], joint.sum(1))
