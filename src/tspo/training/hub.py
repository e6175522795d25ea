"""Pushing a run's model to the hub, as `training.hub` says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi

from tspo.config import HubSection
from tspo.errors import BadInput
from tspo.evaluation.card import write_card
from tspo.training.checkpoints import MARK


def make_repository(hub: HubSection) -> None:
    """Make the repository that the run pushes to, and the branch, if they are not there.

    Raises BadInput where the hub does not let it: at the start, not after hours of training.
    """
    with _explained(f"{hub.repository} cannot be pushed to", "check its name and HF_TOKEN, or leave training.hub out"):
        HfApi().create_repo(hub.repository, private=hub.private, exist_ok=True)
        if hub.revision is not None:
            HfApi().create_branch(hub.repository, branch=hub.revision, exist_ok=True)


def push_model(run_folder: Path, model: Path, hub: HubSection) -> str:
    """Upload a whole model folder, with a card that names its repository; the address it has now.

    Raises BadInput where the hub does not take it.
    """
    write_card(run_folder, model, hub_id=hub.repository)
    with _explained(f"{model} was not pushed to {hub.repository}", "it is whole; --resume pushes it again"):
        commit = HfApi().upload_folder(
            repo_id=hub.repository,
            folder_path=model,
            commit_message="End of training",
            revision=hub.revision,
            ignore_patterns=[MARK],
        )
        return str(commit.commit_url)


@contextmanager
def _explained(what: str, hint: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a hub that says no, one that cannot be reached, a name that is none: no common kind
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise BadInput(f"training.hub: {what} ({reason}); {hint}") from error
