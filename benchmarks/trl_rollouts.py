"""TRL's rollouts for rollouts.py: the generation of a stock GRPOTrainer with a search tool, on transformers.

What is timed is `GRPOTrainer._generate_and_score_completions`, which a training step calls for a generation batch:
prompts to tokens, `generate`, parsing, the tools' loop, padding, and a reward that is a constant. Its settings are such
that it makes no forward pass of its own for log-probabilities (TRL computes them in the update), so rollouts have none.
The model is in bfloat16 and is not wrapped for autocast, which training would do and which only costs time.

No code of TRL is replaced. What makes the work equal to that of the other engines is given as a user would give it:
`generation_kwargs` with as many new tokens at least as at most; a response template in which all that the model writes
is the query of one call of `search`; a chat template that shows a tool's answer between the protocol's tags; and a tool
that searches for the script's query in place of the model's. TRL calls tools one at a time, in the order of the
episodes, which is how the tool knows whose turn it is.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from rollout_workload import SEARCHES, Engine, Read, Workload
from torch_models import bfloat16_model
from tspo.protocol import INFORMATION_CLOSE, INFORMATION_OPEN, PROMPT

EVERYTHING_IS_A_SEARCH = {
    "defaults": {"role": "assistant"},
    "start_anchor_pattern": r"\Z",  # nothing of what came before is the model's
    "fields": {
        "tool_calls": {
            "content": "text",
            "repeats": True,
            "transform": {"type": "function", "function": {"name": "search", "arguments": {"query": "{content}"}}},
        }
    },
}

# The model's own template for prompts; conversations with calls are only rendered to find what a tool's answer adds.
CHAT_TEMPLATE = """\
{{%- if messages | selectattr("tool_calls", "defined") | list -%}}
{{%- for message in messages -%}}
{{%- if message.role == "tool" -%}}{{{{ "{open}" + message.content + "{close}" }}}}
{{%- else -%}}{{{{ message.content }}}}
{{%- for call in message.tool_calls or [] -%}}
<search>{{{{ call.function.name }}}} {{{{ call.function.arguments | tojson }}}}</search>
{{%- endfor -%}}
{{{{ eos_token }}}}
{{%- endif -%}}
{{%- endfor -%}}
{{%- else -%}}{prompts}{{%- endif -%}}"""


class Trl(Engine):
    """GRPOTrainer with `tools=[search]`, never trained."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        warnings.simplefilter("ignore", FutureWarning)  # of TRL's own defaults
        self.tokenizer.response_template = EVERYTHING_IS_A_SEARCH
        self.tokenizer.chat_template = CHAT_TEMPLATE.format(
            open=INFORMATION_OPEN.replace("\n", r"\n"),
            close=INFORMATION_CLOSE.replace("\n", r"\n"),
            prompts=self.tokenizer.chat_template,
        )
        self._folder = tempfile.TemporaryDirectory()
        config = GRPOConfig(
            output_dir=self._folder.name,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            per_device_train_batch_size=workload.group,
            gradient_accumulation_steps=max(1, workload.concurrency // workload.group),
            num_generations=workload.group,
            max_completion_length=self.capacity(),
            max_tool_calling_iterations=SEARCHES,
            temperature=1.0,
            generation_kwargs={"min_new_tokens": workload.turn_tokens, "max_new_tokens": workload.turn_tokens},
        )
        rows = [{"prompt": self._messages(episode)} for episode in range(0, workload.concurrency, workload.group)]
        self._trainer = GRPOTrainer(
            bfloat16_model(workload),
            args=config,
            processing_class=self.tokenizer,
            train_dataset=Dataset.from_list(rows),
            reward_funcs=[_no_reward],
            tools=[self._tool()],
        )
        self._trainer.model.train()
        self._waiting: list[str] = []
        self._answered: list[str] = []

    def rollout(self, episodes: Sequence[int], seed: int) -> list[Read]:
        """See `Engine`."""
        torch.manual_seed(seed)
        return [done for batch in self.batches(episodes) for done in self._batch(batch)]

    def _batch(self, episodes: Sequence[int]) -> list[Read]:
        queries = [self.workload.queries(episode) for episode in episodes]
        self._waiting = [of_one[turn] for turn in range(SEARCHES) for of_one in queries]
        self._answered = []
        output = self._trainer._generate_and_score_completions(
            [{"prompt": self._messages(episode)} for episode in episodes]
        )
        if self._waiting:
            raise ValueError(f"TRL did not make {len(self._waiting)} of its searches")
        sampled = (output["completion_mask"] * output["tool_mask"]).sum(1).tolist()
        everything = output["completion_mask"].sum(1).tolist()
        return [
            Read(
                prompt_tokens=int(output["prompt_mask"][i].sum()),
                feedback=self._answered[i :: len(episodes)],
                feedback_tokens=everything[i] - sampled[i],
                sampled_tokens=sampled[i],
            )
            for i in range(len(episodes))
        ]

    def _messages(self, episode: int) -> list[dict[str, str]]:
        question = self.workload.question(episode).question
        return [{"role": "user", "content": PROMPT.replace("{question}", question)}]

    def _tool(self) -> Any:
        def search(query: str) -> str:
            """Search for passages.

            Args:
                query: What to search for.
            """
            text, _ = self.search([self._waiting.pop(0)])[0]
            self._answered.append(text)
            return text

        return search


def _no_reward(completions: list[Any], **_: Any) -> list[float]:
    return [0.0] * len(completions)
