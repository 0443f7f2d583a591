"""Epochs of EEG by condition: the generator's conditions, and scores against numbers that are known."""

import numpy as np
import pytest
import torch

from polydiff.timeseries.erp import ErpConfig, ErpGenerator
from polydiff.timeseries.erp_metrics import (
    band_power,
    band_power_error,
    grand_averages,
    peak,
    peak_errors,
    train_on_synthetic,
)

SMALL = ErpConfig(network="mlp", width=8, depth=1, steps=2, batch_size=8)
T = np.arange(64) / 64


def some(n=24):
    g = np.random.default_rng(0)
    return (
        g.normal(size=(n, 2, 16)),
        np.arange(n) % 2,
        np.array(["ann", "bob", "eve"])[np.arange(n) % 3],
        np.arange(n) // 12,
    )


@pytest.fixture(scope="module")
def fitted():
    """A model whose output depends on its conditions: the ends that start at zero are filled."""
    erp = ErpGenerator(SMALL).fit(*some(), progress=False)
    torch.manual_seed(0)
    for p in erp.model.parameters():
        torch.nn.init.normal_(p, std=0.4)
    return erp


# ------------------------------------------------------------------ the generator


def test_conditions_are_a_label_and_indicators(fitted):
    cond = fitted.codec.cond({"label": [0, 1, 1], "subject": "bob", "session": [0, 1, 0]}, 3)
    assert cond["label"].tolist() == [0, 1, 1]
    assert cond["static"].tolist() == [[0, 1, 0, 1, 0], [0, 1, 0, 0, 1], [0, 1, 0, 1, 0]]
    null = fitted.codec.cond({}, 2)
    assert null["label"].tolist() == [2, 2]
    assert not bool(null["static"].any())


def test_the_null_condition_of_guidance_is_no_condition(fitted):
    from polydiff.core.data import Context

    full = Context(cond=fitted.codec.cond({"label": 1, "subject": "eve", "session": 1}, 4))
    null, nothing = fitted.model.nullify(full).cond, fitted.codec.cond({}, 4)
    assert torch.equal(null["label"], nothing["label"])
    assert torch.equal(null["static"], nothing["static"])


def test_epochs_follow_each_condition(fitted):
    base = fitted.sample(4, label=0, subject="ann", session=0, seed=1)
    for other in ({"label": 1}, {"subject": "bob"}, {"session": 1}):
        assert not np.allclose(fitted.sample(4, **{"label": 0, "subject": "ann", "session": 0, **other}, seed=1), base)
    mixed = fitted.sample(4, label=[0, 1, 0, 1], subject="ann", session=0, seed=1)
    np.testing.assert_allclose(mixed[[0, 2]], base[[0, 2]], rtol=1e-4, atol=1e-5)
    assert not np.allclose(mixed[1], base[1])


def test_guidance_runs_from_no_condition_to_beyond_it(fitted):
    given = {"label": 1, "subject": "bob", "session": 0, "seed": 2}
    np.testing.assert_allclose(fitted.sample(3, **given, guidance=0.0), fitted.sample(3, seed=2), rtol=1e-4, atol=1e-5)
    assert not np.allclose(fitted.sample(3, **given, guidance=3.0), fitted.sample(3, **given))


def test_epochs_depend_on_seed_and_number_alone(fitted):
    whole = fitted.sample(5, label=1, subject="bob", session=0, seed=3)
    np.testing.assert_allclose(
        fitted.sample(5, label=1, subject="bob", session=0, seed=3, batch_size=2), whole, rtol=1e-4, atol=1e-5
    )
    assert whole.shape == (5, 2, 16)


def test_saving(fitted, tmp_path):
    again = ErpGenerator.load(fitted.save(tmp_path / "erp"))
    given = {"label": 1, "subject": "bob", "session": 1, "seed": 2}
    np.testing.assert_array_equal(again.sample(3, **given), fitted.sample(3, **given))


def test_convolutions_and_one_subject():
    x, label, _, _ = some()
    erp = ErpGenerator(ErpConfig(width=8, depth=1, steps=2, batch_size=8)).fit(x, label, progress=False)
    assert erp.sample(2, label=1).shape == (2, 2, 16)


