"""One documented, validated object that describes a whole run: `tspo train CONFIG.yaml [key=value ..]`."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import to_jsonable_python

from tspo.bounded_yaml import load_yaml
from tspo.credit import CreditConfig
from tspo.credit_config import PRESETS
from tspo.datasets.names import Purpose, is_name, means_a_name, question_splits
from tspo.datasets.world.facts import LARGEST, SMALLEST
from tspo.datasets.world.files import WorldSettings
from tspo.errors import BadInput
from tspo.old_settings import without_old_settings
from tspo.protocol import ANSWER_CUE, PROMPT
from tspo.retrieval.places import is_remote
from tspo.rollout.episode import Limits

_WORLD = WorldSettings()


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=False, frozen=True, allow_inf_nan=False)


class WorldSection(_Section):
    """The embedded world, made from these settings: a fictional corpus and questions about it."""

    passages: int = Field(default=_WORLD.passages, ge=SMALLEST, le=LARGEST, description="passages, one an entity")
    train_questions: int = Field(default=_WORLD.train_questions, ge=1, description="questions to train on")
    test_questions: int = Field(
        default=_WORLD.test_questions, ge=0, description="questions to evaluate on; share no fact with the others"
    )
    hops: list[int] = Field(default=list(_WORLD.hops), description="facts a question goes through; as many of each")
    seed: int = Field(default=_WORLD.seed, ge=0, description="another seed, another world")

    def to_settings(self) -> WorldSettings:
        """The checked options, as the generator takes them."""
        return WorldSettings(**self.model_dump() | {"hops": tuple(self.hops)})


_MISSING = "{!r} is missing; name a file, or take the embedded world with data.world={{}}"


class DataSection(_Section):
    """Questions and passages: files, data sets by name, or the embedded world. Paths are relative to the file."""

    train: list[Path] = Field(
        default=[],
        description="question files to train on (JSON Lines, or Search-R1's parquet), or names of `tspo data list`",
    )
    test: list[Path] = Field(
        default=[],
        description="question files to evaluate on, or names (nq, hotpotqa:dev, benchmarks); never trained on",
    )
    corpus: Path | None = Field(
        default=None, description="passages to search, JSON Lines of {id, contents}; not read with rollout.retriever"
    )
    world: WorldSection | None = Field(default=None, description="the embedded world instead of files")

    @model_validator(mode="after")
    def _files_or_world(self) -> DataSection:
        if self.world is not None:
            if self.train or self.test or self.corpus is not None:
                raise ValueError("give files (train, test, corpus) or a world, not both; data.world=null leaves it out")
            try:
                self.world.to_settings()
            except BadInput as error:
                raise ValueError(f"world.{error}") from None
        elif not self.train:
            raise ValueError(_MISSING.format("train"))
        purposes: tuple[tuple[Purpose, list[Path]], ...] = (("train", self.train), ("test", self.test))
        for purpose, paths in purposes:
            try:
                question_splits([str(path) for path in paths if is_name(path)], purpose)
            except BadInput as error:
                raise ValueError(f"{purpose}: {error}") from None
        return self


class QueryCacheSection(_Section):
    """Answers of `rollout.retriever` that are kept, so that nothing is searched twice."""

    entries: int = Field(default=10_000, ge=1, description="answers in memory; the least recently used go first")
    path: Path | None = Field(
        default=None, description="a file that keeps all of them, for several runs at one time; delete it to empty it"
    )


class ServerSection(_Section):
    """The OpenAI-compatible server of `rollout.sampler=openai`; it serves the model whose tokenizer `model` has."""

    url: str = Field(description="its address up to and with /v1")
    model: str = Field(description="the name under which it serves the model")
    chat: bool = Field(
        default=False, description="ask /chat/completions, for servers that do not take tokens; the template is theirs"
    )
    body: dict[str, Any] = Field(
        default={}, description="fields to add to each request, such as top_p; null leaves one of ours out"
    )
    api_key_variable: str | None = Field(
        default=None, description="environment variable that holds the key; empty: no key is sent"
    )
    timeout_seconds: float = Field(default=600.0, gt=0, description="for one turn, retries and all; then the run ends")


class SamplingSection(_Section):
    """Tokens that are left out of sampling, in training and evaluation; log-probabilities are of what is left."""

    top_k: int = Field(default=0, ge=0, description="only so many of the most likely tokens; 0: all")
    top_p: float = Field(default=1.0, gt=0, le=1, description="only the most likely tokens that have this probability")
    min_p: float = Field(default=0.0, ge=0, le=1, description="only tokens so likely beside the most likely one")


class RolloutSection(_Section):
    """Where an episode ends, and how many run side by side."""

    max_turns: int = Field(default=4, ge=1, description="turns of the policy; a search in the last is not run")
    max_turn_tokens: int = Field(default=500, ge=1, description="tokens that the policy may sample in one turn")
    max_feedback_tokens: int = Field(default=500, ge=1, description="tokens of passages after one search")
    max_total_tokens: int = Field(default=4096, ge=16, description="tokens of prompt, policy and feedback together")
    top_k: int = Field(default=3, ge=1, description="passages a search returns")
    retriever: str | None = Field(
        default=None,
        description="what is searched: an index folder, http(s)://HOST (tspo serve or Search-R1's server), "
        "searxng+http(s)://HOST or serper:// (the web); empty: BM25 over the corpus",
    )
    retriever_deadline: float = Field(
        default=120.0, gt=0, description="seconds a search over HTTP may take, retries and all; then its episode ends"
    )
    retriever_give_up_after: float = Field(
        default=300.0, gt=0, description="seconds of searches over HTTP without any answer; then the run ends"
    )
    query_cache: QueryCacheSection | None = Field(default=None, description="keep the answers of rollout.retriever")
    temperature: float = Field(default=1.0, gt=0, description="sampling temperature in training")
    sampling: SamplingSection = Field(
        default_factory=SamplingSection, description="what else decides which tokens are sampled"
    )
    concurrency: int = Field(default=32, ge=1, description="episodes that run side by side")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None, description="precision of sampling; empty: the model's own"
    )
    sampler: Literal["auto", "transformers", "vllm", "openai"] = Field(
        default="auto",
        description="what samples from the policy; auto: vllm where there is a GPU and vLLM is installed, else "
        "transformers; openai: a server, for evaluation only",
    )
    vllm: dict[str, Any] = Field(
        default={}, description="fields of vLLM's AsyncEngineArgs: gpu_memory_utilization, tensor_parallel_size, ..."
    )
    server: ServerSection | None = Field(default=None, description="the server that rollout.sampler=openai asks")
    prompt: str = Field(default=PROMPT, description="the prompt, with {question} once; default: Search-R1's")

    def limits(self) -> Limits:
        """The limits of the agent loop."""
        return Limits(**{name: getattr(self, name) for name in Limits.__dataclass_fields__})


class CreditSection(_Section):
    """How trajectories are rewarded and compared; the options of `tspo credit`."""

    algorithm: str = Field(
        default="tspo",
        description="advantage estimator: tspo, grpo, dr_grpo, rloo, reinforce_plus_plus, "
        "reinforce_plus_plus_baseline, mt_grpo, gigpo, igpo; with --engine verl ppo too",
    )
    reward: str = Field(
        default="own",
        description="what turns earn: own (the algorithm's), outcome, folr, search_r1, evidence, stepsearch, "
        "information_gain",
    )
    alpha: float = Field(default=0.5, description="reward of the turn that first found the answer, 0 to 1")
    preset: Literal["recommended", "abstract", "turn_if_all_wrong"] | None = Field(
        default=None,
        description="a reading of the paper by name, which sets credit and level: recommended is the default of both",
    )
    credit: str = Field(
        default="through_first_turn", description="near-miss turns that earn it: first_turn, through_first_turn"
    )
    match: str = Field(default="token", description="how an answer is found in feedback: token or substring")
    ignore: tuple[str, ...] = Field(default=("yes", "no"), description="answers that are no evidence in a passage")
    baseline: str = Field(default="absorbing", description="whom a turn is compared with: absorbing or reached")
    level: str = Field(default="turn", description="turn, or turn_if_all_wrong")
    scale: str = Field(default="std", description="divide advantages by the group's std, or none")
    gamma: float = Field(
        default=1.0, description="discount of later turns' rewards, 0 to 1: reinforce_plus_plus, gigpo, igpo, ppo"
    )
    gae_lambda: float = Field(
        default=1.0, description="how far advantages look past the critic's next value, 0 to 1: ppo"
    )
    turn_weight: float = Field(default=1.0, description="weight of a turn's own advantage: mt_grpo, gigpo")
    anchor_similarity: float = Field(default=1.0, description="feedback so much alike is one state, 0 to 1: gigpo")
    order: str = Field(default="normalize_first", description="normalize_first or accumulate_first: igpo")
    unsearched: str = Field(
        default="outcome", description="what the only turn of a trajectory is compared by, outcome or combined: mt_grpo"
    )
    format_score: float = Field(default=0.2, description="what keeping the format is worth, 0 to 1: search_r1")
    broken_format_score: float = Field(
        default=0.0, description="what a wrong answer earns in a broken format: search_r1"
    )
    retrieval_score: float = Field(default=0.0, description="what a passage with an answer adds: search_r1")
    process_scale: float = Field(default=1.0, description="factor of what searches earn: stepsearch")

    @model_validator(mode="before")
    @classmethod
    def _of_preset(cls, values: Any) -> Any:
        """What a preset stands for, but for what is said beside it."""
        if isinstance(values, dict) and isinstance(preset := values.get("preset"), str):
            return PRESETS.get(preset, {}) | values
        return values

    @field_validator("ignore", mode="before")
    @classmethod
    def _yes_and_no(cls, value: Any) -> Any:
        """YAML reads a bare yes as true, and no as false."""
        words = {True: "yes", False: "no"}
        return (
            [words.get(one, one) if isinstance(one, bool) else one for one in value]
            if isinstance(value, list)
            else value
        )

    def to_config(self) -> CreditConfig:
        """The checked options, as rewards and advantages take them."""
        return CreditConfig(**self.model_dump(exclude={"preset"}))


class LoraSection(_Section):
    """Low-rank adapters (PEFT) instead of all weights."""

    r: int = Field(default=16, ge=1, description="rank")
    alpha: int = Field(default=32, ge=1, description="scale is alpha / r")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout of the adapters' input")
    target_modules: str | list[str] = Field(default="all-linear", description="modules that get an adapter")
    base_dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="precision of the frozen weights; bfloat16 takes half the memory"
    )


class HubSection(_Section):
    """Where the trained model is pushed when the run has ended."""

    repository: str = Field(description="ORG/NAME on the hub; made at the start of the run if it is not there")
    private: bool = Field(default=False, description="make it private")
    revision: str | None = Field(default=None, description="branch to push to; empty: the main one")


class TrainingSection(_Section):
    """The policy update, checkpoints, and where metrics go."""

    steps: int = Field(default=100, ge=1, description="steps; each is one rollout and the updates on it")
    groups_per_step: int = Field(default=8, ge=1, description="questions per step, over all processes")
    group_size: int = Field(default=5, ge=2, description="trajectories per question (G)")
    epochs: int = Field(default=1, ge=1, description="times that the updates go over each rollout")
    minibatches: int = Field(default=1, ge=1, description="optimizer steps per epoch; whole groups go to each")
    micro_batch: int = Field(
        default=4, ge=1, description="trajectories of one forward and backward pass per process, at most"
    )
    pass_tokens: int | None = Field(
        default=None, ge=1, description="tokens of one pass, at most; empty: 1024 on a CPU, 16384 elsewhere"
    )
    objective: Literal["ppo", "gspo", "cispo", "reinforce"] = Field(
        default="ppo",
        description="ppo: clipped ratio per token; gspo: per trajectory; cispo: clipped weight, whole gradient; "
        "reinforce: no ratio",
    )
    average: Literal["tokens", "trajectories", "constant"] = Field(
        default="tokens",
        description="what the loss is a mean over: the tokens of the update, its trajectories (of the mean over "
        "their tokens), or trajectories x average_length",
    )
    average_length: int | None = Field(
        default=None, ge=1, description="tokens, for average=constant; empty: rollout.max_total_tokens"
    )
    epsilon: float = Field(default=0.2, gt=0, lt=1, description="PPO clip range, below 1")
    epsilon_high: float | None = Field(default=None, gt=0, description="clip range above 1; empty: epsilon")
    beta: float = Field(default=0.001, ge=0, description="weight of KL(policy || reference); 0 loads no reference")
    kl: Literal["k3", "k1"] = Field(default="k3", description="estimator of the KL per token")
    optimizer: Literal["adamw", "sgd", "adafactor"] = Field(default="adamw", description="one of torch's")
    learning_rate: float = Field(default=1e-6, gt=0, description="peak of the schedule")
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine", "inverse_sqrt"] = Field(
        default="constant", description="learning-rate schedule, by its transformers name"
    )
    lr_warmup_steps: int = Field(default=0, ge=0, description="optimizer steps in which the learning rate rises")
    weight_decay: float = Field(default=0.0, ge=0, description="of the optimizer; not on biases and norms")
    adam_beta1: float = Field(default=0.9, ge=0, lt=1, description="decay of the mean of gradients: adamw")
    adam_beta2: float = Field(default=0.999, ge=0, lt=1, description="decay of the mean of their squares: adamw")
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradients are clipped to this norm")
    max_skipped: int = Field(
        default=3, ge=1, description="steps in a row without a finite gradient, which change nothing, that end the run"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="bfloat16", description="precision of the update; weights and optimizer stay float32"
    )
    gradient_checkpointing: bool | None = Field(
        default=None, description="compute activations again in the backward pass; empty: on a GPU"
    )
    compile: bool = Field(default=False, description="compile the policy's layers for the update (torch.compile)")
    save_every: int = Field(default=10, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(default=2, ge=2, description="checkpoints kept; the oldest go first")
    token_details: bool = Field(
        default=True, description="write of each policy token what `tspo view` shows: its place in the text, its ratio"
    )
    answer_cue: str = Field(
        default=ANSWER_CUE,
        description="information_gain: what is written before a golden answer whose probability is asked for; "
        "best what the policy itself would write",
    )
    lora: LoraSection | None = Field(default=None, description="train adapters instead of all weights")
    report_to: list[str] = Field(default=[], description="trackers: wandb, tensorboard, trackio, .. as in accelerate")
    project: str = Field(default="tspo", description="the trackers' project")
    run_name: str | None = Field(default=None, description="the run's name there; empty: that of output_dir")
    hub: HubSection | None = Field(default=None, description="push the model to the hub at the end")

    @field_validator("report_to", mode="before")
    @classmethod
    def _one_tracker(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class WarmupSection(_Section):
    """Supervised warm start on demonstrations made from supporting titles."""

    epochs: float = Field(default=0.0, ge=0, description="passes over the demonstrations; 0: no warm-up")
    batch_size: int = Field(default=8, ge=1, description="demonstrations a step")
    learning_rate: float = Field(default=2e-5, gt=0, description="peak, of a cosine schedule")
    max_demonstrations: int | None = Field(default=None, ge=1, description="how many are used; empty: all")


class EvaluationSection(_Section):
    """Evaluation before and after training, and by `tspo evaluate`."""

    temperature: float = Field(default=0.0, ge=0, description="0 is greedy")
    samples: int = Field(default=1, ge=1, description="trajectories a question")
    batch: int | None = Field(default=None, ge=1, description="episodes side by side; empty: rollout.concurrency")
    before: bool = Field(default=True, description="evaluate the model before anything is trained")


class VerlSection(_Section):
    """The cluster of `tspo train --engine verl`, and what only verl has."""

    ray: str = Field(
        default="local",
        description="local: start Ray on this machine; auto: join the Ray that runs here; else its address, "
        "HOST:PORT or ray://HOST:PORT",
    )
    nodes: int = Field(default=1, ge=1, description="machines")
    gpus_per_node: int = Field(default=8, ge=1, description="GPUs of each; with device=cpu, training processes")
    gpu_memory: float = Field(default=80.0, gt=0, description="GB of one GPU, where it cannot be asked")
    tensor_parallel: int = Field(default=1, ge=1, description="GPUs that share one vLLM replica")
    gpu_memory_utilization: float = Field(default=0.5, gt=0, le=1, description="vLLM's share of a GPU while it samples")
    tokens_per_gpu: int = Field(
        default=16384, ge=16, description="tokens of one forward and backward pass per GPU; in place of micro_batch"
    )
    critic_learning_rate: float = Field(default=1e-5, gt=0, description="peak learning rate of the critic: ppo")
    critic_warmup: int = Field(default=0, ge=0, description="steps in which only the critic learns: ppo")
    offload: bool = Field(default=False, description="keep weights and optimizer in the host's memory between uses")
    mode: Literal["sync", "colocate_async", "separate_async"] = Field(
        default="sync", description="verl's trainer: sync is on policy, the others sample while they train"
    )
    agent_workers: int = Field(default=8, ge=1, description="processes that run episodes, over all nodes")
    test_every: int | None = Field(default=None, ge=1, description="steps between evaluations; empty: only at the end")
    config: dict[str, Any] = Field(
        default={}, description="any other key of verl's configuration, nested or dotted; goes over the translation"
    )


class RunConfig(_Section):
    """A whole run."""

    model: str = Field(description="ORG/NAME on the hub, a local folder, gguf:PACKAGE_OR_FILE, or tspo:starter")
    output_dir: Path = Field(
        default=Path("runs/run"),
        description="where everything of this run is written; default: runs/ and the file's name",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="of everything that is random")
    device: Literal["auto", "cpu"] = Field(default="auto", description="cpu: even where there is a GPU")
    data: DataSection
    rollout: RolloutSection = Field(default_factory=RolloutSection)
    credit: CreditSection = Field(default_factory=CreditSection)
    training: TrainingSection = Field(default_factory=TrainingSection)
    warmup: WarmupSection = Field(default_factory=WarmupSection)
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection)
    verl: VerlSection = Field(default_factory=VerlSection)

    @model_validator(mode="after")
    def _options_fit_together(self) -> RunConfig:
        try:
            self.credit.to_config()
        except BadInput as error:
            raise ValueError(f"credit.{error}") from None
        if self.rollout.retriever is None:
            if self.data.corpus is None and self.data.world is None:
                raise ValueError(
                    f"data: {_MISSING.format('corpus')}, or name an index or a service in rollout.retriever"
                )
            if self.rollout.query_cache is not None:
                raise ValueError("rollout.query_cache: BM25 in this process needs none; it is for rollout.retriever")
        if (self.rollout.sampler == "openai") != (self.rollout.server is not None):
            raise ValueError("rollout.server: goes with rollout.sampler=openai, which needs its url and model")
        if self.training.groups_per_step % self.training.minibatches:
            raise ValueError(
                f"training.minibatches: {self.training.minibatches} does not divide groups_per_step "
                f"= {self.training.groups_per_step}"
            )
        _check_choices_have_options(self.training)
        return self


_OPTIONS = (
    ("epsilon", "objective", ("ppo", "gspo")),
    ("epsilon_high", "objective", ("ppo", "gspo", "cispo")),
    ("average_length", "average", ("constant",)),
    ("adam_beta1", "optimizer", ("adamw",)),
    ("adam_beta2", "optimizer", ("adamw",)),
    ("lr_warmup_steps", "lr_scheduler", ("constant_with_warmup", "linear", "cosine", "inverse_sqrt")),
)
"""Options of `training` that not every choice has: the option, what is chosen, and the choices that have it."""


def _check_choices_have_options(training: TrainingSection) -> None:
    """Raise ValueError for an option, but at its default, of a choice that was not made."""

    def is_default(name: str) -> bool:
        return bool(getattr(training, name) == TrainingSection.model_fields[name].default)

    for option, choice, having in _OPTIONS:
        if (chosen := getattr(training, choice)) not in having and not is_default(option):
            raise ValueError(f"training.{option}: {choice}={chosen} has none; it is for {choice}={' or '.join(having)}")
    if training.beta == 0 and not is_default("kl"):
        raise ValueError("training.kl: there is no KL where beta is 0")


def default_config_path() -> Path:
    """The configuration of a run that names none: the starter policy in the embedded world."""
    return Path(__file__).parent / "embedded" / "default.yaml"


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run's file and put `key=value` over it (dotted keys, values in YAML).

    Relative paths in the file are relative to its folder, those in overrides to the working folder.
    Raises BadInput for a file that cannot be read, an unknown key (naming those there are), keys of older versions
    (saying for each where it is now), or a bad value.
    """
    values = _read_yaml(path)
    _make_paths_absolute(values, path.parent)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise BadInput(f"{override!r}: expected key=value, for example training.steps=50")
        try:
            value = load_yaml(text)
        except ValueError:
            raise BadInput(f"{override!r}: the value is not YAML; quote it") from None
        _set(values, key, value)
    values.setdefault("output_dir", f"runs/{path.stem}")
    return make_config(values, path, {override.partition("=")[0] for override in overrides})


