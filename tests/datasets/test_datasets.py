"""Data sets: the stored bytes, the promises of a split, and refusals that say what to do."""

import gzip
import hashlib
import subprocess
import sys

import numpy as np
import pytest

from polydiff.datasets import (
    CIFAR10_CLASSES,
    LabelledImages,
    cifar10_jpeg,
    data_folder,
    digits,
    first_names,
    mnist,
    python_topics,
    tinyshakespeare,
)


def needs(relative):
    return pytest.mark.skipif(
        not (data_folder() / relative).is_file(), reason=f"no {data_folder() / relative}; set POLYDIFF_DATA"
    )


def made(counts, seed=0):
    labels = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng(seed).shuffle(labels)
    images = np.arange(len(labels), dtype=np.int64)[:, None, None]  # an image names its row
    return LabelledImages(images, labels, len(labels), "made", "here")


# ------------------------------------------------------------------ splits


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.77])
@pytest.mark.parametrize("counts", [(10, 20, 30), (7, 7, 7, 7), (1, 1, 98)])
def test_a_split_partitions_and_stratifies(fraction, counts):
    data = made(counts)
    train, holdout = data.split(fraction, seed=0)
    rows = [part.images.ravel() for part in (train, holdout)]
    assert sorted(np.concatenate(rows)) == list(range(len(data)))
    assert all((np.diff(r) > 0).all() for r in rows)
    for part in (train, holdout):
        assert (part.labels == data.labels[part.images.ravel()]).all()
    assert len(train) == round(fraction * len(data))
    assert np.abs(np.bincount(train.labels, minlength=len(counts)) - fraction * np.array(counts)).max() < 1


def test_a_split_is_named_by_its_seed():
    data = made((40, 60))
    first = data.split(0.5, seed=3)[0].images
    assert (first == data.split(0.5, seed=3)[0].images).all()
    assert (first != data.split(0.5, seed=4)[0].images).any()


def test_every_row_is_as_likely_to_be_drawn():
    data = made((12, 8))
    drawn = np.zeros(20)
    for seed in range(400):
        drawn[data.split(0.25, seed)[0].images.ravel()] += 1
    assert np.abs(drawn / 400 - 0.25).max() < 0.09  # 4 standard deviations


def test_the_split_of_the_digits_never_changes():
    """A split that moved with a release would leak training images into held-out ones."""
    pytest.importorskip("sklearn")
    train, holdout = digits().split(0.5, seed=0)
    assert (len(train), len(holdout)) == (898, 899)
    assert hashlib.sha256(holdout.images.tobytes()).hexdigest()[:16] == "2e8d4f621ed5a646"


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, 2.0])
def test_a_fraction_outside_the_unit_interval_is_refused(fraction):
    with pytest.raises(ValueError, match=f"fraction of a split of made is {fraction}"):
        made((2, 2)).split(fraction, 0)


def test_subset_takes_indices_masks_and_slices():
    data = made((5, 5))
    for idx in ([3, 1], np.arange(10) > 6, slice(2, 9, 3)):
        part = data.subset(idx)
        assert (part.images == data.images[idx]).all()
        assert (part.labels == data.labels[idx]).all()
        assert (part.maximum, part.name, part.source) == (data.maximum, data.name, data.source)
    with pytest.raises(IndexError):
        data.subset([10])


def test_labelled_images_refuse_what_they_cannot_be():
    x, y = np.zeros((3, 2, 2), np.uint8), np.zeros(3, np.int64)
    with pytest.raises(ValueError, match="float64 of shape"):
        LabelledImages(x.astype(float), y, 255, "n", "s")
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        LabelledImages(x, y[:2], 255, "n", "s")
    with pytest.raises(ValueError, match="span 17 … 17; 0 … 16"):
        LabelledImages(x + np.uint8(17), y, 16, "n", "s")


# ------------------------------------------------------------------ the sets


def test_digits_are_scikit_learns_lossless():
    sklearn = pytest.importorskip("sklearn.datasets")
    data, original = digits(), sklearn.load_digits()
    assert (data.images.shape, data.images.dtype, data.maximum) == ((1797, 8, 8), np.uint8, 16)
    assert (data.images == original.images).all()
    assert (data.labels == original.target).all()
    assert data.images.max() == 16


