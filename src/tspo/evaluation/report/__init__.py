"""One HTML page about a training run: what it reached, its curves, and what single turns were worth."""

from tspo.evaluation.report.page import write_report

__all__ = ["write_report"]
