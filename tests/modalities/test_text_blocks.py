"""The transformer of block diffusion: the cache, no leaks, a training, the speed."""

import time

import pytest
import torch

from polydiff.core.data import Context, Rng, index
from polydiff.core.denoisers import Model, TokenLogits
from polydiff.core.evaluation.block_bound import block_nelbo
from polydiff.core.guidance import ClassifierFree
from polydiff.core.processes import Discrete
from polydiff.core.sampling import Ancestral, Chain, FirstHitting
from polydiff.core.sampling.blocks import Blocks
from polydiff.core.schedules import uniform_times
from polydiff.core.training import Batches, Denoising
from polydiff.core.training.per_block import PerBlock
from polydiff.core.training.times import Uniform
from polydiff.text.blocks import BlockTransformer, block_mask, with_clean
from polydiff.text.networks import TextTransformer

V, L, SIZE, B = 5, 10, 4, 3  # two blocks of 4 and one of 2
PLAIN, RICH = {}, {"time": True, "num_classes": 2}
LABEL = {"label": torch.tensor([0, 2, 1])}


def network(dtype=torch.float64, size=SIZE, depth=3, **options):
    """Random weights everywhere: new ones end in zeros and would say nothing."""
    torch.manual_seed(0)
    net = BlockTransformer(V + 1, V, size, width=16, depth=depth, heads=2, **options)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.5 / max(p.shape[-1], 1) ** 0.5 if p.ndim > 1 else 0.3)
    return net.to(dtype).eval()


def tokens(seed=0, states=V):
    return torch.randint(0, states, (B, L), generator=torch.Generator().manual_seed(seed))


def levels(options):
    t = torch.tensor([0.2, 0.5, 0.9])
    return (t[:, None] + torch.tensor([0.0, 0.05, -0.1])).repeat_interleave(SIZE, 1)[:, :L] if options else t


def full(net, clean, noisy, options):
    return net(noisy, levels(options), Context(cond={"clean": clean, **(LABEL if options else {})}))


def cached(net, clean, noisy, options):
    out, memory = [], None
    for a in range(0, L, SIZE):
        level = levels(options)[:, a] if options else levels(options)
        ctx = Context(cond=LABEL if options else {}, memory=memory)
        out.append(net(noisy[:, a : a + SIZE], level, ctx))
        memory = net.remember(clean[:, a : a + SIZE], memory)
    return torch.cat(out, 1)


@pytest.mark.parametrize("options", [PLAIN, RICH], ids=["plain", "rich"])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@torch.no_grad()
def test_the_cache_equals_the_full_pass(options, dtype, limit):
    net, clean, noisy = network(dtype, **options), tokens(), tokens(1, V + 1)
    whole = full(net, clean, noisy, options)
    assert whole.shape == (B, L, V) and float(whole.std()) > 0.1
    assert float((cached(net, clean, noisy, options) - whole).abs().max()) < limit


