"""Losses, order of data, averages, the trainer, exact resume, objectives."""

import copy
import json
import math
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from torch import nn

from polydiff.core.data import Context, Rng
from polydiff.core.denoisers import FunctionDenoiser, Model, TokenLogits, VPrediction, X0Prediction
from polydiff.core.distributions import Normal
from polydiff.core.oracles import ExactTokens
from polydiff.core.processes import Bridge, Discrete, Flow, Gaussian
from polydiff.core.schedules import Cosine
from polydiff.core.training import (
    EMA,
    P2,
    SNR,
    Batch,
    Batches,
    Denoising,
    EDMWeight,
    Flat,
    LogitNormal,
    LogNormalSigma,
    Loss,
    MinibatchOT,
    MinSNR,
    NonFinite,
    Objective,
    Phase,
    Sigmoid,
    Trainer,
    Uniform,
    VelocityWeight,
    VWeight,
    WarmupCosine,
)
from polydiff.core.training.couplings import assignment
from polydiff.core.training.runs import digest


class Regression(Objective):
    """Least squares with noise on the targets and a mask of unequal size: everything a trainer must get right."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
        with torch.no_grad():
            for p in self.net.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, batch, rng):
        x = batch.x0
        target = x[:, :1] + 0.1 * rng.normal(x[:, :1])
        return Loss.masked((self.net(x) - target) ** 2, batch.ctx.valid, {})

    def after_step(self, step):
        self.calls += 1


def data(n=64):
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, 4, generator=g), torch.rand(n, 1, generator=g) < 0.7


def trainer(objective, **options):
    phase = Phase(objective, torch.optim.AdamW(objective.parameters(), lr=1e-2), schedule=WarmupCosine(5, 60))
    return Trainer([phase], ema=EMA(objective, 0.9), progress=False, **options)


def batches(**options):
    x, valid = data()
    return Batches(x, ctx=Context(valid=valid), batch_size=options.pop("batch_size", 8), seed=3, **options)


# ------------------------------------------------------------------ losses


def test_loss_divides_once():
    a = Loss({"x": (torch.tensor(6.0), torch.tensor(2.0)), "y": (torch.tensor(1.0), torch.tensor(1.0))}, {"y": 0.5})
    b = Loss({"x": (torch.tensor(3.0), torch.tensor(7.0)), "y": (torch.tensor(5.0), torch.tensor(3.0))}, {"y": 0.5})
    assert float(a.value) == pytest.approx(3 + 0.5)
    assert float(Loss.sum([a, b]).value) == pytest.approx(9 / 9 + 0.5 * 6 / 4)


def test_loss_of_nothing_is_zero_not_nan():
    none = Loss.masked(torch.full((2, 3), math.nan), torch.zeros(2, 3, dtype=torch.bool), {})
    assert float(none.value) == 0


def test_accumulated_micro_batches_are_one_large_batch():
    """Also with masks of unequal size: the divisor is the count of all of them."""
    whole, parts = Regression(), Regression()

    class Quiet(Regression):
        def forward(self, batch, rng):
            return Loss.masked((self.net(batch.x0) - batch.x0[:, :1]) ** 2, batch.ctx.valid, {})

    whole, parts = Quiet(), Quiet()
    x, valid = data(32)
    one = Batches(x, ctx=Context(valid=valid), batch_size=32, seed=0)

    class Split(Batches):
        def rows(self, step):
            return one.rows(step // 4)[8 * (step % 4) : 8 * (step % 4) + 8]

    trainer(whole).fit(one, 5)
    trainer(parts, accumulate=4).fit(Split(x, ctx=Context(valid=valid), batch_size=8, seed=0), 5)
    for p, q in zip(whole.parameters(), parts.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------ data order


def test_order_is_a_pure_function_of_seed_and_epoch():
    x = torch.arange(10.0)[:, None]
    a, b = Batches(x, batch_size=3, seed=5), Batches(x, batch_size=3, seed=5)
    steps = [7, 0, 4, 7, 2]
    assert all(torch.equal(a.rows(s), b.rows(s)) for s in steps)
    epoch = torch.cat([a.rows(s) for s in range(3)])
    assert len(epoch.unique()) == 9
    assert not torch.equal(epoch, torch.cat([a.rows(s) for s in range(3, 6)]))
    assert not torch.equal(a.rows(0), Batches(x, batch_size=3, seed=6).rows(0))


def test_conditions_travel_with_their_samples():
    x = torch.arange(10.0)[:, None]
    batch = Batches(x, cond={"label": torch.arange(10)}, batch_size=4).batch(3)
    assert torch.equal(batch.x0[:, 0].long(), batch.ctx.cond["label"])


@pytest.mark.parametrize("size", [0, 11])
def test_impossible_batch_sizes_are_refused(size):
    with pytest.raises(ValueError, match="batch_size"):
        Batches(torch.zeros(10, 1), batch_size=size)


# ------------------------------------------------------------------ averages


def test_ema_agrees_with_torch_and_its_closed_form():
    net = nn.Linear(3, 2)
    ours = EMA(net, 0.9, warmup=False)
    theirs = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    theirs.update_parameters(net)  # its first call copies
    for _ in range(5):
        with torch.no_grad():
            for p in net.parameters():
                p.add_(1.0)
        ours.update()
        theirs.update_parameters(net)
    for name, p in theirs.module.named_parameters():
        torch.testing.assert_close(ours.average[name], p)


def test_ema_stores_and_restores():
    net = nn.Linear(3, 2)
    ema = EMA(net, 0.5)
    raw = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        net.weight.add_(1.0)
    ema.update()
    ema.store()
    ema.copy_to()
    assert not torch.equal(net.weight, raw["weight"] + 1)
    ema.restore()
    assert torch.equal(net.weight, raw["weight"] + 1)
    with pytest.raises(ValueError, match="store"):
        ema.restore()


# ------------------------------------------------------------------ the trainer


def test_training_learns_and_reports():
    objective = Regression()
    run = trainer(objective).fit(batches(), 60)
    assert run["loss"][-1] < 0.3 * run["loss"][0]
    assert run.records[-1]["samples"] == 480
    assert float(objective.calls) == 60


def test_global_state_is_untouched():
    run, source = trainer(Regression()), batches()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    before = (
        torch.get_rng_state(),
        np.random.get_state()[1].tolist(),
        random.getstate(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
    )
    run.fit(source, 5)
    after = (
        torch.get_rng_state(),
        np.random.get_state()[1].tolist(),
        random.getstate(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
    )
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@pytest.mark.parametrize("where", ["data", "weight", "gradient"])
def test_non_finite_numbers_stop_the_run_before_the_optimiser(tmp_path, where):
    objective = Regression()
    run = trainer(objective, run_dir=tmp_path, checkpoint_every=1)
    run.fit(batches(), 3)
    good = copy.deepcopy(objective.state_dict())
    again = trainer(objective, run_dir=tmp_path, checkpoint_every=1)
    source = batches()
    if where == "data":
        source.data = source.data.clone()
        source.data[source.rows(4)] = math.inf
    elif where == "gradient":
        objective.net[0].weight.register_hook(lambda g: g * math.nan)
    else:
        source.transform = lambda b, r: (objective.net[2].weight.data.fill_(math.nan), b)[1]
    with pytest.raises(NonFinite, match=r"step \d+: .*not finite.*not stepped"):
        again.fit(source, 10)
    fresh = Regression()
    third = trainer(fresh, run_dir=tmp_path)
    third.run.load(third)
    assert third.step >= 3
    assert all(bool(v.isfinite().all()) for v in fresh.state_dict().values())
    assert set(good) == set(fresh.state_dict())


def test_a_failing_callback_is_dropped_and_training_goes_on():
    seen = []

    def tracker(run, step, logs):
        seen.append(step)
        raise RuntimeError("service down")

    with pytest.warns(UserWarning, match="service down"):
        trainer(Regression(), callbacks=[tracker]).fit(batches(), 30)
    assert seen == [1]


def test_a_callback_ends_the_run_and_a_second_fit_goes_on():
    run = trainer(Regression(), callbacks=[lambda t, step, logs: t.stop() if step == 20 else None])
    assert run.fit(batches(), 100).records[-1]["step"] == 20
    run.callbacks.clear()
    assert run.fit(batches(), 30).records[-1]["step"] == 30


def test_two_phases_take_turns():
    """A game: the second phase repeats twice a step; each trains its own parameters."""
    calls = []

    class Part(Regression):
        def __init__(self, name, seed):
            super().__init__(seed)
            self.name = name

        def forward(self, batch, rng):
            calls.append(self.name)
            return super().forward(batch, rng)

    a, b = Part("a", 0), Part("b", 1)
    phases = [Phase(o, torch.optim.SGD(o.parameters(), lr=0.1), repeat=r) for o, r in ((a, 1), (b, 2))]
    Trainer(phases, progress=False).fit(batches(), 3)
    assert calls == ["a", "b", "b"] * 3


def test_log_has_one_json_object_a_line(tmp_path):
    trainer(Regression(), run_dir=tmp_path, log_every=5).fit(batches(), 20)
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [1, 5, 10, 15, 20]


def test_wall_clock_budget_ends_a_run():
    begin = time.monotonic()
    run = trainer(Regression())
    run.fit(batches(), 10**9, seconds=0.5)
    assert time.monotonic() - begin < 5
    assert run.step > 0


# ------------------------------------------------------------------ exact resume


def finished(tmp, **options):
    objective = Regression()
    run = trainer(objective, run_dir=tmp, checkpoint_every=7, **options)
    run.fit(batches(), 60)
    return digest(run)


def test_interrupted_and_resumed_is_bit_equal(tmp_path):
    exact = finished(tmp_path / "whole")
    objective = Regression()
    half = trainer(objective, run_dir=tmp_path / "half", checkpoint_every=7)
    half.fit(batches(), 31)
    assert finished(tmp_path / "half") == exact
    assert finished(tmp_path / "whole") == exact, "a finished run stays as it is"


def test_resume_refuses_another_run_by_name(tmp_path):
    trainer(Regression(), run_dir=tmp_path, fingerprint={"width": 16}).fit(batches(), 3)
    with pytest.raises(ValueError, match="width was 16 and is 32"):
        trainer(Regression(), run_dir=tmp_path, fingerprint={"width": 32}).fit(batches(), 5)
    with pytest.raises(ValueError, match="seed"):
        trainer(Regression(), run_dir=tmp_path, fingerprint={"width": 16}, seed=4).fit(batches(), 5)
    with pytest.raises(ValueError, match="no whole checkpoint"):
        trainer(Regression(), run_dir=tmp_path / "none", resume="must").fit(batches(), 5)


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path):
    exact = finished(tmp_path / "whole")
    trainer(Regression(), run_dir=tmp_path / "half", checkpoint_every=7).fit(batches(), 31)
    newest = sorted((tmp_path / "half").glob("step-*"))[-1]
    (newest / "objective.safetensors").write_bytes(b"damaged")
    assert finished(tmp_path / "half") == exact


WORKER = textwrap.dedent("""
    import sys, time, torch
    sys.path.insert(0, {here!r})
    torch.set_num_threads(1)
    import importlib.util
    spec = importlib.util.spec_from_file_location("training_tests", {file!r})
    m = importlib.util.module_from_spec(spec); spec.loader.exec_module(m)
    objective = m.Regression()
    run = m.trainer(objective, run_dir=sys.argv[1], checkpoint_every=3, callbacks=[lambda *a: time.sleep(0.02)], log_every=1)
    print("ready", flush=True)
    run.fit(m.batches(), 60)
    print(m.digest(run), flush=True)
