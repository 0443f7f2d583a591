"""ImageGenerator: natural objects in and out, promises, refusals."""

import dataclasses
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from polydiff.core.data import Rng
from polydiff.core.training import CorruptCheckpoint
from polydiff.datasets import digits
from polydiff.images import ImageCodec, ImageConfig, ImageGenerator, SmallConvFeatures, grid, random_masks, recipes

TINY = ImageConfig(width=16, multipliers=(1, 2), blocks=1, attention=(), steps=40, batch_size=32, sample_steps=6)
DATA = digits()


@pytest.fixture(scope="module")
def gen():
    return ImageGenerator(TINY).fit(DATA.images[:400], DATA.labels[:400], maximum=16)


@pytest.fixture(scope="module")
def saved(gen, tmp_path_factory):
    return gen.save(tmp_path_factory.mktemp("models") / "tiny")


# ------------------------------------------------------------------ in and out


@pytest.mark.parametrize("kind", ["NHW", "NHWC", "NCHW", "torch", "pil", "float"])
def test_every_kind_of_input_is_the_same_data(kind):
    rgb = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
    gray = rgb[..., 0]
    cases = {
        "NHW": (gray, (1, 6, 7)),
        "NHWC": (rgb, (3, 6, 7)),
        "NCHW": (rgb.transpose(0, 3, 1, 2), (3, 6, 7)),
        "torch": (torch.from_numpy(rgb.transpose(0, 3, 1, 2).copy()), (3, 6, 7)),
        "pil": ([Image.fromarray(i) for i in rgb], (3, 6, 7)),
        "float": (rgb.astype(np.float32) / 255, (3, 6, 7)),
    }
    images, shape = cases[kind]
    codec = ImageCodec.fit(images)
    x = codec.encode(images)
    assert codec.shape == shape
    assert float(x.mean()) == pytest.approx(0, abs=1e-5)
    assert float(x.var()) == pytest.approx(1, rel=1e-2)
    back = codec.decode(x, "numpy")
    want = gray if kind == "NHW" else rgb
    assert np.array_equal(back, want) if kind != "float" else np.allclose(back, want / 255, atol=1e-6)


def test_outputs(gen):
    assert gen.sample(3, output="numpy").shape == (3, 8, 8)
    assert gen.sample(3, output="numpy").dtype == np.uint8
    assert gen.sample(3, output="torch").shape == (3, 1, 8, 8)
    assert gen.sample(2, output="pil")[0].size == (8, 8)
    assert int(gen.sample(20).max()) <= 16


def test_texts_can_be_labels():
    names = np.array(["even", "odd"])[DATA.labels[:200] % 2]
    g = ImageGenerator(dataclasses.replace(TINY, steps=2)).fit(DATA.images[:200], names, maximum=16)
    assert g.codec.classes == ("even", "odd")
    assert g.sample(2, label="odd", steps=2).shape == (2, 8, 8)
    with pytest.raises(ValueError, match="'prime'.*'even', 'odd'"):
        g.sample(2, label="prime")


def test_unlabelled_images_make_an_unconditional_model():
    g = ImageGenerator(dataclasses.replace(TINY, steps=2, known=0.0)).fit(DATA.images[:100], maximum=16)
    assert g.sample(2, steps=2).shape == (2, 8, 8)
    with pytest.raises(ValueError, match="without labels"):
        g.sample(2, label=3)
    with pytest.raises(ValueError, match="known=0.25"):
        g.inpaint(DATA.images[:2], np.ones((8, 8), bool))


@pytest.mark.parametrize("recipe", [recipes.digits, recipes.mnist, recipes.cifar10, recipes.dit_s])
def test_every_recipe_builds_trains_and_samples(recipe):
    small = {"width": 16, "batch_size": 4, "precision": "fp32", "depth": 1, "heads": 2, "blocks": 1}
    config = dataclasses.replace(recipe(), **small, sample_steps=2)
    images = np.random.default_rng(0).integers(0, 256, (8, 12, 12, 3), dtype=np.uint8)
    g = ImageGenerator(config).fit(images, np.arange(8) % 2, steps=2)
    assert g.sample(2).shape == (2, 12, 12, 3)


