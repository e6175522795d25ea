"""A policy that a person asks: which one, what it does as it does it, and what its answer rests on."""
