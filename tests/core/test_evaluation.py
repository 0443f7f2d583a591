"""Metrics against closed forms, enumeration, brute force and independent implementations (POT, scikit-learn, scipy)."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

from polydiff.core.data import Rng
from polydiff.core.evaluation import (
    RBF,
    Polynomial,
    Score,
    bootstrap_interval,
    classifier_two_sample_test,
    features,
    frechet_distance,
    frechet_from_moments,
    memorisation_test,
    mmd,
    mmd_permutation_test,
    precision_recall_density_coverage,
    sliced_wasserstein,
    wasserstein_1d,
    wilson_interval,
)


def normal(seed, *shape):
    return Rng(seed).normal(torch.empty(*shape, dtype=torch.float64))


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks of rows, the last one ragged, at the sizes of these tests."""
    monkeypatch.setattr(features, "_BLOCK", 70)


# ------------------------------------------------------------------ distances


def test_distances_keep_their_digits_far_from_the_origin():
    x = normal(0, 30, 4) + 1e6
    y = torch.cat([x[:5], x[:5] + 1e-3, normal(1, 20, 4) + 1e6])
    exact = (x[:, None].numpy().astype(np.longdouble) - y[None].numpy()) ** 2
    found = features.squared_distances(x, y)
    np.testing.assert_allclose(found, exact.sum(-1).astype(float), rtol=1e-10, atol=0)
    assert (found.diagonal()[:5] == 0).all()


def test_row_blocks_cover_every_row_once(monkeypatch):
    monkeypatch.setattr(features, "_BLOCK", 10)
    blocks = list(features.row_blocks(11, 4))
    assert [i for b in blocks for i in range(b.start, b.stop)] == list(range(11))
    assert max(b.stop - b.start for b in blocks) == 2


# ------------------------------------------------------------------ Fréchet


def test_frechet_of_commuting_gaussians_is_closed_form_even_singular():
    a, b = torch.tensor([4.0, 0.0, 1.0, 0.0]), torch.tensor([1.0, 9.0, 0.0, 0.0])
    q, _ = torch.linalg.qr(normal(0, 4, 4))
    m = torch.tensor([3.0, 0.0, 4.0, 0.0])
    covs = [q @ torch.diag(v.double()) @ q.T for v in (a, b)]
    found = frechet_from_moments(m, covs[0], torch.zeros(4), covs[1])
    assert float(found) == pytest.approx(25 + float(((a.sqrt() - b.sqrt()) ** 2).sum()), rel=1e-7)
    assert found.id == "frechet:float64:moments:D=4"


def test_frechet_of_rank_one_gaussians():
    a, b = normal(0, 6), normal(1, 6)
    exact = float(a @ a + b @ b - 2 * (a @ b).abs())
    found = frechet_from_moments(torch.zeros(6), torch.outer(a, a), torch.zeros(6), torch.outer(b, b))
    assert float(found) == pytest.approx(exact, rel=1e-6)


def test_frechet_agrees_with_pot_and_with_the_moments():
    ot = pytest.importorskip("ot")
    x, y = normal(0, 50, 5) @ normal(1, 5, 5) + 1.0, normal(2, 80, 5) @ normal(3, 5, 5)
    moments = [s for v in (x, y) for s in (v.mean(0), v.T.cov())]
    pot = float(ot.gaussian.bures_wasserstein_distance(moments[0], moments[2], moments[1], moments[3])) ** 2
    found = frechet_distance(x, y)
    assert found.value == pytest.approx(pot, rel=1e-9)
    assert found.value == pytest.approx(frechet_from_moments(*moments).value, rel=1e-9)
    assert found.id == "frechet:float64:N=50+80"