""")


def run_worker(folder, kill_after=None):
    here = os.path.dirname(__file__)
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER.format(here=here, file=__file__), str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout.readline().strip() == "ready"
    if kill_after is not None:
        time.sleep(kill_after)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        return None
    out = worker.communicate(timeout=120)[0].strip()
    assert worker.returncode == 0
    return out


@pytest.mark.slow
def test_killed_ten_times_the_run_ends_in_the_same_bits(tmp_path):
    """kill −9 at ten random moments, each time resumed; weights, averages and optimiser state hash the same."""
    exact = run_worker(tmp_path / "whole")
    moments = random.Random(0)
    for _ in range(10):
        run_worker(tmp_path / "killed", kill_after=moments.uniform(0.02, 0.35))
    assert run_worker(tmp_path / "killed") == exact


# ------------------------------------------------------------------ the denoising objective


def test_weights_are_those_of_the_papers():
    """Each weight on the x_0 error equals the paper's loss on its own prediction, checked on one error."""
    l = torch.tensor([-3.0, 0.0, 2.0], dtype=torch.float64)
    a, g = l.sigmoid().sqrt(), (-l).sigmoid().sqrt()
    x0, guess, z = 0.3, 0.9, -0.7
    x_t = a * x0 + g * z
    eps = (x_t - a * guess) / g
    v, true_v = a * eps - g * guess, a * z - g * x0
    error = (guess - x0) ** 2
    torch.testing.assert_close(SNR()(l) * error, (eps - z) ** 2)
    torch.testing.assert_close(VWeight()(l) * error, (v - true_v) ** 2)
    sigma = (-l / 2).exp()
    torch.testing.assert_close(EDMWeight(0.5)(l), (sigma**2 + 0.25) / (sigma * 0.5) ** 2)
    torch.testing.assert_close(MinSNR(5.0)(l), torch.minimum(l.exp(), torch.tensor(5.0, dtype=torch.float64)))
    torch.testing.assert_close(P2(1.0, 1.0)(l) * error, (eps - z) ** 2 / (1 + l.exp()))
    torch.testing.assert_close(Sigmoid(1.0)(l) * error, (1.0 - l).sigmoid() * (eps - z) ** 2)
    u = 1 / (1 + (0.5 * l).exp())
    velocity = ((1 - u) * x0 + u * z - guess) / u - (z - x0)  # (x_t − x̂_0)/u − (z − x_0) of the rectified flow
    torch.testing.assert_close(VelocityWeight()(l) * error, velocity**2)
    assert bool((Flat()(l) == 1).all())