def test_refusals(fitted):
    x, label, subject, _ = some()
    with pytest.raises(ValueError, match="drop=2"):
        ErpConfig(drop=2.0)
    with pytest.raises(ValueError, match=r"need \(N, C, T\)"):
        ErpGenerator(SMALL).fit(x[0], label)
    with pytest.raises(ValueError, match="subject of shape"):
        ErpGenerator(SMALL).fit(x, label, subject[:3])
    with pytest.raises(ValueError, match="not finite"):
        ErpGenerator(SMALL).fit(np.where(x > 2, np.nan, x), label)
    with pytest.raises(ValueError, match="subject='joe'"):
        fitted.sample(2, label=1, subject="joe")
    with pytest.raises(ValueError, match="call fit"):
        ErpGenerator(SMALL).sample(2)


@pytest.mark.slow
def test_it_learns_which_condition_has_the_bump():
    g = np.random.default_rng(0)
    label = np.arange(600) % 2
    bump = np.exp(-((T - 0.4) ** 2) / 2 / 0.07**2)
    x = 2 * label[:, None, None] * bump + g.normal(size=(600, 1, 64))
    erp = ErpGenerator(ErpConfig(network="mlp", width=96, depth=2, steps=800)).fit(x, label, progress=False)
    made = grand_averages(erp.sample(400, label=np.arange(400) % 2), np.arange(400) % 2)
    assert np.abs(made - grand_averages(x, label)).max() < 0.6
    assert float((made[1] - made[0])[0, 20:32].mean()) > 1.0


# ------------------------------------------------------------------ scores


def test_averages_are_those_of_each_condition():
    x, label, _, session = some()
    both = np.stack([label, session], 1)
    found = grand_averages(x, both)
    for k, (a, b) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        np.testing.assert_allclose(found[k], x[(label == a) & (session == b)].mean(0))
    with pytest.raises(ValueError, match="conditions"):
        grand_averages(x, label[:3])


@pytest.mark.parametrize("top", [0.371, 0.4, 0.444])
def test_peaks_of_parabolas_are_exact_between_steps(top):
    waves = 5 - 40 * (T - top) ** 2
    height, at = peak(np.stack([waves, 2 * waves]), T)
    np.testing.assert_allclose(height, [5, 10])
    np.testing.assert_allclose(at, [top, top])


def test_a_peak_is_looked_for_in_its_window():
    early = 9 * np.exp(-((T - 0.1) ** 2) / 0.002) + 4 * np.exp(-((T - 0.4) ** 2) / 0.01)
    assert peak(early, T)[1] == pytest.approx(0.4, abs=0.005)
    with pytest.raises(ValueError, match="holds 0 steps"):
        peak(early, T, (2.0, 3.0))


def test_errors_of_peaks_are_shifts_and_factors():
    def wave(height, at):
        return np.stack([height * np.exp(-((T - at) ** 2) / 2 / 0.07**2)] * 2)

    real = np.stack([wave(4.0, 0.35), wave(6.0, 0.40)])
    made = np.stack([wave(5.0, 0.37), wave(6.0, 0.41)])
    high, late = peak_errors(made, real, T)
    assert high == pytest.approx(0.5, abs=0.02)
    assert late == pytest.approx(0.015, abs=0.002)
    assert peak_errors(real, real, T) == (0.0, 0.0)


def test_band_power_is_that_of_a_sine():
    """A sine of amplitude a has the power a²/2 in all; the window spreads it over neighbours within the band."""
    phase = np.random.default_rng(0).uniform(0, 2 * np.pi, (50, 1, 1))
    x = 3 * np.sin(2 * np.pi * 10 * T + phase)
    found = band_power(x, 64.0)
    assert float(found["alpha"][0] * 5) == pytest.approx(4.5, rel=0.05)  # five frequencies, 1 Hz apart
    assert found["alpha"] > 50 * found["beta"]
    assert band_power_error(2 * x, x, 64.0) == pytest.approx(np.log(4))
    with pytest.raises(ValueError, match="band 'high'"):
        band_power(x, 64.0, {"high": (40.0, 50.0)})


def test_a_classifier_learns_from_copies_what_they_tell():
    g = np.random.default_rng(0)
    label, x = np.arange(400) % 2, g.normal(size=(400, 2, 16))
    told = x + label[:, None, None]  # the best classifier is right in 99.8 %
    assert train_on_synthetic(told[:200], label[:200], told[200:], label[200:]) > 0.95
    assert abs(train_on_synthetic(x[:200], label[:200], told[200:], label[200:]) - 0.5) < 0.3