@pytest.mark.parametrize("n", [7, 200])
def test_frechet_of_equal_sets_is_zero_and_a_shift_is_its_square(n):
    x = normal(0, n, 20)  # n = 7: covariances of rank 6
    assert frechet_distance(x, x[torch.arange(n - 1, -1, -1)]).value == pytest.approx(0.0, abs=1e-11)
    assert frechet_distance(x, x + 0.5).value == pytest.approx(20 * 0.25, rel=1e-11)
    assert frechet_distance(x, x).id == f"frechet:float64:N={n}"


def test_frechet_refuses_what_is_no_covariance():
    with pytest.raises(ValueError, match="cov1 has the eigenvalue -1"):
        frechet_from_moments(torch.zeros(2), torch.diag(torch.tensor([1.0, -1.0])), torch.zeros(2), torch.eye(2))
    with pytest.raises(ValueError, match="cov2 differs from its transpose by 1"):
        frechet_from_moments(torch.zeros(2), torch.eye(2), torch.zeros(2), torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="cov1 has shape"):
        frechet_from_moments(torch.zeros(2), torch.eye(3), torch.zeros(2), torch.eye(2))


# ------------------------------------------------------------------ MMD


def brute_mmd(k, n):
    """Unbiased MMD² from a pooled kernel matrix, by its definition."""
    xx, yy, xy = k[:n, :n], k[n:, n:], k[:n, n:]
    m = len(yy)
    return (xx.sum() - np.trace(xx)) / n / (n - 1) + (yy.sum() - np.trace(yy)) / m / (m - 1) - 2 * xy.mean()


@pytest.mark.usefixtures("small_blocks")
def test_mmd_agrees_with_scikit_learn():
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    x, y = normal(0, 23, 3), normal(1, 17, 3) + 0.3
    pooled = torch.cat([x, y]).numpy()
    rbf = pairwise.rbf_kernel(pooled, gamma=1 / (2 * 1.7**2))
    poly = pairwise.polynomial_kernel(pooled, degree=3, gamma=1 / 3, coef0=1)
    assert float(mmd(x, y, RBF(1.7))) == pytest.approx(brute_mmd(rbf, 23), rel=1e-11)
    assert float(mmd(x, y, Polynomial())) == pytest.approx(brute_mmd(poly, 23), rel=1e-11)
    median = np.median(pairwise.euclidean_distances(pooled)[np.triu_indices(40, 1)])
    found = mmd(x, y)
    assert found.value == pytest.approx(float(mmd(x, y, RBF(median))), rel=1e-9)
    assert found.id.startswith("mmd2:rbf:h=")
    assert found.id.endswith("N=23+17")


def test_mmd_is_unbiased_over_all_pairs_of_samples():
    support = normal(0, 4, 2)
    draws = [support[list(i)] for i in itertools.product(range(4), repeat=2)]  # every sample of two under one law
    mean = np.mean([float(mmd(a, b, RBF(1.0))) for a in draws for b in draws])
    assert mean == pytest.approx(0.0, abs=1e-14)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kernel", [RBF(1.0), Polynomial()])
def test_permutation_test_agrees_with_relabelling_by_hand(kernel):
    x, y = normal(0, 12, 2), normal(1, 9, 2) + 0.4
    pooled = torch.cat([x, y])
    order = Rng(3).uniform(torch.empty(60, 21)).argsort(1)
    values = [float(mmd(pooled[o[:12]], pooled[o[12:]], kernel)) for o in order]
    found = mmd_permutation_test(x, y, kernel, permutations=60, seed=3)
    observed = float(mmd(x, y, kernel))
    assert found.statistic == pytest.approx(observed, rel=1e-10)
    assert found.p_value == (1 + sum(v >= observed for v in values)) / 61


def test_permutation_p_values_are_calibrated():
    p = np.array(
        [
            mmd_permutation_test(normal(2 * i, 15, 2), normal(2 * i + 1, 20, 2), permutations=99).p_value
            for i in range(200)
        ]
    )
    assert (p <= 0.05).mean() < 0.10  # 3.2 standard deviations
    assert abs(p.mean() - 0.5) < 0.08
    assert mmd_permutation_test(normal(0, 60, 2), normal(1, 60, 2) + 1.0, permutations=99).p_value == 0.01


