from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

# A prompt is one word; the policy would go on after each turn if nobody stopped it.
TURNS = {
    "first": ("<think>a > b</think><search>x</search>", " and more", "stop"),
    "second": ("<answer>Rome</answer>", " and so on", "stop"),
    "third": ("hm<|im_end|>", "more to say", "end"),
    "fourth": ("<search>x</information></think>", " no end in sight", "length"),
    "fifth": ("<search>y</search>!?", " after a token that holds more than the tag", "stop"),
    "sixth": ("a <|im_start|>user is no end", ", nor is <|endoftext|>", "length"),
}
QUESTION, PASSAGES = "seventh", ['"Paris"\nParis is the capital of France.']
SEARCH, ANSWER = "<search>Paris</search>", "<answer>Paris</answer>"


@dataclass(frozen=True)
class Taught:
    """A model that knows TURNS and one episode of two turns by heart, so that no token is near a tie."""

    model: Any
    codec: Any

    def save(self, folder: Any) -> str:
        self.model.save_pretrained(folder)
        self.codec.tokenizer.save_pretrained(folder)
        return str(folder)

    def prompt(self, word: str) -> list[int]:
        return self.codec.policy(f"<|im_start|>{word}:")

    def sequences(self) -> list[list[int]]:
        policy = self.codec.policy
        episode = [*self.prompt(QUESTION), *policy(SEARCH), *self.feedback(), *policy(f"{ANSWER} and so on")]
        return [[*self.prompt(word), *policy(turn), *policy(more)] for word, (turn, more, _) in TURNS.items()] + [
            episode
        ]

    def feedback(self) -> list[int]:
        return self.codec.feedback(PASSAGES, 100)[1]

    def margin(self, context: list[int], sampled: list[int]) -> float:
        """The least distance of the two best logits where `sampled` was sampled."""
        import torch

        with torch.no_grad():
            logits = self.model(torch.tensor([[*context, *sampled]])).logits[0, len(context) - 1 : -1]
        best = logits.topk(2).values
        return float((best[:, 0] - best[:, 1]).min())

    async def two_turns(self, sampler: Any, seed: str = "seed", most: int = 40) -> tuple[Any, Any]:
        async with sampler.session(seed) as session:
            first = await session.sample(self.prompt(QUESTION), most)
            return first, await session.sample(self.feedback(), most)

    async def turn(self, sampler: Any, word: str) -> Any:
        written, _, finish = TURNS[word]
        most = len(self.codec.policy(written)) if finish == "length" else 100
        async with sampler.session("seed") as session:
            return await session.sample(self.prompt(word), most)


def teach(model: Any, sequences: list[list[int]]) -> None:
    """Fit `model` to `sequences` until it is sure of every token."""
    import torch

    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(300):
        loss = torch.stack([model(torch.tensor([ids]), labels=torch.tensor([ids])).loss for ids in sequences]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.requires_grad_(False)


@pytest.fixture(scope="session")
def taught(tiny_tokenizer: Any, random_llama: Callable[..., Any]) -> Taught:
    """See `Taught`; no test may change its model: copy it first."""
    import copy

    from tspo.rollout.codec import Codec

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_tokens([">!?"])
    taught = Taught(random_llama(tokenizer, heads=2), Codec(tokenizer))
    teach(taught.model, taught.sequences())
    return taught
