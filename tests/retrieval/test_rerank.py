import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers

from tspo.errors import BadInput
from tspo.retrieval.base import Passage
from tspo.retrieval.rerank import CrossEncoder, RerankedRetriever

CONTENTS = ["paris", "rome is the capital of italy", "music", "", "a b c d painter"]


class Fixed:
    def __init__(self):
        self.asked = []

    def search(self, queries, top_k):
        self.asked.append(top_k)
        passages = [Passage(str(n), text, -float(n)) for n, text in enumerate(CONTENTS)]
        return [passages[:top_k] if query else [] for query in queries]


@pytest.fixture(scope="module")
def folder(tiny_bert):
    return tiny_bert("BertForSequenceClassification", num_labels=1)


@pytest.fixture(scope="module")
def cross_encoder(folder):
    return CrossEncoder(folder, batch_size=2)


def by_hand(folder, query, text):
    tokens = transformers.AutoTokenizer.from_pretrained(folder)([query], [text], return_tensors="pt")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        return model.eval()(**tokens).logits.item()


def test_scores_are_those_of_each_pair_alone(cross_encoder, folder):
    pairs = [("rome ?", text) for text in CONTENTS]
    assert cross_encoder.scores(pairs) == pytest.approx([by_hand(folder, *pair) for pair in pairs], abs=1e-4)
    assert cross_encoder.scores([]) == []


def test_passages_come_in_the_order_of_the_cross_encoder(cross_encoder):
    inner = Fixed()
    rows = RerankedRetriever(inner, cross_encoder, candidates=4).search(["rome ?", "", "music"], 3)
    assert inner.asked == [4]
    assert rows[1] == []
    for query, row in ((query, row) for query, row in zip(["rome ?", "", "music"], rows, strict=True) if query):
        scores = cross_encoder.scores([(query, text) for text in CONTENTS[:4]])
        best = sorted(range(4), key=lambda n: -scores[n])[:3]
        assert [passage.id for passage in row] == [str(n) for n in best]
        assert [passage.score for passage in row] == pytest.approx([scores[n] for n in best], abs=1e-4)


def test_long_pairs_are_cut(cross_encoder):
    long, cut = cross_encoder.scores([("rome " * 10_000, "paris " * 10_000), ("rome " * 31, "paris " * 30)])
    assert long == pytest.approx(cut, abs=1e-4)  # 64 positions, three of them for the ends


def test_a_model_with_other_scores_is_refused(tiny_bert):
    with pytest.raises(BadInput, match="gives 2 scores a pair"):
        CrossEncoder(tiny_bert("BertForSequenceClassification", num_labels=2))
