"""The starter's tokenizer: byte-level BPE that keeps the protocol's fixed pieces whole."""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tspo.datasets.world import make_questions, make_world, passages
from tspo.protocol import INFORMATION_CLOSE, INFORMATION_OPEN, render_passages

START, END = "<|start|>", "<|end|>"

# Tags and the frame of a passage are one piece each; everything else is words, digits and punctuation.
_PIECES = r' ?</?[a-z]+>|Doc \d(?=\()|\(Title: "|"\)| ?\p{L}+| ?\p{N}|\n+| ?[^\s\p{L}\p{N}]|\s'
_THOUGHTS = (
    "<think> I need the {0}. </think>\n<search> {1} </search>",
    "<think> The {0} is {1}. I need the {0}. </think>\n<search> {1} </search>",
    "<think> The {0} is {1}. </think>\n<answer> {1} </answer>",
)


def make_tokenizer(vocabulary: int, worlds: int) -> PreTrainedTokenizerFast:
    """Learn `vocabulary` tokens from what an agent reads and writes in `worlds` worlds."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _pieces(_PIECES)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(worlds), trainer)
    # the first word of a question is not one with the space before it, so that the question is the same anywhere
    tokenizer.pre_tokenizer = _pieces(_PIECES.replace("|Doc", "|(?<=Question:) |Doc", 1))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=START, eos_token=END, pad_token=END)


def _pieces(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _texts(worlds: int) -> Iterator[str]:
    for seed in range(worlds):
        world = make_world(1500, seed)
        contents = [document.contents for document in passages(world)]
        for at in range(0, len(contents), 3):
            yield INFORMATION_OPEN + render_passages(contents[at : at + 3]) + INFORMATION_CLOSE
        for made in make_questions(world, 600, 0, (1, 2, 3), seed).train:
            yield f"Question: {made.question.question}\n"
            for entity, relation in zip(made.chain.entities, made.chain.relations, strict=False):
                for thought in _THOUGHTS:
                    yield thought.format(relation, world.name(entity))