@pytest.mark.parametrize("seed", range(5))
def test_relabellings_that_tie_count_as_reached(seed):
    a, b = normal(seed, 2, 1, 3)
    x, y = a.repeat(3, 1), b.repeat(3, 1)  # of 20 relabellings, the true one and its mirror image are the largest
    p = mmd_permutation_test(x, y, RBF(0.7), permutations=3000, seed=seed).p_value
    assert p == pytest.approx(0.1, abs=0.02)


def test_median_bandwidth_refuses_repeated_rows():
    with pytest.raises(ValueError, match="median distance of the pooled sample is 0"):
        mmd(torch.ones(5, 2), torch.ones(5, 2))


# ------------------------------------------------------------------ Wasserstein


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("m", [12, 18, 25])
def test_wasserstein_1d_agrees_with_pot(p, m):
    ot = pytest.importorskip("ot")
    x, y = normal(0, 12, 3), normal(1, m, 3) * 2 + 1
    exact = ot.wasserstein_1d(x, y, p=p) ** (1 / p)
    torch.testing.assert_close(wasserstein_1d(x, y, p), exact, rtol=1e-10, atol=0)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("m", [20, 33])
def test_sliced_wasserstein_agrees_with_pot_on_given_directions(m):
    ot = pytest.importorskip("ot")
    x, y = normal(0, 20, 4), normal(1, m, 4) + 0.5
    theta = torch.nn.functional.normalize(normal(2, 30, 4), dim=1)
    exact = float(ot.sliced_wasserstein_distance(x, y, projections=theta.T, p=2))
    assert float(sliced_wasserstein(x, y, projections=theta)) == pytest.approx(exact, rel=1e-10)


def test_sliced_wasserstein_of_a_shift_is_its_mean_square_over_directions():
    x, c = normal(0, 10, 5), torch.tensor([1.0, 2.0, 0.0, 0.0, 2.0])
    found = sliced_wasserstein(x, x + c, projections=20_000)
    assert float(found) ** 2 == pytest.approx(9 / 5, rel=0.02)
    assert float(sliced_wasserstein(x, x)) == 0.0
    assert sliced_wasserstein(x, x + c, seed=1) == sliced_wasserstein(x, x + c, seed=1)
    assert sliced_wasserstein(x, x + c, seed=1).value != sliced_wasserstein(x, x + c, seed=2).value


# ------------------------------------------------------------------ precision, recall, density, coverage


def brute_prdc(x, y, k):
    dist = lambda a, b: np.abs(a[:, None] - b[None]).__pow__(2).sum(-1)  # noqa: E731
    rx, ry = np.sort(dist(x, x), 1)[:, k], np.sort(dist(y, y), 1)[:, k]
    xy = dist(x, y)
    in_real, in_fake = xy <= rx[:, None], xy <= ry
    return in_real.any(0).mean(), in_fake.any(1).mean(), in_real.sum(0).mean() / k, in_real.any(1).mean()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("lattice", [False, True])
def test_prdc_agrees_with_brute_force(k, lattice):
    x, y = normal(0, 30, 2), normal(1, 22, 2) * 0.7 + 0.4
    if lattice:  # many ties and repeated rows
        x, y = (x * 2).round(), (y * 2).round()
    found = precision_recall_density_coverage(x, y, k)
    values = (found.precision, found.recall, found.density, found.coverage)
    assert values == pytest.approx(brute_prdc(x.numpy(), y.numpy(), k), abs=1e-12)
    assert found.id == f"prdc:k={k}:float64:N=30+22"


