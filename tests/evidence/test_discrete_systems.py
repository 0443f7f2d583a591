"""What systems of the discrete cluster claim, on laws that can be enumerated."""

import math
import time

import pytest
import torch

from polydiff.core import NFE
from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import FunctionDenoiser
from polydiff.core.distributions import Categorical, Gated
from polydiff.core.evaluation import level_losses
from polydiff.core.oracles import ExactTokens
from polydiff.core.processes import Discrete
from polydiff.core.sampling import Ancestral, FirstHitting, Lazy, sample
from polydiff.core.schedules import uniform_times

VOCAB, LENGTH = 3, 4


@pytest.fixture(scope="module")
def table():
    g = torch.Generator().manual_seed(0)
    law = (2.0 * torch.randn([VOCAB] * LENGTH, generator=g, dtype=torch.float64)).exp()
    return law / law.sum()


def total_variation(x, table):
    place = torch.tensor([VOCAB**i for i in reversed(range(LENGTH))])
    counts = torch.bincount((x * place).sum(1), minlength=table.numel()).double()
    return 0.5 * float((counts / len(x) - table.flatten()).abs().sum())


@pytest.mark.slow
def test_first_hitting_has_the_exact_law_in_a_fraction_of_the_time(table, record_property):
    """S239: within sampling error of the joint law, as 300-step ancestral sampling is, at 4 evaluations instead of 300."""
    n = 10_000
    denoiser = ExactTokens(table, Discrete.absorbing(VOCAB))
    start = torch.full((n, LENGTH), VOCAB)
    floor = total_variation(torch.stack([Categorical(table.flatten().log().expand(n, -1)).sample(Rng(9))], 1)
                            .div(torch.tensor([VOCAB**i for i in reversed(range(LENGTH))]), rounding_mode="floor") % VOCAB, table)  # fmt: skip
    gaps, seconds = {}, {}
    for name, step, times in (
        ("first-hitting", FirstHitting(), [1.0, 0.0]),
        ("ancestral-300", Ancestral(), uniform_times(300)),
        ("ancestral-4", Ancestral(), uniform_times(LENGTH)),
    ):
        counted, begin = NFE(denoiser), time.perf_counter()
        gaps[name] = total_variation(sample(counted, start, times, step, rng=Rng(1)), table)
        seconds[name] = time.perf_counter() - begin
        record_property(name, (gaps[name], counted.count, seconds[name]))
        print(name, f"TV {gaps[name]:.4f} (floor {floor:.4f}), {counted.count} evaluations, {seconds[name]:.1f} s")
    assert gaps["first-hitting"] < 1.7 * floor
    assert gaps["ancestral-300"] < 1.7 * floor
    assert gaps["ancestral-4"] > 4 * floor
    assert seconds["first-hitting"] < 0.1 * seconds["ancestral-300"]


def test_float32_gumbel_noise_lowers_the_temperature_and_ours_does_not():
    """S239: float32 uniforms cannot make a Gumbel number above 16.6, which cuts tails; drawn rates show it."""
    states, rare = 200_000, 100
    logits = torch.zeros(states, dtype=torch.float64)
    n, g = 4000, torch.Generator().manual_seed(0)
    largest = max(float(-(-torch.rand(states, generator=g).clamp_min(2**-25).log()).log().min()) for _ in range(3))
    assert largest < 16.7
    # Among k equal states the largest of k Gumbel numbers decides: float32 ones tie at the edge of their grid.
    ties = sum(int((u := torch.rand(states, generator=g)).eq(u.max()).sum() > 1) for _ in range(rare)) / rare
    assert ties > 0.005
    drawn = Categorical(logits.expand(n, -1)[:, :1000]).sample(Rng(0))
    expected = n / 1000
    chi2 = float(((torch.bincount(drawn, minlength=1000) - expected) ** 2 / expected).sum())
    assert abs(chi2 - 999) < 5 * math.sqrt(2 * 999)


def test_the_time_free_view_costs_what_radd_says():
    """S203: evaluations with a cache, n (1 − (1 − 1/n)^l) for n log-linear steps and l tokens, at several n."""
    length, runs = 16, 400
    process = Discrete.absorbing(VOCAB)
    calls = []

    def law(x, t, ctx):
        calls.append(len(x))
        return Gated(x, x == VOCAB, 1.0, Categorical(torch.zeros(*x.shape, VOCAB)))

    for n in (8, 32, 128):
        calls.clear()
        denoiser = FunctionDenoiser(process, law)
        sample(denoiser, torch.full((runs, length), VOCAB), uniform_times(n), Lazy(Ancestral()), rng=Rng(n, runs))
        moves = 1 - (1 - 1 / n) ** length  # chance that a step shows something
        # Evaluated: the first state, and every later one whose step before showed something.
        expected = 1 + (n - 1) * moves
        assert sum(calls) / runs == pytest.approx(expected, abs=4 * math.sqrt(n * moves * (1 - moves) / runs) + 1e-9)
        assert abs(expected - n * moves) < 1


def test_the_any_order_loss_is_the_denoising_loss(table):
    """S203, S164: the λ-integral of the denoising cross-entropy equals the any-order cost, both by enumeration."""
    denoiser = ExactTokens(table, Discrete.absorbing(VOCAB))
    entropy = denoiser.entropy()
    any_order = 0.0
    by_masked = torch.zeros(LENGTH + 1, dtype=torch.float64)  # expected sum of costs of the masked, by their number
    everything = torch.cartesian_prod(*[torch.arange(VOCAB)] * LENGTH)
    p = table.flatten()
    for bits in range(1, 2**LENGTH):
        mask = torch.tensor([bool(bits >> i & 1) for i in range(LENGTH)])
        x = torch.where(mask, VOCAB, everything)
        cost = -denoiser(x, 0.5, Context()).inner.log_probs.gather(-1, everything[..., None])[..., 0]
        total = float((p[:, None] * torch.where(mask, cost, 0.0)).sum())
        k = int(mask.sum())
        by_masked[k] += total
        any_order += total / k / math.comb(LENGTH, k)
    # ∫ (1/λ) Σ_M λ^|M| (1 − λ)^{L − |M|} cost(M) dλ, each power of λ integrated in closed form (a Beta function).
    integral = sum(
        float(by_masked[k]) * math.gamma(k) * math.gamma(LENGTH - k + 1) / math.gamma(LENGTH + 1)
        for k in range(1, LENGTH + 1)
    )
    assert integral == pytest.approx(any_order, abs=1e-10)
    assert any_order == pytest.approx(entropy, abs=1e-10)
    rows = everything[torch.multinomial(p, 4000, replacement=True, generator=torch.Generator().manual_seed(0))]
    estimate = float(level_losses(denoiser, rows, rng=Rng(0)).sum())
    assert estimate == pytest.approx(entropy, abs=0.05)