def make_config(values: Mapping[str, Any], where: object, given_apart: Set[str] = frozenset()) -> RunConfig:
    """The settings of a nested mapping, paths relative to the working folder; `where` is what they were read from.

    Keys that were `given_apart` came from the command line. Raises BadInput as `load_config`.
    """
    values = without_old_settings(values, where)
    _make_paths_absolute(values, Path.cwd())
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        said = _explain(error)
        # what is wrong with several keys at once begins with the one that is to be changed
        place = ".".join(str(part) for part in error.errors()[0]["loc"]) or said.partition(":")[0]
        apart = any(f"{place}.".startswith(f"{key}.") or key.startswith(f"{place}.") for key in given_apart)
        raise BadInput(said if apart else f"{where}: {said}") from None


def default_of(key: str) -> Any:
    """The default of a setting as JSON has it, of a section all of its own; None where there is no such setting."""
    section: type[BaseModel] | None = RunConfig
    *sections, name = key.split(".")
    for part in sections:
        field = None if section is None else section.model_fields.get(part)
        section = None if field is None else _section_in(field.annotation)
    field = None if section is None else section.model_fields.get(name)
    if field is None or field.is_required():
        return None
    return to_jsonable_python(field.get_default(call_default_factory=True))


def describe_settings() -> str:
    """Every setting as Markdown, a table a section."""
    sections: list[tuple[str, type[BaseModel]]] = [("", RunConfig)]
    parts = []
    while sections:
        prefix, section = sections.pop(0)
        rows = []
        for name, field in section.model_fields.items():
            key = f"{prefix}{name}"
            inner = _section_in(field.annotation)
            if inner is not None:
                sections.append((f"{key}.", inner))
                continue
            kind = str(field.annotation.__name__ if isinstance(field.annotation, type) else field.annotation)
            kind = re.sub(r"typing\.|pathlib\.", "", kind).replace("|", "or")
            default = "required" if field.is_required() else f"`{json.dumps(field.get_default(), default=_plain)}`"
            if key == "rollout.prompt":
                default = "Search-R1's prompt"
            rows.append(f"| `{key}` | {kind} | {default} | {field.description or ''} |")
        title = f"`{prefix[:-1]}`: {section.__doc__}" if prefix else "The run"
        parts.append(
            "\n".join([f"## {title}", "", "| key | type | default | meaning |", "| --- | --- | --- | --- |", *rows])
        )
    return "\n\n".join(parts)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else list(value)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, also where it may be None."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: cannot read the configuration ({error.strerror})") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path}: the configuration is not UTF-8 text") from None
    except ValueError as error:
        raise BadInput(f"{path}: not YAML ({error})") from None
    if not isinstance(values, dict):
        raise BadInput(f"{path}: expected a mapping of settings; see configs/ for examples")
    return values


