"""Pushing a run's model to the hub, by the settings that TRL has for it (`training.trl`: push_to_hub, hub_*)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi
from trl import GRPOConfig

from tspo.errors import BadInput
from tspo.evaluation.card import write_card
from tspo.training.checkpoints import MARK

AT_THE_END = "end"
"""The hub_strategy of a run that names none: TRL's own would upload all of the run's folder with each checkpoint."""


def hub_repository(args: GRPOConfig) -> str | None:
    """The repository that the run pushes to, made if it is not there; None where it pushes nowhere.

    Raises BadInput where the hub does not let it: at the start, not after hours of training.
    """
    if not args.push_to_hub:
        return None
    name = args.hub_model_id or Path(str(args.output_dir)).absolute().name
    with _explained(f"{name} cannot be pushed to", "check hub_model_id and hub_token, or leave push_to_hub out"):
        url = HfApi().create_repo(name, token=args.hub_token, private=args.hub_private_repo, exist_ok=True)
        return url.repo_id


def push_model(run_folder: Path, model: Path, repository: str, args: GRPOConfig) -> str:
    """Upload a whole model folder, with a card that names its repository; the address it has now.

    Raises BadInput where the hub does not take it.
    """
    write_card(run_folder, model, hub_id=repository)
    with _explained(f"{model} was not pushed to {repository}", "it is whole; --resume pushes it again"):
        commit = HfApi().upload_folder(
            repo_id=repository,
            folder_path=model,
            commit_message="End of training",
            token=args.hub_token,
            revision=args.hub_revision,
            ignore_patterns=[MARK],
        )
        return str(commit.commit_url)


@contextmanager
def _explained(what: str, hint: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a hub that says no, one that cannot be reached, a name that is none: no common kind
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise BadInput(f"training.trl.push_to_hub: {what} ({reason}); {hint}") from error
