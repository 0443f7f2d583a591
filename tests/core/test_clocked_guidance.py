"""Guidance of one doubled batch where a schedule has a clock an element and the batch shares its time."""

import pytest
import torch

from polydiff.core.data import Context, Rng, index
from polydiff.core.denoisers import EpsPrediction, Karras, Model, VelocityPrediction, VPrediction
from polydiff.core.guidance import ClassifierFree, Precision
from polydiff.core.processes import Gaussian
from polydiff.core.sampling import Ancestral, DPMSolverPP, sample
from polydiff.core.schedules import Clock, Clocked, Cosine, uniform_times

KINDS = [EpsPrediction, VPrediction, VelocityPrediction, Karras]


def model_of(kind=VPrediction):
    process = Gaussian(Clocked(Cosine(), Clock([1.0, 2.0]).double()))
    return Model(lambda x, level, ctx: 0.3 * x + ctx.cond["y"][:, None], process, kind(), null={"y": 0.0})


def context(n):
    return Context(cond={"y": torch.arange(1.0, n + 1, dtype=torch.float64)})


def numbers(n):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 3])
def test_a_shared_time_gives_the_laws_of_a_time_a_sample(kind, n):
    model, x, ctx = model_of(kind), numbers(n), context(n)
    law = ClassifierFree(model, 2.0)(x, 0.5, ctx)
    cond, null = (model(x, 0.5, c).mean for c in (ctx, model.nullify(ctx)))
    torch.testing.assert_close(law.mean, 2 * cond - null)
    torch.testing.assert_close(law.parts["uncond"].mean, null)
    own = ClassifierFree(model, 2.0)(x, torch.full((n,), 0.5, dtype=torch.float64), ctx)
    torch.testing.assert_close(law.mean, own.mean)
    assert not torch.allclose(cond, null)


def test_precision_weights_do_so_too():
    model, x, ctx = model_of(), numbers(3), context(3)
    law = Precision(model, 2.0, 2.0)(x, 0.5, ctx)
    torch.testing.assert_close(law.mean, ClassifierFree(model, 2.0)(x, 0.5, ctx).mean)


def test_rows_are_taken_from_what_belongs_to_rows():
    model, x, ctx = model_of(), numbers(3), context(3)
    whole = model(x, 0.5, ctx)
    for rows in (slice(1, 3), torch.tensor([2, 0]), slice(0, 0)):
        torch.testing.assert_close(index(whole, rows).mean, whole.mean[rows])
    timed = model(x, torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64), ctx)
    torch.testing.assert_close(index(timed, torch.tensor([2, 0])).mean, timed.mean[[2, 0]])
    one = index(whole, slice(0, 1))
    torch.testing.assert_close(index(one, torch.tensor([0, 0])).mean, whole.mean[[0, 0]])


@pytest.mark.parametrize("step", [Ancestral(1.0), Ancestral(0.0), DPMSolverPP(2)])
def test_a_guided_run_is_that_of_times_a_sample(step):
    model, x, ctx, times = ClassifierFree(model_of(), 1.5), numbers(3), context(3), uniform_times(8)
    shared = sample(model, x, times, step, ctx, rng=Rng(0, 3))
    grid = torch.tensor(times, dtype=torch.float64)[:, None].expand(-1, 3)
    torch.testing.assert_close(shared, sample(model, x, grid, step, ctx, rng=Rng(0, 3)), rtol=1e-7, atol=1e-7)