@pytest.mark.parametrize("law", [Uniform(), Uniform(0.2, 0.6), LogitNormal(0.3, 0.8), LogNormalSigma()], ids=repr)
def test_time_laws_are_stratified_draws_of_their_quantiles(law):
    process, n = Gaussian(Cosine()), 1000
    t = law(process, torch.zeros(n, 1, dtype=torch.float64), Rng(0)).sort().values
    edges = law.quantile(process, torch.arange(n + 1, dtype=torch.float64) / n)
    assert bool((t >= edges[:-1]).all())
    assert bool((t <= edges[1:]).all())


def test_ot_coupling_is_optimal_and_keeps_both_marginals():
    ot = pytest.importorskip("ot")
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 3, generator=g, dtype=torch.float64), torch.randn(40, 3, generator=g, dtype=torch.float64)
    p = assignment(x, y)
    assert len(p.unique()) == 40
    exact = ot.emd2(
        torch.full((40,), 1 / 40).double().numpy(),
        torch.full((40,), 1 / 40).double().numpy(),
        ot.dist(x.numpy(), y.numpy()),
    )
    assert float(((x - y[p]) ** 2).sum(1).mean()) == pytest.approx(float(exact), rel=1e-6)


def test_ot_coupling_within_classes_exchanges_no_sources_between_them():
    x0 = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    label = torch.arange(60) % 3
    flow = Flow()
    plain = flow.prior(x0, Context()).sample(Rng(4))
    ctx = MinibatchOT(within="label")(flow, x0, Context(cond={"label": label}), Rng(4))
    for k in range(3):
        before, after = plain[label == k].sort(0).values, ctx.x1[label == k].sort(0).values
        assert torch.equal(before, after)
    straight = ((ctx.x1 - x0) ** 2).sum() < ((plain - x0) ** 2).sum()
    assert bool(straight)