def test_prdc_at_its_extremes():
    x = normal(0, 50, 3)
    same = precision_recall_density_coverage(x, x.flip(0), 5)
    assert (same.precision, same.recall, same.coverage) == (1.0, 1.0, 1.0)
    assert same.density == pytest.approx(6 / 5, abs=1e-12)  # a ball holds its centre and exactly k neighbours
    far = precision_recall_density_coverage(x, x + 1e3, 5)
    assert (far.precision, far.recall, far.density, far.coverage) == (0.0, 0.0, 0.0, 0.0)


def test_density_and_coverage_of_equal_laws_have_their_expectations():
    n, k = 60, 3
    runs = [precision_recall_density_coverage(normal(2 * i, n, 2), normal(2 * i + 1, n, 2), k) for i in range(200)]
    missed = np.prod([(n - 1 - i) / (2 * n - 1 - i) for i in range(k)])  # arXiv 2002.09797, among N − 1 neighbours
    assert np.mean([r.coverage for r in runs]) == pytest.approx(1 - missed, abs=0.015)
    assert np.mean([r.density for r in runs]) == pytest.approx(1.0, abs=0.04)


# ------------------------------------------------------------------ classifier test


def test_classifier_p_values_are_calibrated():
    sklearn = pytest.importorskip("sklearn.neighbors")
    knn = sklearn.KNeighborsClassifier(5)
    p = np.array(
        [
            classifier_two_sample_test(normal(2 * i, 30, 2), normal(2 * i + 1, 30, 2), i, classifier=knn).p_value
            for i in range(200)
        ]
    )
    assert (p <= 0.05).mean() < 0.10
    assert abs(p.mean() - 0.5) < 0.08


def test_classifier_test_sees_a_shift_and_thins_the_larger_sample():
    pytest.importorskip("sklearn")
    x, y = normal(0, 60, 3), normal(1, 240, 3)
    equal = classifier_two_sample_test(x, y, 0)
    shifted = classifier_two_sample_test(x, y + 1.5, 0)
    assert equal.p_value > 0.05
    assert equal.statistic < 0.62  # the larger sample is not simply the better guess
    assert shifted.p_value < 1e-6
    assert shifted.statistic > 0.8
    assert shifted.id == "c2st:mlp20:progressive-5-fold:N=60+240"
    assert shifted == classifier_two_sample_test(x, y + 1.5, 0)


def test_classifier_sees_dependence_that_has_no_shift():
    pytest.importorskip("sklearn")
    x = normal(0, 200, 2)
    y = normal(1, 200, 1).repeat(1, 2) * torch.tensor([1.0, -1.0])
    assert classifier_two_sample_test(x, y, 0).p_value < 1e-3


# ------------------------------------------------------------------ memorisation


@pytest.mark.usefixtures("small_blocks")
def test_memorisation_counts_are_those_of_brute_force():
    train, held, made = normal(0, 40, 3), normal(1, 25, 3), normal(2, 30, 3) * 0.8
    nearest = lambda a: np.sqrt(((a[:, None] - train[None]) ** 2).sum(-1).numpy()).min(1)  # noqa: E731
    dh, ds = nearest(held), nearest(made)
    found = memorisation_test(train, held, made, quantile=0.2)
    assert found.closer == pytest.approx((ds[:, None] < dh[None]).mean(), abs=1e-12)
    assert found.share == pytest.approx((ds < np.sort(dh)[4]).mean(), abs=1e-12)
    assert found.copies == 0.0
    assert found.id == "memorisation:mann-whitney:float64:N=40:H=25:S=30"


def test_share_p_value_is_exact_by_enumeration():
    """Under equal laws every choice of which three of seven distances are samples is as likely."""
    train, places = torch.zeros(1, 1), torch.arange(1.0, 8.0)[:, None]
    results = []
    for chosen in itertools.combinations(range(7), 3):
        held = [i for i in range(7) if i not in chosen]
        results.append(memorisation_test(train, places[held], places[list(chosen)], quantile=0.5))
    for r in results:
        reached = np.mean([other.share >= r.share for other in results])
        assert r.share_p_value == pytest.approx(reached, abs=1e-12)


