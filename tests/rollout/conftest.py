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

    def lessons(self) -> list[tuple[list[int], list[int]]]:
        """What it knows: prompts, and what follows."""
        policy = self.codec.policy
        episode = [*policy(SEARCH), *self.feedback(), *policy(f"{ANSWER} and so on")]
        turns = [(self.prompt(word), [*policy(turn), *policy(more)]) for word, (turn, more, _) in TURNS.items()]
        return [*turns, (self.prompt(QUESTION), episode)]

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


def teach(model: Any, lessons: list[tuple[list[int], list[int]]]) -> None:
    """Fit `model` to what follows each prompt, until it is sure of it."""
    import torch

    pad = torch.nn.utils.rnn.pad_sequence
    tokens = pad([torch.tensor([*prompt, *rest]) for prompt, rest in lessons], batch_first=True)
    labels = [torch.tensor([-100] * len(prompt) + rest) for prompt, rest in lessons]
    labels = pad(labels, batch_first=True, padding_value=-100)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model is slower on several, and much slower on a busy machine
    for _ in range(300):
        loss = model(tokens, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.002:
            break
    torch.set_num_threads(threads)
    model.requires_grad_(False)


@pytest.fixture(scope="session")
def taught(tiny_tokenizer: Any, random_llama: Callable[..., Any]) -> Taught:
    """See `Taught`; no test may change its model: copy it first."""
    import copy

    from tspo.rollout.codec import Codec

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_tokens([">!?"])
    taught = Taught(random_llama(tokenizer, heads=2), Codec(tokenizer))
    teach(taught.model, taught.lessons())
    return taught