def test_coupled_source_is_hidden_unless_the_process_observes_it():
    seen = []

    def spy(process):
        return FunctionDenoiser(process, lambda x, t, ctx: (seen.append(ctx.x1), Normal(x))[1])

    x0 = torch.zeros(6, 2)
    Denoising(spy(Flow()), coupling=MinibatchOT())(Batch(x0), Rng(0))
    Denoising(spy(Bridge()))(Batch(x0, Context(x1=torch.ones(6, 2))), Rng(0))
    assert seen[0] is None
    assert torch.equal(seen[1], torch.ones(6, 2))


def test_garbage_in_padding_and_known_entries_changes_nothing():
    """Loss and gradient are bit-equal whatever stands in entries that do not count."""
    valid = torch.tensor([[True, True, False, False]] * 8)
    clean = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    results = []
    for junk in (0.0, 1e6):
        net = nn.Linear(4, 4)
        with torch.no_grad():
            net.weight.fill_(0.1), net.bias.fill_(0.2)

        def network(x, level, ctx, net=net):
            return net(torch.where(ctx.valid, x, 0.0))

        model = Model(network, Gaussian(Cosine()), VPrediction())
        loss = Denoising(model)(Batch(torch.where(valid, clean, junk), Context(valid=valid)), Rng(0)).value
        loss.backward()
        results.append((float(loss), net.weight.grad.clone()))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_known_entries_are_clean_in_the_input_and_free_in_the_loss():
    seen = {}

    def network(x, level, ctx):
        seen.update(x=x, known=ctx.known)
        return torch.zeros_like(x)

    model = Model(network, Gaussian(Cosine()), X0Prediction(), sees_known=True)
    mask = torch.tensor([[True, False, False]] * 5)
    x0 = torch.arange(15.0).reshape(5, 3)
    loss = Denoising(model, known=lambda x, rng: mask)(Batch(x0), Rng(0))
    assert torch.equal(seen["x"][:, 0], x0[:, 0])
    assert float(loss.terms["loss"][1]) == 10
    assert float(loss.terms["loss"][0]) == pytest.approx(float((x0[:, 1:] ** 2).sum()))
    with pytest.raises(ValueError, match="sees_known"):
        Denoising(Model(network, Gaussian(Cosine()), X0Prediction()), known=lambda x, rng: mask)


