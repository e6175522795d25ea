"""TSPO: train language models to search, turn by turn, and see why it works."""

__version__ = "0.1.0"