def _make_paths_absolute(values: dict[str, Any], folder: Path) -> None:
    def absolute(value: Any) -> Any:
        return os.path.normpath(folder.absolute() / Path(value).expanduser()) if isinstance(value, str) else value

    # A model's name may be one on the hub: only what is plainly a path is taken for one.
    if str(values.get("model")).startswith(("./", "../", "~/")):
        values["model"] = absolute(values["model"])
    if "output_dir" in values:
        values["output_dir"] = absolute(values["output_dir"])
    data = values.get("data")
    if isinstance(data, dict):
        for name in ("train", "test"):
            if isinstance(data.get(name), str):
                data[name] = [data[name]]
            if isinstance(data.get(name), list):
                data[name] = [
                    item if isinstance(item, str) and means_a_name(item, folder) else absolute(item)
                    for item in data[name]
                ]
        if "corpus" in data:
            data["corpus"] = absolute(data["corpus"])
    rollout = values.get("rollout")
    if isinstance(rollout, dict):
        if isinstance(place := rollout.get("retriever"), str) and not is_remote(place):
            rollout["retriever"] = absolute(place)
        if isinstance(cache := rollout.get("query_cache"), dict) and "path" in cache:
            cache["path"] = absolute(cache["path"])


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if inner is None:
            inner = values[section] = {}
        if not isinstance(inner, dict):
            raise BadInput(f"{key}: {section!r} is not a section")
        values = inner
    values[name] = value


