"""The digits recipe keeps its promises: the figures of images_digits.py, measured again."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module")
def figures():
    path = Path(__file__).parent / "images_digits.py"
    spec = importlib.util.spec_from_file_location("images_digits", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["images_digits"] = module
    spec.loader.exec_module(module)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        return module.measure(0)[0]
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_digits_after_a_minute_of_training(figures, record_property):
    for name, value in figures.items():
        record_property(name, value)
    print({k: round(v, 4) for k, v in figures.items()})
    assert figures["seconds"] < 65
    assert figures["agreement"] >= 0.99
    assert figures["svc_generated"] >= 0.965
    assert figures["frechet_pixels_1.2"] <= 1.5
    assert figures["ks_p_1.2"] > 0.01
    assert figures["copies_1.2"] == 0
