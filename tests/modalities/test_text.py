"""Texts end to end: tokens, verbs, promises, refusals."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from polydiff.core.data import Context, Rng
from polydiff.core.sampling import Ancestral as AncestralStep
from polydiff.core.sampling import Chain, Confident, Lazy, Remask
from polydiff.core.schedules import uniform_times
from polydiff.core.training import CorruptCheckpoint
from polydiff.datasets import python_topics
from polydiff.text import (
    AutoregressiveLM,
    BPETokenizer,
    ByteTokenizer,
    CharTokenizer,
    NGram,
    TextCodec,
    TextConfig,
    TextGenerator,
    distinct,
    overlap,
    recipes,
    token_entropy,
)
from polydiff.text.networks import TextTransformer

CORPUS = python_topics()
TINY = TextConfig(length=24, width=16, depth=1, heads=2, steps=3, batch_size=4, sample_steps=4)
WORDS = ["anna", "hannah", "ian", "nina", "abba", "noah"] * 6


@pytest.fixture(scope="module")
def stream():
    return TextGenerator(TINY).fit(CORPUS[:4000])


@pytest.fixture(scope="module")
def documents():
    config = dataclasses.replace(TINY, length=8)
    return TextGenerator(config).fit(WORDS, ["even" if len(w) % 2 == 0 else "odd" for w in WORDS])


# ------------------------------------------------------------------ tokens


@pytest.mark.parametrize(
    "make", [ByteTokenizer, lambda: CharTokenizer(CORPUS), lambda: BPETokenizer.train([CORPUS[:20000]], 300)]
)
def test_tokenizers_return_the_text(make):
    from polydiff.text.tokenizers import tokenizer_from_config

    tokenizer = make()
    text = CORPUS[1000:1200]
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert 0 <= min(tokens) <= max(tokens) < tokenizer.size
    again = tokenizer_from_config(tokenizer.config())
    assert again.encode(text) == tokens
    assert again.size == tokenizer.size


def test_byte_pairs_are_fewer_than_bytes():
    assert len(BPETokenizer.train([CORPUS], 600).encode(CORPUS[:2000])) < 1300


def test_documents_are_filled_with_ends_and_cut_at_the_first():
    codec = TextCodec.fit(["ab", "abc"], False, kind="char", vocab=0, length=4)
    x = codec.encode(["ab", "cab"])
    assert x.tolist() == [[0, 1, 3, 3], [2, 0, 1, 3]]
    assert codec.decode(torch.tensor([[0, 3, 1, 1]])) == ["a"]
    assert (codec.vocab, codec.mask) == (4, 4)
    with pytest.raises(ValueError, match="masked token"):
        codec.decode(torch.tensor([[0, 4, 1, 1]]))


def test_streams_become_all_their_windows_without_a_copy():
    codec = TextCodec.fit([CORPUS], True, kind="char", vocab=0, length=24)
    x = codec.encode(CORPUS)
    assert x.shape == (len(CORPUS) - 23, 24)
    assert x.untyped_storage().nbytes() == 8 * len(CORPUS)
    assert codec.decode(x[1000:1001]) == [CORPUS[1000:1024]]


def test_corpora_are_read_from_files_bytes_and_iterators(tmp_path):
    (tmp_path / "a.txt").write_text("one naïve line")
    for corpus in (tmp_path / "a.txt", [tmp_path / "a.txt"], "one naïve line", "one naïve line".encode()):
        gen = TextGenerator(dataclasses.replace(TINY, length=6)).fit(corpus, steps=1)
        assert not gen.codec.documents
    assert TextGenerator(dataclasses.replace(TINY, length=6)).fit(iter(["ab", "ba"]), steps=1).codec.documents


# ------------------------------------------------------------------ the network


def test_rotary_network_sees_both_sides_and_the_causal_one_only_the_left():
    for causal in (False, True):
        net = TextTransformer(6, 5, width=16, depth=2, heads=2, causal=causal)
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.3)
        x = torch.zeros(1, 7, dtype=torch.long)
        y = x.clone()
        y[0, 4] = 3
        changed = (net(x, torch.zeros(1), Context()) - net(y, torch.zeros(1), Context())).abs().amax(-1)[0] > 1e-6
        assert changed.tolist() == ([False] * 4 + [True] * 3 if causal else [True] * 7)


def test_padding_does_not_reach_the_others():
    net = TextTransformer(6, 5, width=16, depth=2, heads=2)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x = torch.randint(0, 5, (2, 7), generator=torch.Generator().manual_seed(0))
    valid = torch.arange(7) < 5
    ctx = Context(valid=valid.expand(2, 7))
    other = x.clone()
    other[:, 5:] = 4 - other[:, 5:]
    torch.testing.assert_close(net(x, torch.zeros(2), ctx)[:, :5], net(other, torch.zeros(2), ctx)[:, :5])


# ------------------------------------------------------------------ verbs and promises


@pytest.mark.parametrize("process", ["absorbing", "uniform", "marginal"])
@pytest.mark.parametrize("tokenizer", ["char", "byte"])
def test_every_process_trains_samples_and_scores(process, tokenizer):
    config = dataclasses.replace(TINY, process=process, tokenizer=tokenizer, time=process != "absorbing")
    gen = TextGenerator(config).fit(CORPUS[:2000])
    assert len(gen.sample(2)) == 2
    assert math.isfinite(gen.score(CORPUS[:48], draws=1).bits_per_character)


@pytest.mark.parametrize(
    "sampler",
    [
        Chain(uniform_times(5), Confident("margin")),
        Chain(uniform_times(5), Remask(0.1)),
        Chain(uniform_times(5), Lazy(AncestralStep())),
    ],
)
def test_any_sampler_serves(stream, sampler):
    texts = stream.sample(3, sampler=sampler)
    assert [len(t) for t in texts] == [24] * 3


def test_same_seed_same_texts_at_any_batch_size(stream, documents):
    for gen in (stream, documents):
        for steps in (0, 4):
            whole = gen.sample(7, seed=5, steps=steps)
            assert gen.sample(7, seed=5, steps=steps, batch_size=2) == whole
            assert gen.sample(3, seed=5, steps=steps) == whole[:3] if not gen.codec.classes else True
            assert gen.sample(7, seed=6, steps=steps) != whole


def test_prompts_and_given_text_come_back_untouched(stream, documents):
    prompt = CORPUS[:10]
    assert all(t.startswith(prompt) and len(t) == 20 for t in stream.sample(4, 20, prompt=prompt))
    text = stream.infill("The [MASK*3] of a[MASK]")
    assert text.startswith("The ") and text[7:12] == " of a" and len(text) == 13
    many = documents.infill(["a[MASK]na", "[MASK*2]n"], label=["even", "odd"])
    assert many[0][0] == "a"
    assert many[0][2:] == "na"
    assert len(many[1]) <= 3
    assert documents.infill("anna") == "anna"


def test_saved_models_sample_the_same(stream, documents, tmp_path):
    for i, gen in enumerate((stream, documents)):
        again = TextGenerator.load(gen.save(tmp_path / str(i)))
        assert again.sample(3, seed=2) == gen.sample(3, seed=2)
    path = tmp_path / "0" / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CorruptCheckpoint):
        TextGenerator.load(tmp_path / "0")


def test_score_of_a_model_that_knows_nothing_is_the_uniform_cost(stream):
    """A zero head is uniform: the NELBO is exactly log2(V) a character, with no spread."""
    fresh = TextGenerator(TINY).fit(CORPUS[:4000], steps=1)
    torch.nn.init.zeros_(fresh.model.network.head.weight)
    torch.nn.init.zeros_(fresh.model.network.head.bias)
    score = fresh.score([CORPUS[:100], CORPUS[100:130]])
    assert score.bits_per_character == pytest.approx(math.log2(fresh.codec.vocab), rel=1e-5)
    assert score.standard_error < 1e-5
    torch.testing.assert_close(fresh.log_likelihood([CORPUS[:100]]), -score.nats[:1])


def test_score_agrees_with_the_bound_over_random_times(stream):
    """Levels spread evenly and plain draws of t estimate one number."""
    codec, model = stream.codec, stream.model
    x = codec.encode(CORPUS[:4000])[::500][:4].repeat(400, 1)
    t = (torch.arange(len(x)) + 0.5) / len(x)
    t = t[torch.randperm(len(t), generator=torch.Generator().manual_seed(0))]
    with torch.no_grad():
        x_t = model.process.marginal(x, t).sample(Rng(0))
        bound = model.process.bound(model(x_t, t, Context()), x, x_t, t).sum(1)
    text = [codec.decode(row[None])[0] for row in x[:4]]
    ours = stream.score(text, draws=100).nats
    assert float(bound.mean()) == pytest.approx(float(ours.mean()), rel=0.02)


def test_a_word_that_always_follows_is_learned():
    """Not only that it runs: half a minute of training puts 'u' behind every 'q'."""
    words = ["quiz", "quay", "quip", "aqua", "quad"] * 20
    config = dataclasses.replace(TINY, length=5, width=32, depth=2, steps=500, batch_size=32)
    gen = TextGenerator(config).fit(words)
    assert all(t[1] == "u" for t in gen.infill(["q[MASK]ip"] * 20, seed=1))
    assert sum(t in words for t in gen.sample(40, steps=0)) >= 32


# ------------------------------------------------------------------ judges and metrics


def test_ngram_is_a_law_and_counts_as_it_should():
    gram = NGram(np.array([0, 1, 0, 1, 1, 0]), 2, order=2)
    # unigrams: c(0) = 3, c(1) = 3 and two kinds: (3 + 2 · ½) / 8 = ½ each; after 0: always 1 (twice), one kind
    assert gram.log_prob(np.array([0, 1]))[1] == pytest.approx(math.log((2 + 1 * 0.5) / 3))
    assert gram.log_prob(np.array([1, 1]))[1] == pytest.approx(math.log((1 + 2 * 0.5) / 5))
    big = NGram(np.random.default_rng(0).integers(0, 4, 500), 4, order=3)
    for history in ([0, 1], [3, 3], [2, 0]):
        total = sum(math.exp(big.log_prob(np.array([*history, k]))[-1]) for k in range(4))
        assert total == pytest.approx(1.0)


def test_a_5_gram_model_of_real_text_costs_less_than_a_unigram():
    tokens = np.array(CharTokenizer(CORPUS).encode(CORPUS))
    train, rest = tokens[:400_000], tokens[400_000:]
    five, one = (NGram(train, 103, order).bits_per_token(rest) for order in (5, 1))
    assert five < 2.3 < 4 < one


def test_variety_is_measured():
    assert distinct([[1, 1, 1, 1]], 2) == pytest.approx(1 / 3)
    assert distinct([[1, 2, 3, 4]], 2) == 1.0
    assert token_entropy([[1, 1, 2, 2], [3, 3, 3, 3]]) == 0.5
    assert overlap([[1, 2, 3]], [0, 1, 2, 9], 2) == 0.5


def test_the_autoregressive_model_scores_exactly_what_it_samples_from():
    """Chain rule by enumeration: probabilities of all strings sum to one."""
    config = dataclasses.replace(TINY, length=3)
    lm = AutoregressiveLM(config).fit("abab" * 20, steps=5)
    rows = torch.cartesian_prod(*[torch.arange(2)] * 3)
    assert float(lm.log_prob(rows).double().sum(1).exp().sum()) == pytest.approx(1.0, abs=1e-5)
    assert len(lm.sample(4, 3)) == 4
    bits, error = lm.bits_per_character("ab" * 30)
    assert bits > 0 <= error


def test_reports_stand_beside_held_out_text(stream):
    report = stream.evaluate(CORPUS[3000:4000], train=CORPUS[:3000], n=4)
    assert report["5-gram bits"].value > report["5-gram bits"].floor
    assert "token entropy" in str(report)


# ------------------------------------------------------------------ refusals


def test_bad_input_is_refused_in_one_sentence(stream, documents, tmp_path):
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    fit = TextGenerator(TINY).fit
    cases = [
        (lambda: fit(""), "corpus is empty"),
        (lambda: fit([]), "corpus is empty"),
        (lambda: fit(["", ""]), "corpus is empty"),
        (lambda: fit(tmp_path / "latin.txt"), "no UTF-8 at byte 2"),
        (lambda: fit(b"\xff\xfe"), "no UTF-8 at byte 0"),
        (lambda: fit(["a", 3]), "text 1 is of type int"),
        (lambda: fit(7), "type int"),
        (lambda: fit("the [MASK] is here" * 10), r"holds '\[MASK\]' at place 4"),
        (lambda: fit("short"), "one window takes 24"),
        (lambda: fit(["a" * 30, "b"]), "text 0 has 30 tokens"),
        (lambda: fit(WORDS, ["x"]), r"labels of shape \(1,\) for 36 texts"),
        (lambda: fit(CORPUS[:500], ["x"]), "labels belong to documents"),
        (lambda: fit(CORPUS[:500], steps=0), "at least 1 step"),
        (lambda: stream.sample(1, 0), "length=0"),
        (lambda: stream.sample(1, 25), "1 to 24 tokens"),
        (lambda: stream.sample(0), "n=0"),
        (lambda: stream.sample(2, prompt=CORPUS[:30]), "prompt 0 has 30 tokens"),
        (lambda: stream.sample(2, prompt=["a"]), "1 prompts for 2"),
        (lambda: stream.sample(2, prompt="漢"), "character '漢' at place 0"),
        (lambda: stream.sample(2, label="x"), "without labels"),
        (lambda: stream.sample(2, steps=-1), "at least 1 step"),
        (lambda: stream.infill(""), "empty"),
        (lambda: stream.infill("[MASK*99]"), "99 tokens"),
        (lambda: stream.score(""), "empty"),
        (lambda: stream.score("abc", draws=0), "draws=0"),
        (lambda: documents.sample(2, label="blue"), "label 'blue' "),
        (lambda: TextGenerator().sample(1), "call fit"),
        (lambda: TextConfig(width=10, heads=4), "even, whole width"),
        (lambda: TextConfig(process="uniform"), "set time=True"),
        (lambda: TextConfig(length=0), "length=0"),
        (lambda: BPETokenizer.train(["a"], 10), "256 bytes"),
        (lambda: CharTokenizer(""), "empty alphabet"),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words) as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("recipe", [recipes.names, recipes.shakespeare, recipes.docs])
def test_every_recipe_builds_trains_and_samples(recipe):
    config = dataclasses.replace(recipe(), width=16, depth=1, heads=2, batch_size=2, length=16)
    corpus = WORDS if recipe is recipes.names else CORPUS[:500]
    assert len(TextGenerator(config).fit(corpus, steps=1).sample(2, steps=2)) == 2


def test_a_model_of_blocks_keeps_the_promises():
    gen = TextGenerator(dataclasses.replace(TINY, block=8, length=20)).fit(CORPUS[:4000])
    for steps in (0, 10):
        whole = gen.sample(5, seed=3, steps=steps)
        assert [len(t) for t in whole] == [20] * 5
        assert gen.sample(5, seed=3, steps=steps, batch_size=2) == whole
    assert all(t.startswith("The assert") for t in gen.sample(2, prompt="The assert"))
    fresh = TextGenerator(dataclasses.replace(TINY, block=8)).fit(CORPUS[:4000], steps=1)
    torch.nn.init.zeros_(fresh.model.network.head.weight)
    torch.nn.init.zeros_(fresh.model.network.head.bias)
    assert fresh.score(CORPUS[:48]).bits_per_character == pytest.approx(math.log2(fresh.codec.vocab), rel=1e-5)
    with pytest.raises(ValueError, match="infilling needs block=0"):
        gen.infill("a[MASK]b")
    with pytest.raises(ValueError, match="absorbing"):
        TextConfig(block=4, process="uniform", time=True)
    labelled = TextGenerator(dataclasses.replace(TINY, length=8, block=4)).fit(WORDS, [w[0] for w in WORDS])
    assert len(labelled.sample(3, label="a", guidance=2.0)) == 3


def test_uniform_diffusion_says_that_it_cannot_be_told():
    gen = TextGenerator(dataclasses.replace(TINY, process="uniform", time=True)).fit(CORPUS[:1000], steps=1)
    with pytest.raises(ValueError, match="only absorbing"):
        gen.sample(1, prompt="The")
