"""Sampling more takes more time, not more memory."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
torch.set_num_threads(1)
from polydiff.core import Ancestral, Chain, Context, Gaussian, Model, Rng, VPrediction
from polydiff.core.schedules import Cosine, uniform_times
from polydiff.images import ImageConfig, ImageGenerator, ImageCodec
codec = ImageCodec(3, 48, 48, 255.0, True, 127.0, 64.0, ())
g = ImageGenerator(ImageConfig(width=16, multipliers=(1, 2), blocks=1, attention=(), known=0.0, sample_steps=3))
g.codec, g.model = codec, g._model_from(codec).eval()
g.sample(int(sys.argv[1]), batch_size=64)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_peak_memory_of_ten_times_the_images_is_nearly_the_same(record_property):
    """At one batch size, peak resident memory of 10 × the images is at most 1.2 × (the images themselves included)."""
    peaks = [
        int(subprocess.run([sys.executable, "-c", SCRIPT, n], check=True, capture_output=True, text=True).stdout)
        for n in ("128", "1280")
    ]
    record_property("ratio", peaks[1] / peaks[0])
    print(
        f"peak memory {peaks[0] / 1024:.0f} MiB for 128 images, {peaks[1] / 1024:.0f} MiB for 1280: ratio {peaks[1] / peaks[0]:.3f}"
    )
    assert peaks[1] <= 1.2 * peaks[0]
