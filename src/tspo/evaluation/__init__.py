"""Scores of trajectories, their uncertainty, and how they are shown."""