@pytest.mark.parametrize("options", [PLAIN, RICH], ids=["plain", "rich"])
@torch.no_grad()
def test_nothing_leaks(options):
    """Logits of a noisy block depend on clean earlier blocks and their own noisy one, and on nothing else."""
    net, clean, noisy = network(**options), tokens(), tokens(1, V + 1)
    base = full(net, clean, noisy, options)
    for at in range(L):
        other = clean.clone()
        other[:, at] = (other[:, at] + 1) % V
        moved = (full(net, other, noisy, options) - base).abs().amax((0, 2)) > 0
        assert moved.tolist() == [i // SIZE > at // SIZE for i in range(L)]
        other = noisy.clone()
        other[:, at] = (other[:, at] + 1) % (V + 1)
        moved = (full(net, clean, other, options) - base).abs().amax((0, 2)) > 0
        assert moved.tolist() == [i // SIZE == at // SIZE for i in range(L)]


def test_the_mask_of_two_blocks():
    rows = ["1000000", "1110000", "1110000", "1111100", "1111100"]  # the clean copy of sizes 2 + 2, behind a start
    mask = block_mask(4, 2)
    assert ["".join(str(int(v)) for v in row[:7]) for row in mask[:5]] == rows
    noisy = ["100001100", "100001100", "111000011", "111000011"]
    assert ["".join(str(int(v)) for v in row) for row in mask[5:]] == noisy


@pytest.mark.parametrize("options", [PLAIN, RICH], ids=["plain", "rich"])
@torch.no_grad()
def test_a_block_of_the_whole_length_is_a_text_transformer(options):
    """The same weights, the same logits, where the start has no second layer in which to look at the noisy tokens."""
    net = network(size=L, depth=1, **options)
    plain = TextTransformer(V + 1, V, width=16, depth=1, heads=2, **options).double()
    plain.load_state_dict(net.state_dict())
    noisy, calm = tokens(1, V + 1), Context(cond={"label": torch.full((B,), 2)})
    assert float((net(noisy, torch.zeros(B), calm) - plain(noisy, torch.zeros(B), calm)).abs().max()) < 1e-12


@torch.no_grad()
def test_many_blocks_are_remembered_as_one_by_one():
    net, clean = network(), tokens()
    memory = net.remember(clean[:, 4:8], net.remember(clean[:, :4], {"other": 1}))
    at_once = net.remember(clean[:, :8], None)
    assert memory["other"] == 1 and at_once["keys"].shape == (B, 3, 2, 9, 8)
    for name in ("keys", "values"):
        assert torch.allclose(memory[name], at_once[name], atol=1e-12, rtol=0)
        assert index(memory, [2, 0])[name].shape[0] == 2


def model(net, **options):
    return Model(net, Discrete.absorbing(V), TokenLogits(), sees_known=True, **options)


@torch.no_grad()
def test_seeds_belong_to_samples_and_prompts_stay():
    net = network()
    sampler = Blocks([1.0, 0.0], FirstHitting(), SIZE, net.remember)
    known = torch.arange(L).expand(B, L) < torch.tensor([[0], [5], [9]])
    ctx, like = Context(known=known, given=tokens()), torch.zeros(B, L, dtype=torch.long)
    whole = sampler(model(net), like, ctx, Rng(0, B))
    assert bool((whole[known] == tokens()[known]).all()) and bool((whole < V).all())
    alone = [sampler(model(net), like[:1], index(ctx, slice(i, i + 1)), Rng(0, [i])) for i in range(B)]
    assert bool((torch.cat(alone) == whole).all())


@torch.no_grad()
def test_one_cache_serves_both_sides_of_guidance():
    """What is remembered knows no label: the guided law of a block is the blend of its two laws behind one cache."""
    net, ctx = network(**RICH), Context(cond=LABEL)
    guided, null = model(net, null={"label": 2}), torch.full((B,), 2)
    ctx = ctx.replace(memory=net.remember(tokens()[:, :SIZE], None))
    x_t = torch.full((B, SIZE), V)
    one, none = (guided(x_t, 0.9, c).inner.log_probs for c in (ctx, ctx.replace(cond={"label": null})))
    blend = ClassifierFree(guided, 2.0)(x_t, 0.9, ctx).inner.log_probs
    assert torch.allclose(blend, (2 * one - none).log_softmax(-1), atol=1e-12, rtol=0)
    assert float((one - none).abs().max()) > 1e-3
    sampler = Blocks(uniform_times(3), Ancestral(), SIZE, net.remember)
    x = sampler(ClassifierFree(guided, 2.0), torch.zeros(B, L, dtype=torch.long), Context(cond=LABEL), Rng(0, B))
    assert x.shape == (B, L) and bool((x < V).all())


def test_bad_calls_are_refused():
    net, t = network(), torch.full((B,), 0.5)
    with pytest.raises(ValueError, match="block of 4"):
        net(tokens(), t, Context())
    with pytest.raises(ValueError, match="padding"):
        net(tokens(), t, Context(valid=torch.ones(B, L, dtype=torch.bool)))
    with pytest.raises(ValueError, match="ends inside a block"):
        net.remember(tokens(), net.remember(tokens()[:, :3], None))
    with pytest.raises(ValueError, match="size=0"):
        BlockTransformer(V + 1, V, 0)
    with pytest.raises(ValueError, match="built with labels"):
        network(**RICH)(tokens()[:, :4], t, Context())


def test_training_learns_to_read_the_past():
    """Four free tokens, then every token is the one four places back plus one: 4 log 5 nats a text, and no less.

    The rule crosses blocks: without the past every token would cost log 5.
    """
    torch.manual_seed(0)
    length, floor = 12, 4 * torch.tensor(5.0).log()
    head = torch.randint(0, V, (2000, 4), generator=torch.Generator().manual_seed(0))
    data = torch.cat([(head + i) % V for i in range(3)], 1)
    net = BlockTransformer(V + 1, V, SIZE, width=32, depth=2, heads=2)
    denoiser = model(net)
    objective = Denoising(denoiser, times=PerBlock(Uniform(), SIZE), weight="bound")
    batches = Batches(data, batch_size=64, transform=with_clean)
    optimiser = torch.optim.AdamW(net.parameters(), lr=6e-3)
    for step in range(140):
        loss = objective(batches.batch(step), Rng(0).child(step)).value
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        nats = float(block_nelbo(denoiser, data[:200], SIZE, rng=Rng(1), draws=4).mean())
        sampler = Blocks([1.0, 0.0], FirstHitting(), SIZE, net.remember)
        x = sampler(denoiser, torch.zeros(200, length, dtype=torch.long), Context(), Rng(2, 200))
    print(f"{nats:.3f} nats a text, floor {float(floor):.3f}, without the past {3 * float(floor):.3f}")
    assert float(floor) - 0.1 < nats < float(floor) + 0.6
    follows = (x[:, 4:] == (x[:, :-4] + 1) % V).double().mean()
    assert float(follows) > 0.97


@pytest.mark.slow
@torch.no_grad()
def test_a_cache_is_faster_than_the_whole_sequence():
    """Tokens a second at 256 tokens and half a step a token, against ancestral sampling of the same-size transformer."""
    length, size, steps, n = 256, 16, 8, 2
    options = {"width": 64, "depth": 3, "heads": 4}
    blocks, plain = BlockTransformer(33, 32, size, **options).eval(), TextTransformer(33, 32, **options).eval()
    runs = {
        "blocks": (blocks, Blocks(uniform_times(steps), Ancestral(), size, blocks.remember)),
        "whole": (plain, Chain(uniform_times(steps * length // size), Ancestral())),
    }
    like, speed = torch.zeros(n, length, dtype=torch.long), dict.fromkeys(runs, 0.0)
    for turn in range(3):
        for name, (net, sampler) in runs.items():
            denoiser = Model(net, Discrete.absorbing(32), TokenLogits())
            start = time.perf_counter()
            sampler(denoiser, like, Context(), Rng(turn, n))
            if turn:
                speed[name] = max(speed[name], n * length / (time.perf_counter() - start))
    ratio = speed["blocks"] / speed["whole"]
    print(f"blocks {speed['blocks']:.0f}, whole {speed['whole']:.0f} tokens a second: {ratio:.1f} times")
    assert ratio > 2