def test_memorisation_p_values_are_calibrated():
    runs = []
    for i in range(200):
        x = normal(i, 170, 2)
        runs.append(memorisation_test(x[:80], x[80:130], x[130:], quantile=0.1))
    p = np.array([r.p_value for r in runs])
    assert (p <= 0.05).mean() < 0.10
    assert abs(p.mean() - 0.5) < 0.08
    assert np.mean([r.share_p_value <= 0.05 for r in runs]) < 0.10
    assert np.mean([r.closer for r in runs]) == pytest.approx(0.5, abs=0.02)


def test_copies_are_flagged_and_poor_fit_is_not():
    x = normal(0, 600, 4)
    train, held, new = x[:200], x[200:400], x[400:]
    copied = memorisation_test(train, held, train)
    assert copied.copies == 1.0
    assert copied.closer == 1.0
    assert copied.p_value < 1e-20
    near = memorisation_test(train, held, train + 0.05 * normal(1, 200, 4))
    assert near.copies == 0.0
    assert near.p_value < 1e-20
    few = memorisation_test(train, held, torch.cat([train[:24], new[:176]]))
    assert few.copies == pytest.approx(24 / 200)
    assert few.share_p_value < 1e-3
    poor = memorisation_test(train, held, new + 3.0)
    assert poor.p_value > 0.99
    assert poor.share_p_value > 0.9
    assert "closer to train" in poor.direction


# ------------------------------------------------------------------ intervals


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (449, 899)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_wilson_agrees_with_scipy(k, n, level):
    stats = pytest.importorskip("scipy.stats")
    exact = stats.binomtest(k, n).proportion_ci(level, method="wilson")
    found = wilson_interval(k, n, level=level)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-12)
    assert found.estimate == k / n
    assert k / n in found


def test_bootstrap_of_a_mean_has_the_normal_interval():
    x = normal(0, 500, 1)
    found = bootstrap_interval(torch.mean, x, resamples=4000, level=0.9)
    half = 1.6449 * float(x.std(correction=0)) / 500**0.5
    assert found.low == pytest.approx(float(x.mean()) - half, abs=0.08 * half)
    assert found.high == pytest.approx(float(x.mean()) + half, abs=0.08 * half)
    assert found.estimate == float(x.mean())
    assert found.level == 0.9
    assert found.id == "bootstrap:percentile:R=4000:N=500"


def test_bootstrap_redraws_samples_independently_and_by_seed():
    x = np.arange(50.0)
    difference = lambda a, b: a.mean() - b.mean()  # noqa: E731
    found = bootstrap_interval(difference, x, x, resamples=300)
    assert found.high - found.low > 0.5 * 2 * 1.96 * x.std() * (2 / 50) ** 0.5
    assert found == bootstrap_interval(difference, x, x, resamples=300)
    assert found != bootstrap_interval(difference, x, x, resamples=300, seed=1)
    assert isinstance(
        bootstrap_interval(frechet_distance, normal(0, 20, 2), normal(1, 20, 2), resamples=5).estimate, float
    )


def test_bootstrap_covers_as_often_as_it_says():
    hits = [0.0 in bootstrap_interval(torch.mean, normal(i, 60, 1), resamples=200, level=0.8) for i in range(200)]
    assert np.mean(hits) == pytest.approx(0.8, abs=0.09)


# ------------------------------------------------------------------ what all have in common

METRICS = {
    "frechet": frechet_distance,
    "mmd": mmd,
    "kid": lambda x, y: mmd(x, y, Polynomial()),
    "permutation": lambda x, y: mmd_permutation_test(x, y, permutations=20),
    "sliced": sliced_wasserstein,
    "prdc": lambda x, y: precision_recall_density_coverage(x, y, 3),
    "memorisation": lambda x, y: memorisation_test(x, y, y),
    "classifier": lambda x, y: classifier_two_sample_test(x, y, folds=2),
}


