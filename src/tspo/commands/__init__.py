"""The subcommands of `tspo`: each module has `add_parser` and `run`, heavy imports inside `run`."""
