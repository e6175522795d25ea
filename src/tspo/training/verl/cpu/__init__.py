"""verl without a GPU: its platform, its FSDP engine on gloo, and a rollout server on this project's sampler.

For tests and for trying a configuration before a cluster is booked. verl's own code does everything else.
"""