@needs("images/mnist/t10k-images-idx3-ubyte.gz")
def test_mnist_is_the_original():
    test = mnist("test")
    assert (test.images.shape, test.images.dtype, test.maximum) == ((10_000, 28, 28), np.uint8, 255)
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert test.images.mean() / 255 == pytest.approx(0.13251, abs=1e-5)
    train = mnist()
    assert train.images.shape == (60_000, 28, 28)
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert train.images.mean() / 255 == pytest.approx(0.13066, abs=1e-5)
    assert train.images.flags.writeable  # torch.from_numpy warns of read-only arrays


def test_python_topics_are_those_of_this_interpreter():
    from pydoc_data.topics import topics

    text = python_topics()
    assert 300_000 < len(text) < 800_000
    assert topics["assert"] in text
    assert text == python_topics()


@needs("text/tinyshakespeare.txt.gz")
def test_shakespeare_is_cut_as_everybody_cuts_it():
    train, rest = tinyshakespeare()
    assert (len(train), len(rest)) == (1_003_854, 111_540)
    assert train.startswith("First Citizen:\nBefore we proceed")
    assert len(set(train + rest)) == 65


@needs("text/names.zip")
def test_first_names_come_with_their_lists():
    names, labels = first_names()
    assert len(names) == len(labels) == 7944
    assert (labels.count("female"), labels.count("male")) == (5001, 2943)
    assert (names[0], labels[0]) == ("Abagael", "female")
    assert all(n == n.strip() and n for n in names)


@pytest.mark.slow
@needs("images/cifar10_jpeg.tar.xz")
def test_cifar_reads_images_and_labels_together():
    pytest.importorskip("PIL")
    test, train = cifar10_jpeg("test"), cifar10_jpeg()
    assert test.images.shape == (10_000, 32, 32, 3)
    assert train.images.shape == (50_000, 32, 32, 3)
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert np.bincount(train.labels).tolist() == [5000] * 10
    known = np.array([0.4914, 0.4822, 0.4465])  # channel means of the original training set
    np.testing.assert_allclose(train.images.mean((0, 1, 2)) / 255, known, atol=2e-3)
    blue = lambda name: train.images[train.labels == CIFAR10_CLASSES.index(name)][..., 2].mean()  # noqa: E731
    assert blue("airplane") > blue("frog") + 40  # sky and moss: labels belong to their images


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("load", "file"), [(mnist, "train-images-idx3-ubyte.gz"), (cifar10_jpeg, "cifar10_jpeg.tar.xz")]
)
def test_an_absent_file_is_named_with_what_to_do(load, file, monkeypatch, tmp_path):
    if load is cifar10_jpeg:
        pytest.importorskip("PIL")
    monkeypatch.setenv("POLYDIFF_DATA", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=f"{tmp_path}.*{file}; set POLYDIFF_DATA to the folder that holds images/"
    ):
        load()


def test_changed_and_damaged_files_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("POLYDIFF_DATA", str(tmp_path))
    folder = tmp_path / "images" / "mnist"
    folder.mkdir(parents=True)
    raw = bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 7])
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(raw))
    with pytest.raises(ValueError, match=f"sha256 {hashlib.sha256(raw).hexdigest()}, but ba891046"):
        mnist()
    path.write_bytes(gzip.compress(raw)[:-4])
    with pytest.raises(ValueError, match="no readable gzip"):
        mnist()


@pytest.mark.parametrize("load", [mnist, cifar10_jpeg])
def test_an_unknown_split_is_refused(load):
    with pytest.raises(ValueError, match="no split 'validation'"):
        load("validation")


def test_the_data_folder_is_named_or_beside_the_repository(monkeypatch, tmp_path):
    monkeypatch.setenv("POLYDIFF_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    monkeypatch.delenv("POLYDIFF_DATA")
    (tmp_path / "main").mkdir()
    monkeypatch.chdir(tmp_path / "main")
    assert data_folder() == tmp_path / "shared" / "data"


def test_importing_the_data_sets_imports_no_torch_and_no_modality():
    code = (
        "import sys, polydiff.datasets\n"
        "print(sorted(m for m in sys.modules if m in ('torch', 'sklearn', 'PIL') or m.startswith('polydiff.core')))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
