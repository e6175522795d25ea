"""TSPO on verl: adapters between this project's rollout, rewards and advantages and a Ray cluster.

`plugin` is what verl loads in each of its processes. Everything here hangs on verl's own extension points:
the registries of advantage estimators, agent loops, reward managers, trainers, engines, platforms and rollouts.
"""
