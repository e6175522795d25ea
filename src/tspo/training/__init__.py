"""Training on TRL: thin adapters over everything above, and the run that puts them together."""
