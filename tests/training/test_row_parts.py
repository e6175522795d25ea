import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from tspo.training.row_parts import RowParts, order_step, row_passes, take_rows  # noqa: E402

# one row: (name, of an all-wrong group, advantage, completion tokens); the last token of each is feedback
ROWS = [
    ("right", False, 1.0, 4),
    ("silent wrong", True, 0.0, 3),
    ("long near miss", True, 0.5, 6),
    ("silent", False, 0.0, 2),
    ("near miss", True, 0.5, 3),
    ("wrong", False, -1.0, 2),
]


def batches(count):
    """The rows of a step in `count` micro-batches, as TRL's tensors; `name` is their place in ROWS."""
    tokens = torch.arange(6)
    lengths = torch.tensor([row[3] for row in ROWS])[:, None]
    step = {
        "name": torch.arange(len(ROWS)),
        "all_wrong": torch.tensor([row[1] for row in ROWS]),
        "prompt_mask": torch.ones(len(ROWS), 2, dtype=torch.long),
        "completion_mask": (tokens < lengths).long(),
        "tool_mask": (tokens != lengths - 1).long(),
        # what stands on feedback and on padding must not count
        "advantages": torch.where(tokens < lengths - 1, torch.tensor([row[2] for row in ROWS])[:, None], 9.0),
        "ref_per_token_logps": None,
        "num_items_in_batch": torch.tensor(14),
    }
    size = len(ROWS) // count
    parts = [slice(i, i + size) for i in range(0, len(ROWS), size)]
    return [
        {name: value[part] if value is not None and value.ndim else value for name, value in step.items()}
        for part in parts
    ]


def names(step):
    return [ROWS[i][0] for batch in step for i in batch["name"].tolist()]


def shape(parts: RowParts):
    return (parts.all_wrong, parts.others, parts.silent, parts.reads_norm)


ORDER = ["near miss", "long near miss", "wrong", "right", "silent", "silent wrong"]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [(2, 2, 2, True)]),
        (2, [(2, 1, 0, True), (0, 1, 2, False)]),
        (3, [(2, 0, 0, True), (0, 2, 0, False), (0, 1, 1, False)]),  # one silent row is there to have a gradient
        (6, [(0, 1, 0, False), (1, 0, 0, True), *[(0, 1, 0, False)] * 4]),
    ],
)
def test_all_wrong_first_silent_last_shorter_before_longer(count, expected):
    step = order_step(batches(count), beta=0.0)
    assert names(step) == ORDER
    assert [shape(batch["parts"]) for batch in step] == expected
    assert all(batch["num_items_in_batch"] == 14 and batch["ref_per_token_logps"] is None for batch in step)
    assert all(len(batch[name]) == 6 // count for batch in step for name in ("completion_mask", "advantages"))


def test_with_kl_no_row_is_silent():
    step = order_step(batches(2), beta=0.01)
    assert names(step) == ["silent wrong", "near miss", "long near miss", "silent", "wrong", "right"]
    assert [shape(batch["parts"]) for batch in step] == [(3, 0, 0, True), (0, 3, 0, False)]


def test_the_last_micro_batch_ends_the_step():
    assert [batch["parts"].ends_step for batch in order_step(batches(3), beta=0.0)] == [False, False, True]


def test_passes_keep_the_parts_apart_and_say_where_all_wrong_groups_end():
    parts = RowParts(all_wrong=3, others=2, silent=2, reads_norm=True, ends_step=True)
    lengths = torch.tensor([10, 20, 50, 30, 10, 5, 5])
    passes = row_passes(parts, lengths, 60)
    assert [one.rows.tolist() for one in passes] == [[0, 1], [2], [4, 3], [5, 6]]
    assert [one.with_gradient for one in passes] == [True, True, True, False]
    assert [one.ends_all_wrong for one in passes] == [False, True, False, False]


def test_without_all_wrong_groups_no_pass_ends_them():
    passes = row_passes(RowParts(0, 2, 0, True, True), torch.tensor([4, 4]), 8)
    assert [(one.rows.tolist(), one.ends_all_wrong) for one in passes] == [([0, 1], False)]


def test_rows_are_taken_from_what_has_rows():
    batch = {"ids": torch.arange(6).view(3, 2), "total": torch.tensor(7), "parts": "as they are"}
    taken = take_rows(batch, torch.tensor([2, 0]))
    assert taken["ids"].tolist() == [[4, 5], [0, 1]]
    assert (taken["total"].item(), taken["parts"]) == (7, "as they are")
