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


VOCABULARY = """
import resource, sys, torch
torch.set_num_threads(1)
from polydiff.core import Ancestral, Context, Discrete, Rng
from polydiff.core.denoisers import FunctionDenoiser
from polydiff.core.distributions import Categorical, Gated
from polydiff.core.sampling import Confident, FirstHitting, sample
process = Discrete.absorbing(32_000)
logits = torch.randn(1, 1024, 32_000)
x = torch.full((1, 1024), 32_000)
law = FunctionDenoiser(process, lambda x, t, ctx: Gated(x, x == 32_000, 1.0, Categorical(logits)))
small = FunctionDenoiser(process, lambda x, t, ctx: Gated(x, x == 32_000, 1.0, Categorical(logits[:, :2])))
step = {"ancestral": Ancestral(), "first-hitting": FirstHitting(tokens=64), "confident": Confident()}[sys.argv[1]]
sample(small, x[:, :2], [1.0, 0.0], step, rng=Rng(0, 1))  # everything imported and warm
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
out = sample(law, x, [1.0, 0.0], step, rng=Rng(0, 1))
assert int(out.max()) < 32_000
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / (logits.numel() * 4))
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", ["ancestral", "first-hitting", "confident"])
def test_a_step_holds_a_large_array_of_logits_no_more_than_twice(step, record_property):
    """Vocabulary 32,000, length 1,024, every token revealed in one step: what is added to the 125 MiB of logits."""
    done = subprocess.run([sys.executable, "-c", VOCABULARY, step], check=True, capture_output=True, text=True)
    added = float(done.stdout)
    record_property("peak over logits", 1 + added)
    print(f"{step}: peak {1 + added:.2f} times the logits")
    assert 1 + added <= 2
