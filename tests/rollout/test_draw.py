import pytest

pytest.importorskip("torch")

import torch
from hypothesis import given
from hypothesis import strategies as st

from tspo.rollout.draw import distribution, draw
from tspo.rollout.sampler import SamplingOptions


@given(
    st.lists(st.sampled_from([0.0, 1e-30, 1e-6, 0.1, 1.0]), min_size=1, max_size=700).filter(any),
    st.floats(0, 1, exclude_max=True, width=32),
)
def test_a_draw_is_where_the_running_sum_passes_and_never_a_token_that_cannot_be(weights, uniform):
    probabilities = torch.tensor([weights])
    probabilities /= probabilities.sum()
    token = draw(probabilities, torch.tensor([[uniform]])).item()
    assert probabilities[0, token] > 0
    exact = probabilities[0].double().cumsum(0)
    before = exact[token] - probabilities[0, token].double()
    assert before - 1e-5 <= uniform * exact[-1] <= exact[token] + 1e-5


@given(st.integers(0, 99), st.lists(st.integers(0, 3), min_size=1, max_size=9))
def test_several_draws_of_one_distribution_are_those_of_as_many_copies(seed, of):
    torch.manual_seed(seed)
    probabilities, uniform = torch.randn(4, 512).softmax(-1), torch.rand(len(of), 1)
    which = torch.tensor(of)
    assert torch.equal(draw(probabilities, uniform, which), draw(probabilities[which], uniform))


def kept_of(probabilities, options):
    """The distribution by the words of `SamplingOptions`, token by token."""
    order = sorted(range(len(probabilities)), key=lambda token: -probabilities[token])
    kept = order
    if 0 < options.top_k < len(order):
        least = probabilities[order[options.top_k - 1]]
        kept = [token for token in kept if probabilities[token] >= least]
    if options.top_p < 1:
        wanted = options.top_p * sum(probabilities[token] for token in kept)
        have, enough = 0.0, []
        for token in kept:
            if have >= wanted:
                break
            enough.append(token)
            have += probabilities[token]
        kept = enough
    if options.min_p > 0:
        kept = [token for token in kept if probabilities[token] >= options.min_p * probabilities[order[0]]]
    total = sum(probabilities[token] for token in kept)
    return [probabilities[token] / total if token in kept else 0.0 for token in range(len(probabilities))]


# numbers that a sum in float32 has exactly: no rounding can decide what is kept
@given(
    weights=st.lists(st.sampled_from([1, 2, 3, 5, 8, 13, 40]), min_size=1, max_size=40),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 39, 100]),
    top_p=st.sampled_from([0.013, 0.31, 0.77, 0.97, 1.0]),
    min_p=st.sampled_from([0.0, 0.01, 0.17, 0.61, 1.0]),
)
def test_what_is_left_out_is_what_the_options_say(weights, temperature, top_k, top_p, min_p):
    options = SamplingOptions(temperature, top_k, top_p, min_p)
    logits = torch.tensor([weights, weights[::-1]], dtype=torch.float64).log()
    said = distribution(logits, options)
    for row in (0, 1):
        plain = [weight ** (1 / temperature) for weight in (weights, weights[::-1])[row]]
        probabilities = [one / sum(plain) for one in plain]
        assert said[row].tolist() == pytest.approx(kept_of(probabilities, options), abs=1e-9)


def test_with_the_defaults_it_is_the_softmax_to_the_bit():
    logits = torch.randn(3, 1000)
    assert torch.equal(distribution(logits, SamplingOptions()), logits.softmax(-1))


def test_the_most_likely_token_is_always_left():
    logits = torch.tensor([[1.0, 1.0 + 1e-6, -5.0]])
    said = distribution(logits, SamplingOptions(top_k=1, top_p=1e-9, min_p=1.0))
    assert said.tolist() == [[0.0, 1.0, 0.0]]
