"""TSPO: train language models to search, turn by turn, and see why it works."""

__version__ = "0.1.0"

TYPE_CHECKING = False  # typing's own costs as much time as all else here
if TYPE_CHECKING:
    from typing import Any

    from tspo.credit import Credit as Credit
    from tspo.credit import CreditConfig as CreditConfig
    from tspo.credit import assign_credit as assign_credit
    from tspo.datasets.questions import Question as Question
    from tspo.datasets.questions import read_questions as read_questions
    from tspo.errors import BadInput as BadInput
    from tspo.retrieval.base import Passage as Passage
    from tspo.retrieval.bm25 import BM25Retriever as BM25Retriever
    from tspo.retrieval.client import HTTPRetriever as HTTPRetriever
    from tspo.retrieval.open_index import open_index as open_index
    from tspo.rollout.codec import Codec as Codec
    from tspo.rollout.episode import AgentLoop as AgentLoop
    from tspo.rollout.episode import Limits as Limits
    from tspo.rollout.episode import Request as Request
    from tspo.rollout.transformers_sampler import TransformersSampler as TransformersSampler
    from tspo.training.trainer import Trainer as Trainer
    from tspo.training.trainer import evaluate as evaluate
    from tspo.trajectory import Trajectory as Trajectory
    from tspo.trajectory import Turn as Turn
    from tspo.trajectory import read_trajectories as read_trajectories

_MODULES = {
    "AgentLoop": "rollout.episode",
    "BM25Retriever": "retrieval.bm25",
    "BadInput": "errors",
    "Codec": "rollout.codec",
    "Credit": "credit",
    "CreditConfig": "credit",
    "HTTPRetriever": "retrieval.client",
    "Limits": "rollout.episode",
    "Passage": "retrieval.base",
    "Question": "datasets.questions",
    "Request": "rollout.episode",
    "Trainer": "training.trainer",
    "Trajectory": "trajectory",
    "TransformersSampler": "rollout.transformers_sampler",
    "Turn": "trajectory",
    "assign_credit": "credit",
    "evaluate": "training.trainer",
    "open_index": "retrieval.open_index",
    "read_questions": "datasets.questions",
    "read_trajectories": "trajectory",
}
"""The public names, each with the module that has it, imported when the name is first asked for."""

_EXTRAS = {"HTTPRetriever": "serve", "Trainer": "train", "TransformersSampler": "train", "evaluate": "train"}
"""The names that need an extra."""

__all__ = [*_MODULES]


def __getattr__(name: str) -> "Any":
    if name not in _MODULES:
        raise AttributeError(f"module 'tspo' has no attribute {name!r}")
    from importlib import import_module

    try:
        value = getattr(import_module(f"tspo.{_MODULES[name]}"), name)
    except ModuleNotFoundError as error:
        if name not in _EXTRAS or str(error.name).startswith("tspo"):
            raise
        raise ImportError(f"tspo.{name} needs {error.name}; pip install 'tspo[{_EXTRAS[name]}]'") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
