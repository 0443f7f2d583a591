# %% [markdown]
# # How many steps does a sampler need?
#
# A Gaussian mixture has a denoiser in closed form, so a sampler's error is all its own. We compare five of them at equal
# numbers of evaluations, by the distance of their samples from real ones.

# %%
import torch

from polydiff.core import Ancestral, DPMSolverPP, EpsPrediction, Euler, Gaussian, GaussianMixture, Heun, Rng, sample
from polydiff.core.evaluation import sliced_wasserstein
from polydiff.core.schedules import Cosine, uniform_times

mixture = GaussianMixture(
    weights=torch.tensor([0.3, 0.5, 0.2]),
    means=torch.tensor([[-1.2, 0.4], [0.6, -1.0], [1.1, 1.3]]),
    stds=torch.tensor([0.25, 0.3, 0.3]),
)
process = Gaussian(Cosine())
denoiser = mixture.denoiser(process)

# %% [markdown]
# The process knows the corruption, the denoiser the law of the clean sample given the noisy one, a step gets from one time
# to the next. Heun evaluates twice a step, so it gets half as many.

# %%
n = 4000
noise = process.prior(torch.zeros(n, 2)).sample(Rng(0))
real = mixture.sample(n, Rng(1))
floor = float(sliced_wasserstein(real, mixture.sample(n, Rng(2))))
print(f"real against real: {floor:.3f}\n\nevaluations      8      16      32")

steps = {"DDPM": Ancestral(1.0), "DDIM": Ancestral(0.0), "Euler": Euler(), "Heun": Heun(), "DPM++(2M)": DPMSolverPP(2)}
for name, step in steps.items():
    errors = []
    for evaluations in (8, 16, 32):
        times = uniform_times(evaluations // 2 if name == "Heun" else evaluations)
        x = sample(denoiser, noise, times, step, rng=Rng(3))
        errors.append(float(sliced_wasserstein(real, x)))
    print(f"{name:<12}" + "".join(f"{e:8.3f}" for e in errors))

# %% [markdown]
# DDPM is at the floor from the first column on: the exact denoiser returns the whole posterior, not only its mean, and the
# ancestral step carries that spread. A network learns the mean alone; the parametrisation that it learns it through, such as
# `EpsPrediction`, is the only place that differs between papers.

# %%
print(EpsPrediction.__doc__)