@pytest.mark.parametrize("prediction", ["v", "eps", "x0", "velocity", "karras"])
@pytest.mark.parametrize("schedule", ["cosine", "vp-linear", "rectified", "edm"])
def test_every_parametrisation_trains_on_every_schedule(prediction, schedule):
    config = dataclasses.replace(TINY, prediction=prediction, schedule=schedule, steps=3)
    g = ImageGenerator(config).fit(DATA.images[:64], DATA.labels[:64], maximum=16)
    assert np.isfinite(g.history["loss"]).all()
    assert g.sample(2).shape == (2, 8, 8)


# ------------------------------------------------------------------ promises


def test_same_seed_same_images_at_any_batch_size(gen):
    whole = gen.sample(12, seed=5, output="torch", batch_size=64)
    for batch_size in (1, 5):
        parts = gen.sample(12, seed=5, output="torch", batch_size=batch_size)
        assert float((whole - parts).abs().max()) <= 1, "a rounding of one grey level at most"
        assert float((whole != parts).float().mean()) < 0.01
    assert not torch.equal(whole, gen.sample(12, seed=6, output="torch"))
    assert torch.equal(gen.sample(12, seed=5, output="torch"), whole)


def test_save_load_sample_is_bit_equal_in_a_fresh_process(gen, saved, tmp_path):
    want = gen.sample(4, seed=1, output="torch")
    assert torch.equal(ImageGenerator.load(saved).sample(4, seed=1, output="torch"), want)
    script = (
        "import sys, torch; torch.set_num_threads(1); from polydiff.images import ImageGenerator; import numpy as np;"
        "np.save(sys.argv[2], ImageGenerator.from_pretrained(sys.argv[1]).sample(4, seed=1, output='torch').numpy())"
    )
    subprocess.run([sys.executable, "-c", script, str(saved), str(tmp_path / "x.npy")], check=True)
    assert np.array_equal(np.load(tmp_path / "x.npy"), want.numpy())


def test_fitting_twice_gives_the_same_bits_and_resuming_too(tmp_path):
    def fit(run_dir, steps):
        g = ImageGenerator(TINY).fit(DATA.images[:200], DATA.labels[:200], maximum=16, steps=steps, run_dir=run_dir)
        return torch.cat([p.flatten() for p in g.model.parameters()])

    assert torch.equal(fit(None, 30), fit(tmp_path / "run", 30))
    assert (tmp_path / "run" / "log.jsonl").is_file()
    assert torch.equal(fit(tmp_path / "run", 30), fit(None, 30)), "a finished run is picked up as it is"


def test_global_state_is_untouched(gen):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_num_threads(), torch.is_grad_enabled()
    gen.sample(3)
    ImageGenerator(dataclasses.replace(TINY, steps=2)).fit(DATA.images[:64], maximum=16)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == before[2:]


def test_eight_threads_share_a_model(gen):
    want = [gen.sample(3, seed=i, output="torch") for i in range(8)]
    got = [None] * 8

    def work(i):
        got[i] = gen.sample(3, seed=i, output="torch")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(torch.equal(a, b) for a, b in zip(want, got))


def test_known_pixels_come_back_untouched_and_others_do_not(gen):
    known = np.zeros((8, 8), bool)
    known[:, :4] = True
    out = gen.inpaint(DATA.images[:6], known, seed=1)
    assert np.array_equal(out[:, :, :4], DATA.images[:6][:, :, :4])
    assert not np.array_equal(out[:, :, 4:], DATA.images[:6][:, :, 4:])
    broken = np.where(known, DATA.images[:6], 13)
    assert out[:, ~known].std() > 1, "unknown pixels are filled"
    assert np.array_equal(gen.inpaint(broken, known, seed=1), out), "values at unknown pixels are ignored"
    assert gen.inpaint(DATA.images[:2], np.stack([known, ~known]), label=3).shape == (2, 8, 8)


def test_interpolation_starts_and_ends_at_its_ends(gen):
    a, b = DATA.images[3], DATA.images[8]
    way = gen.interpolate(a, b, 5, steps=60)
    assert way.shape == (5, 8, 8)
    for got, want in ((way[0], a), (way[-1], b)):
        assert float(np.abs(got.astype(float) - want).mean()) < 1.0
    assert float(np.abs(way[2].astype(float) - a).mean()) > 0.5


