"""Steering: samples drawn towards what a path, a reward or a person prefers, at sampling time."""

from polydiff.core.steering.entropy import BestOfPaths, EntropyWeights, state_entropy

__all__ = ["BestOfPaths", "EntropyWeights", "state_entropy"]
