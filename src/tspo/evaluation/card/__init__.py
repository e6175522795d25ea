"""The card of a model and of its run: a README.md with the hub's metadata, and a picture of the curves."""

from tspo.evaluation.card.card import CARD_FILES, write_card

__all__ = ["CARD_FILES", "write_card"]
