"""Trees, contexts, streams of noise."""

from dataclasses import dataclass

import pytest
import torch

from polydiff.core.data import Context, Rng, batch_size, index, left, masked_sum, match_time, tree_map


def test_noise_of_a_sample_does_not_depend_on_the_batch():
    for shape in ((1,), (5,), (3, 8, 8), (5000,)):
        whole = Rng(7, 64)
        draws = [whole.normal(torch.zeros(64, *shape)) for _ in range(3)]
        for size, start in ((1, 13), (7, 20), (30, 34)):
            part = Rng(7, range(start, start + size))
            for draw in draws:
                assert torch.equal(part.normal(torch.zeros(size, *shape)), draw[start : start + size])


def test_noise_does_not_depend_on_order_or_kind_drawn_before():
    a, b = Rng(1, 4), Rng(1, [3, 2, 1, 0])
    x = a.normal(torch.zeros(4, 6))
    assert torch.equal(b.normal(torch.zeros(4, 6)).flip(0), x)
    c = Rng(1, 4)
    c.uniform(torch.zeros(4, 9))
    assert torch.equal(c.normal(torch.zeros(4, 6)), x)


def test_seeds_slots_children_and_draws_differ():
    like = torch.zeros(3, 50)
    base = Rng(0, 3)
    draws = [
        base.normal(like),
        base.normal(like),
        Rng(1, 3).normal(like),
        Rng(0, 3).child("a").normal(like),
        Rng(0, 3).child("b").normal(like),
    ]
    flat = torch.stack(draws).flatten(0, 1)
    assert float((flat @ flat.T / 50 - torch.eye(15) * (flat**2).mean(1)).abs().max()) < 0.75
    assert len({tuple(r.tolist()) for r in flat}) == 15


def test_noise_is_standard():
    z = Rng(0, 500).normal(torch.zeros(500, 1000))
    assert float(z.mean()) == pytest.approx(0, abs=0.01)
    assert float(z.var()) == pytest.approx(1, abs=0.01)
    u = Rng(0, 500).uniform(torch.zeros(500, 1000))
    assert u.dtype == torch.float64
    assert 0 <= float(u.min()) < 1e-4
    assert 1 > float(u.max()) > 1 - 1e-4
    assert Rng(0, 2).normal(torch.zeros(2, 3, dtype=torch.float64)).dtype == torch.float64


def test_rows_past_the_slots_get_streams_of_their_own():
    x = Rng(0, 2).normal(torch.zeros(5, 8))
    assert len({tuple(r.tolist()) for r in x}) == 5


def test_the_global_generator_is_untouched():
    before = torch.get_rng_state()
    Rng(0, 4).normal(torch.zeros(4, 5))
    Rng(0).uniform(torch.zeros(4, 5))
    assert torch.equal(torch.get_rng_state(), before)


def test_empty_batches_are_allowed():
    assert Rng(0, 0).normal(torch.zeros(0, 3)).shape == (0, 3)


def test_left_broadcasts_times_over_trailing_axes():
    x = torch.zeros(2, 3, 4)
    assert left(torch.ones(2), x).shape == (2, 1, 1)
    assert left(torch.ones(2, 3), x).shape == (2, 3, 1)
    assert left(0.5, x) == 0.5


def test_match_time_keeps_the_dtype_of_the_data():
    assert match_time(0.5, torch.zeros(3, 2, dtype=torch.float64)).dtype == torch.float64
    assert match_time(0.5, torch.zeros(3, 2, dtype=torch.long)).dtype == torch.float32
    assert match_time(0.25, {"a": torch.zeros(3)}).tolist() == [0.25] * 3


def test_masked_sum_is_blind_to_what_is_masked():
    x = torch.tensor([[1.0, float("nan")], [2.0, 3.0]])
    mask = torch.tensor([[True, False], [True, True]])
    assert masked_sum(x, mask).tolist() == [1.0, 5.0]


@dataclass(frozen=True)
class Box:
    x: torch.Tensor
    scale: float
    table: torch.Tensor
    shared = ("table",)


def test_index_reaches_into_everything_but_what_is_shared():
    tree = {"a": [torch.arange(4)], "b": (Box(torch.arange(4), 2.0, torch.zeros(9)), "text", None)}
    picked = index(tree, torch.tensor([2, 0, 0]))
    assert picked["a"][0].tolist() == [2, 0, 0]
    box, text, none = picked["b"]
    assert box.x.tolist() == [2, 0, 0]
    assert (box.scale, len(box.table), text, none) == (2.0, 9, "text", None)


def test_contexts_grow_with_their_batch():
    """Selecting more rows than there were keeps conditions aligned, as branching needs."""
    ctx = Context(cond={"y": torch.arange(2), "shared": "x"}, known=torch.tensor([[True], [False]]))
    grown = index(ctx, torch.tensor([0, 0, 1, 1]))
    assert grown.cond["y"].tolist() == [0, 0, 1, 1]
    assert grown.cond["shared"] == "x"
    assert grown.known.shape == (4, 1)


def test_hold_and_scored():
    x = {"a": torch.zeros(2, 3), "b": torch.zeros(2, 2, dtype=torch.long)}
    known = {"a": torch.tensor([[True, False, False]] * 2)}
    given = {"a": torch.full((2, 3), 5.0), "b": torch.zeros(2, 2)}
    ctx = Context(known=known, given=given, valid={"b": torch.tensor([[True, False]] * 2)})
    held = ctx.hold(x)
    assert held["a"][:, 0].tolist() == [5, 5]
    assert held["b"] is x["b"]
    scored = ctx.scored()
    assert scored["a"].tolist() == [[False, True, True]] * 2
    assert scored["b"].tolist() == [[True, False]] * 2
    assert Context().scored() is None
    wide = Context(valid=torch.tensor([[True, False]]), known=torch.zeros(1, 2, 3, dtype=torch.bool)).scored()
    assert wide.shape == (1, 2, 3)
    assert int(wide.sum()) == 3
    with pytest.raises(ValueError, match="holds no values"):
        Context(known=torch.ones(1, 1, dtype=torch.bool)).hold(torch.zeros(1, 1))


def test_trees_map_by_field():
    out = tree_map(lambda a, b: (a, b), {"x": torch.zeros(1), "y": torch.zeros(1)}, {"x": 3})
    assert (out["x"][1], out["y"][1]) == (3, None)
    assert batch_size({"x": torch.zeros(4, 2)}) == 4
