"""Training: a step from rollout to update (`step`, `batch`, `objective`, `update`), and the run around it."""
