import json
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers

from tspo.errors import BadInput
from tspo.retrieval.encoder import TextEncoder, encoder_settings

TEXTS = ["paris is the capital of france", "a", "rome ? rome ! italy music painter river", "", "capital of italy"]


@pytest.fixture(scope="module")
def folder(tiny_bert):
    return tiny_bert()


@pytest.fixture
def encoder(folder):
    return TextEncoder(encoder_settings(folder, max_tokens=16), dtype=torch.float32)


def by_hand(folder, text):
    """The mean of the token states, one text at a time."""
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        states = transformers.AutoModel.from_pretrained(folder)(**tokens).last_hidden_state[0]
    mean = states.mean(dim=0).numpy()
    return mean / np.linalg.norm(mean)


def test_vectors_are_means_of_length_one_in_the_order_of_the_texts(encoder, folder):
    vectors = encoder.encode_passages(TEXTS)
    assert (vectors.shape, vectors.dtype) == ((5, 32), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors, [by_hand(folder, text) for text in TEXTS], atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_padding_changes_nothing(encoder, folder, batch_size):
    batched = TextEncoder(encoder.settings, batch_size, torch.float32).encode_passages(TEXTS * 3)
    np.testing.assert_allclose(batched, np.tile(encoder.encode_passages(TEXTS), (3, 1)), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, None])
def test_less_precision_moves_the_vectors_little(encoder, dtype):
    quick = TextEncoder(encoder.settings, dtype=dtype).encode_passages(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(quick, axis=1), 1, atol=1e-5)
    assert np.all(np.sum(quick * encoder.encode_passages(TEXTS), axis=1) > 0.999)


def test_no_texts_no_vectors(encoder):
    assert encoder.encode_queries([]).shape == (0, 32)


def test_prefixes_stand_before_the_texts(folder):
    encoder = TextEncoder(encoder_settings(folder, "query: ", "passage: ", 16))
    plain = TextEncoder(encoder_settings(folder, max_tokens=16))
    np.testing.assert_allclose(encoder.encode_queries(["rome"]), plain.encode_queries(["query: rome"]))
    np.testing.assert_allclose(encoder.encode_passages(["rome"]), plain.encode_queries(["passage: rome"]))
    assert not np.allclose(encoder.encode_queries(["rome"]), encoder.encode_passages(["rome"]), atol=1e-3)


@pytest.mark.parametrize(
    ("model", "prefix"),
    [
        ("intfloat/e5-base-v2", "query: "),
        ("intfloat/multilingual-e5-small", "query: "),
        ("sentence-transformers/all-MiniLM-L6-v2", ""),
    ],
)
def test_e5_has_its_prefixes_by_name_and_they_can_be_changed(model, prefix):
    assert encoder_settings(model).query_prefix == prefix
    assert encoder_settings(model).passage_prefix == prefix.replace("query", "passage")
    assert encoder_settings(model, query_prefix="q ", passage_prefix="").query_prefix == "q "


def test_a_folder_is_remembered_by_its_whole_path(folder, monkeypatch):
    monkeypatch.chdir(os.path.dirname(folder))
    assert encoder_settings(os.path.basename(folder)).model == folder


def test_long_texts_are_cut(encoder):
    words = ["rome"] * 14 + ["paris"] * 100_000  # 16 tokens with the two at the ends
    np.testing.assert_allclose(
        encoder.encode_queries([" ".join(words)]), encoder.encode_queries([" ".join(words[:14])]), atol=1e-5
    )


def test_half_a_surrogate_pair_is_no_error(encoder):
    np.testing.assert_allclose(encoder.encode_queries(["\ud800 rome"]), encoder.encode_queries(["? rome"]))


@pytest.mark.parametrize("max_tokens", [7, 65, 10**6])
def test_more_tokens_than_the_model_has_positions_are_bad_input(folder, max_tokens):
    with pytest.raises(BadInput, match="it takes 8 to 64"):
        TextEncoder(encoder_settings(folder, max_tokens=max_tokens))


def test_a_batch_of_nothing_is_bad_input(folder):
    with pytest.raises(BadInput, match="at least 1"):
        TextEncoder(encoder_settings(folder, max_tokens=16), 0)


def test_what_cannot_be_loaded_is_one_line(tiny_bert, tmp_path):
    damaged = tiny_bert()
    with open(f"{damaged}/model.safetensors", "r+b") as stream:
        stream.truncate(100)
    for model, message in (
        (str(tmp_path / "none"), "there is no such folder"),
        (str(tmp_path), "could not be loaded"),
        (damaged, "could not be loaded"),
    ):
        with pytest.raises(BadInput, match=message) as caught:
            TextEncoder(encoder_settings(model))
        assert model in str(caught.value)
        assert "\n" not in str(caught.value)


def test_weights_that_run_code_are_not_read(tiny_bert):
    folder = tiny_bert()
    model = transformers.AutoModel.from_pretrained(folder)
    torch.save(model.state_dict(), f"{folder}/pytorch_model.bin")
    os.remove(f"{folder}/model.safetensors")
    with pytest.raises(BadInput, match="could not be loaded"):
        TextEncoder(encoder_settings(folder, max_tokens=16))


def test_a_model_that_pools_otherwise_is_refused(tiny_bert):
    folder = tiny_bert()
    pooling = Path(folder) / "1_Pooling"
    pooling.mkdir()
    for mode, accepted in (("mean_tokens", True), ("cls_token", False)):
        modes = {f"pooling_mode_{name}": name == mode for name in ("cls_token", "mean_tokens", "max_tokens")}
        (pooling / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **modes}))
        if accepted:
            TextEncoder(encoder_settings(folder, max_tokens=16))
        else:
            with pytest.raises(BadInput, match="pools by pooling_mode_cls_token"):
                TextEncoder(encoder_settings(folder, max_tokens=16))


def test_minilm_knows_what_texts_mean(minilm):
    encoder = TextEncoder(encoder_settings(minilm))
    passages = ["The cat sat on the mat.", "Berlin is the seat of the German government."]
    query = encoder.encode_queries(["What is the capital of Germany?"])
    cat, berlin = (encoder.encode_passages(passages) @ query.T)[:, 0]
    assert berlin > cat + 0.3
