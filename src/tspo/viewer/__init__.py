"""A run's curves and trajectories in a browser, read from an index on disk."""