def test_likelihood_prefers_digits_to_noise_and_estimates_agree(gen):
    noise = np.random.default_rng(0).integers(0, 17, (8, 8, 8)).astype(np.uint8)
    real = gen.log_likelihood(DATA.images[400:408], steps=20)
    assert real.dequantised
    assert real.bits_per_dim.mean() < gen.log_likelihood(noise, steps=20).bits_per_dim.mean()
    np.testing.assert_allclose(real.bits_per_dim, -real.nats / (64 * np.log(2)))
    exact = gen.log_likelihood(DATA.images[400:408], steps=20, divergence="exact")
    assert (
        np.abs(exact.bits_per_dim - gen.log_likelihood(DATA.images[400:408], steps=20, probes=64).bits_per_dim).max()
        < 0.25
    )


def test_evaluation_reports_floors_and_names_its_features(gen):
    report = gen.evaluate(DATA.images[400:800], DATA.labels[400:800], train=DATA.images[:400], n=150)
    names = [f.name for f in report.figures]
    assert {"frechet", "kid", "precision", "recall", "coverage", "label agreement", "memorisation p-value"} <= set(
        names
    )
    assert "small-conv-64:trained-on-real-N=400" in report["frechet"].id
    assert report["frechet"].value > report["frechet"].floor
    assert "frechet" in str(report)
    own = gen.evaluate(DATA.images[400:600], n=50, features=lambda x: x.flatten(1)[:, :10])
    assert own["frechet"].id.endswith("custom")
    with pytest.raises(ValueError, match="two disjoint halves"):
        gen.evaluate(DATA.images[400:420], n=15)


def test_default_features_tell_digits_apart():
    train, rest = DATA.split(0.7, 0)
    codec = ImageCodec.fit(train.images, train.labels, 16)
    judge = SmallConvFeatures(codec.encode(train.images), codec.class_numbers(train.labels, len(train)))
    right = judge.predict(codec.encode(rest.images)) == codec.class_numbers(rest.labels, len(rest))
    assert float(right.float().mean()) > 0.96
    assert judge(codec.encode(rest.images)).shape == (len(rest), 64)


def test_random_masks_hide_and_give_at_their_rate():
    x = torch.zeros(4000, 1, 8, 8)
    mask = random_masks(0.25)(x, Rng(0))
    assert mask.shape == (4000, 1, 8, 8)
    assert float(mask.flatten(1).any(1).float().mean()) == pytest.approx(0.25, abs=0.03)
    some = mask[mask.flatten(1).any(1)].float().mean((1, 2, 3))
    assert float(some.min()) < 0.1
    assert float(some.max()) > 0.9


def test_grid_lays_images_out():
    sheet = grid(DATA.images[:10].astype(np.uint8), columns=4, scale=2, gap=1)
    assert sheet.size == ((4 * 9 + 1) * 2, (3 * 9 + 1) * 2)


# ------------------------------------------------------------------ refusals


def bad_pixel():
    x = DATA.images[:10].astype(np.float32)
    x[3, 2, 5] = np.nan
    return x