@pytest.mark.parametrize("name", METRICS)
def test_arrays_tensors_and_precisions_agree_and_arguments_stay(name):
    if name == "classifier":
        pytest.importorskip("sklearn")
    metric = METRICS[name]
    x, y = normal(0, 20, 3).float(), normal(1, 16, 3).float()
    x0, y0, state = x.clone(), y.clone(), torch.get_rng_state()
    legacy = np.random.get_state()[1].copy()
    found = metric(x, y)
    assert found == metric(x.double().numpy(), y.double().requires_grad_())
    assert (x == x0).all()
    assert (y == y0).all()
    assert (torch.get_rng_state() == state).all()
    assert (np.random.get_state()[1] == legacy).all()


@pytest.mark.parametrize("name", METRICS)
def test_bad_features_are_refused_in_a_sentence(name):
    if name == "classifier":
        pytest.importorskip("sklearn")
    metric, good = METRICS[name], normal(0, 20, 3)
    holed = good.clone()
    holed[7, 1] = float("nan")
    with pytest.raises(ValueError, match="not finite in row 7"):
        metric(holed, good)
    with pytest.raises(ValueError, match=r"shape \(20, 3, 1\); a matrix \(N, D\)"):
        metric(good[:, :, None], good)
    with pytest.raises(ValueError, match=r"have 3 columns and .* have 2"):
        metric(good, good[:, :2])
    with pytest.raises(ValueError, match="0 rows"):
        metric(good, good[:0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: mmd(x, x, RBF(0.0)), "bandwidth of RBF is 0.0"),
        (lambda x: mmd(x, x, Polynomial(0)), "degree 0"),
        (lambda x: mmd_permutation_test(x, x, permutations=0), "permutations is 0"),
        (lambda x: sliced_wasserstein(x, x, p=0.5), "is 0.5; 1 ≤ p"),
        (lambda x: sliced_wasserstein(x, x, projections=0), "projections is 0"),
        (lambda x: sliced_wasserstein(x, x, projections=torch.ones(2, 5)), "projections have 5 columns"),
        (lambda x: precision_recall_density_coverage(x, x, 0), "k is 0"),
        (lambda x: precision_recall_density_coverage(x, x, 6), "6 rows; at least 7"),
        (lambda x: classifier_two_sample_test(x, x, folds=1), "folds is 1"),
        (lambda x: memorisation_test(x, x, x, quantile=0.0), "quantile is 0.0"),
        (lambda x: bootstrap_interval(torch.mean), "sizes \\[\\]"),
        (lambda x: bootstrap_interval(torch.mean, x, level=1.0), "level is 1.0"),
        (lambda x: bootstrap_interval(torch.mean, x, resamples=0), "resamples is 0"),
        (lambda x: wilson_interval(3, 2), "3 successes of 2"),
    ],
)
def test_settings_without_meaning_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(normal(0, 6, 3))


def test_results_are_frozen_numbers():
    score = Score(2.0, "id")
    assert float(score) == 2.0
    with pytest.raises(AttributeError):
        score.value = 1.0


def test_importing_the_metrics_imports_neither_scipy_nor_scikit_learn():
    code = "import sys, polydiff.core.evaluation; print(sorted({'scipy', 'sklearn', 'pandas'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


@pytest.mark.slow
def test_ten_thousand_by_ten_thousand_fits_in_memory():
    code = (
        "import resource, torch; torch.set_num_threads(1)\n"
        "from polydiff.core.data import Rng\n"
        "from polydiff.core.evaluation import mmd, precision_recall_density_coverage\n"
        "x, y = (Rng(i).normal(torch.empty(10_000, 16, dtype=torch.float64)) for i in (0, 1))\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); mmd(x, y); precision_recall_density_coverage(x, y); print(peak() - before)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(out) < 400_000  # KiB on Linux; one 10,000 × 10,000 float64 matrix has 781,000