def _explain(error: ValidationError) -> str:
    """The first thing that is wrong, in one line."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        valid = sorted(_fields_at(first["loc"][:-1]))
        near = _nearest(place, valid)
        hint = f"; did you mean {near!r}?" if near else "."
        return f"unknown key {place!r}{hint} Valid keys there: {', '.join(valid)}"
    if first["type"] == "missing":
        return f"{place!r} is missing"
    message = first["msg"].removeprefix("Value error, ")
    if not place:
        return message
    return f"{place!r}: {message[0].lower() + message[1:]}, got {first['input']!r}"


_ELSEWHERE = {
    "lr": "training.learning_rate",
    "max_steps": "training.steps",
    "num_generations": "training.group_size",
    "n": "training.group_size",
    "train_batch_size": "training.groups_per_step",
    "batch_size": "training.groups_per_step",
    "num_train_epochs": "training.steps",
    "per_device_train_batch_size": "training.micro_batch",
    "kl_coef": "training.beta",
    "kl_loss_coef": "training.beta",
    "clip_ratio": "training.epsilon",
    "loss_type": "training.average",
    "warmup_ratio": "training.lr_warmup_steps",
    "max_prompt_length": "rollout.max_total_tokens",
    "max_completion_length": "rollout.max_total_tokens",
    "topk": "rollout.top_k",
    "logging_dir": "output_dir",
}
"""What TRL, verl and others call a setting, and its key here."""


def _nearest(place: str, valid: Sequence[str]) -> str | None:
    """The key that `place` probably means: one beside it, the same name in another section, or one of other names."""
    *sections, name = place.split(".")
    if name in _ELSEWHERE:
        return _ELSEWHERE[name]
    if near := difflib.get_close_matches(name, valid, n=1):
        return ".".join([*sections, near[0]])
    # where several sections have the name, the training's is taken, else the first
    keys = _all_keys(RunConfig, "")[::-1]
    keys.sort(key=lambda key: key.startswith("training."))
    by_name = {key.rpartition(".")[2]: key for key in keys}
    near = difflib.get_close_matches(name, by_name, n=1, cutoff=0.75)
    return by_name[near[0]] if near else None


def _all_keys(section: type[BaseModel], prefix: str) -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        inner = _section_in(field.annotation)
        keys += [f"{prefix}{name}"] if inner is None else _all_keys(inner, f"{prefix}{name}.")
    return keys


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    section: type[BaseModel] = RunConfig
    for part in location:
        section = _section_in(section.model_fields[str(part)].annotation) or section
    return list(section.model_fields)