REFUSED = {
    "wrong shape": (lambda: np.zeros((4, 5)), "need \\(N, H, W\\)"),
    "no channels": (lambda: np.zeros((4, 5, 6, 7)), "no axis holds"),
    "ambiguous": (lambda: np.ones((4, 3, 6, 3)), "either axis"),
    "nan": (bad_pixel, "row 2, column 5, channel 0\\) of image 3 is nan"),
    "empty": (lambda: np.zeros((0, 8, 8)), "empty"),
    "empty list": (list, "empty"),
    "mixed sizes": (lambda: [np.zeros((8, 8)), np.zeros((8, 9))], "image 1 has shape \\(8, 9\\) but image 0"),
    "negative": (lambda: np.full((4, 8, 8), -1.0), "between 0 and"),
    "constant": (lambda: np.full((4, 8, 8), 3, np.uint8), "constant"),
    "text": (lambda: "digits", "not a text"),
    "strings": (lambda: np.full((4, 8, 8), "x"), "no numbers"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_bad_images_are_refused_in_one_sentence(case, tmp_path):
    make, words = REFUSED[case]
    with pytest.raises(ValueError, match=words) as caught:
        ImageGenerator(TINY).fit(make(), run_dir=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists(), "nothing is half-written"


def test_bad_arguments_are_refused_in_one_sentence(gen):
    x, y = DATA.images[:50], DATA.labels[:50]
    cases = [
        (lambda: ImageGenerator(TINY).fit(x, y[:40], maximum=16), "labels of shape \\(40,\\) for 50 images"),
        (lambda: ImageGenerator(TINY).fit(x, y + 0.5, maximum=16), "integers or texts"),
        (lambda: ImageGenerator(TINY).fit(x, y, maximum=3), "between 0 and 3"),
        (lambda: ImageGenerator(TINY).fit(x, y, maximum=16, steps=0), "steps=0"),
        (lambda: gen.sample(0), "n=0"),
        (lambda: gen.sample(2.5), "n=2.5"),
        (lambda: gen.sample(2, label=10), "label 10"),
        (lambda: gen.sample(2, label=[1, 2, 3]), "one label for each image"),
        (lambda: gen.sample(2, steps=0), "steps=0"),
        (lambda: gen.sample(2, guidance=float("nan")), "guidance"),
        (lambda: gen.sample(2, batch_size=0), "batch_size=0"),
        (lambda: gen.sample(2, output="jpeg"), "output='jpeg'"),
        (lambda: gen.inpaint(x, np.ones((8, 8))), "need booleans"),
        (lambda: gen.inpaint(x, np.ones((7, 8), bool)), "known of shape"),
        (lambda: gen.interpolate(x[0], x[1], 1), "two ends"),
        (lambda: gen.log_likelihood(np.zeros((2, 9, 9))), "fitted to"),
        (lambda: ImageConfig(width=0), "width=0"),
        (lambda: ImageConfig(drop=1.5), "drop=1.5"),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_an_unfitted_generator_refuses_to_work(tmp_path):
    for call in (lambda g: g.sample(1), lambda g: g.save(tmp_path / "x")):
        with pytest.raises(ValueError, match="call fit"):
            call(ImageGenerator())
    assert not (tmp_path / "x").exists()


def copy_of(saved, tmp_path):
    import shutil

    return Path(shutil.copytree(saved, tmp_path / "copy"))


def rewrite(folder, name, change):
    """Change a JSON file and make the manifest agree, as somebody who edits a model by hand would."""
    import hashlib

    content = change(json.loads((folder / name).read_text()))
    raw = (json.dumps(content) + "\n").encode()
    (folder / name).write_bytes(raw)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_damaged_models_are_refused(saved, tmp_path):
    folder = copy_of(saved, tmp_path)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for damage in (whole[:-100], whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:]):
        weights.write_bytes(damage)
        with pytest.raises(CorruptCheckpoint, match=r"model\.safetensors"):
            ImageGenerator.load(folder)
    weights.write_bytes(whole)
    (folder / "codec.json").unlink()
    with pytest.raises(CorruptCheckpoint, match=r"codec\.json"):
        ImageGenerator.load(folder)


def test_a_model_without_its_codec_refuses_to_load(saved, tmp_path):
    folder = copy_of(saved, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["codec.json"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "codec.json").unlink()
    with pytest.raises(CorruptCheckpoint, match=r"codec\.json"):
        ImageGenerator.load(folder)


def test_unknown_keys_are_refused_by_name(saved, tmp_path):
    folder = copy_of(saved, tmp_path)
    rewrite(folder, "config.json", lambda c: {**c, "config": {**c["config"], "wdith": 3}})
    with pytest.raises(CorruptCheckpoint, match="unknown key 'wdith'.*width"):
        ImageGenerator.load(folder)


def test_weights_that_do_not_fit_are_refused(saved, tmp_path):
    folder = copy_of(saved, tmp_path)
    rewrite(folder, "config.json", lambda c: {**c, "config": {**c["config"], "width": 32}})
    with pytest.raises(CorruptCheckpoint, match="does not fit"):
        ImageGenerator.load(folder)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "x").mkdir()
    for folder in (tmp_path / "x", tmp_path / "missing"):
        with pytest.raises(CorruptCheckpoint):
            ImageGenerator.load(folder)
