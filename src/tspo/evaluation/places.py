"""The files of an evaluation's folder."""

from __future__ import annotations

TRAJECTORIES = "trajectories.jsonl"
"""Every trajectory, in the questions' order."""

SUMMARY = "summary.json"
"""The scores; written last, so that a folder that has it is whole."""