def test_conditions_are_dropped_at_their_rate():
    seen = []
    model = Model(
        lambda x, level, ctx: (seen.append(ctx.cond["label"]), torch.zeros_like(x))[1],
        Gaussian(Cosine()),
        X0Prediction(),
        null={"label": 9},
    )
    Denoising(model, drop=0.3)(Batch(torch.zeros(4000, 1), Context(cond={"label": torch.arange(4000) % 9})), Rng(0))
    assert float((seen[0] == 9).float().mean()) == pytest.approx(0.3, abs=0.04)


def test_token_training_on_its_bound_is_unbiased(table):
    """The mean of the bound under the exact posterior is the entropy of one token, within four standard errors."""
    p = table.sum(1)
    for process in (Discrete.absorbing(3), Discrete.uniform(3)):
        oracle, draws = ExactTokens(p, process), []
        for seed in range(8):
            g = torch.Generator().manual_seed(seed)
            x0 = torch.multinomial(p, 30_000, replacement=True, generator=g)[:, None]
            loss = Denoising(oracle, weight="bound", times=Uniform(1e-3, 1.0))(Batch(x0), Rng(seed))
            draws.append(float(loss.value) * (1 - 1e-3))
        error = float(np.std(draws, ddof=1)) / math.sqrt(8)
        assert error < 0.02
        assert float(np.mean(draws)) == pytest.approx(oracle.entropy(), abs=4 * error)


def test_a_small_token_model_learns_its_table(table):
    process = Discrete.absorbing(3)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Sequential(nn.Linear(8, 64), nn.SiLU(), nn.Linear(64, 6))

        def forward(self, x, level, ctx):
            return self.f(nn.functional.one_hot(x, 4).flatten(1).float()).unflatten(1, (2, 3))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net()
    model = Model(net, process, TokenLogits())
    picks = torch.multinomial(table.flatten(), 4096, replacement=True, generator=torch.Generator().manual_seed(0))
    x0 = torch.stack([picks // 3, picks % 3], 1)
    objective = Denoising(model)
    Trainer([Phase(objective, torch.optim.Adam(net.parameters(), lr=5e-3))], progress=False).fit(
        Batches(x0, batch_size=256), 400
    )
    masked = torch.tensor([[0, 3], [1, 3], [2, 3]])
    got = model(masked, 0.5, Context()).inner.probs[:, 1]
    torch.testing.assert_close(got, (table / table.sum(1, keepdim=True)).float(), rtol=0, atol=0.06)
