import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tspo.config import load_config
from tspo.errors import BadInput
from tspo.training.grid import (
    DEFAULT_ARMS,
    Arm,
    Grid,
    arm_name,
    arm_overrides,
    check_arms,
    grown_grid,
    make_arm,
    parse_seeds,
    read_grid,
    write_grid,
)

MINIMAL = "model: some/model\noutput_dir: out\ndata: {train: [train.jsonl], test: [test.jsonl], corpus: corpus.jsonl}\n"


@pytest.fixture
def load(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    return lambda overrides: load_config(path, overrides)


def make(load, *texts):
    return [make_arm(overrides, load) for overrides in arm_overrides([], texts)]


def test_without_a_word_the_arms_are_the_two_methods():
    assert arm_overrides([], []) == list(DEFAULT_ARMS)
    assert [arm_name(arm) for arm in DEFAULT_ARMS] == ["algorithm=grpo", "algorithm=tspo"]


def test_what_is_varied_is_multiplied_and_arms_are_added():
    arms = arm_overrides(["credit.algorithm=tspo,grpo", "training.beta=0,0.01"], ["credit.alpha=0.3 seed_free=1"])
    assert [arm_name(arm) for arm in arms] == [
        "algorithm=tspo beta=0",
        "algorithm=tspo beta=0.01",
        "algorithm=grpo beta=0",
        "algorithm=grpo beta=0.01",
        "alpha=0.3 seed_free=1",
    ]


def test_commas_within_a_value_are_the_value_s_own():
    arms = arm_overrides(["training.lora={r: 8, alpha: 16},null", "rollout.prompt='a, {question}'"], [])
    values = [yaml.safe_load(arm[0].partition("=")[2]) for arm in arms]
    assert values == [{"r": 8, "alpha": 16}, None]
    assert yaml.safe_load(arms[0][1].partition("=")[2]) == "a, {question}"


@pytest.mark.parametrize(
    "text", ["", "credit.alpha", "credit.alpha=", "=1,2", "credit.alpha=[1", "credit.alpha=1] + [2"]
)
def test_a_bad_vary_is_shown(text):
    with pytest.raises(BadInput, match="expected KEY=V1,V2"):
        arm_overrides([text], [])


def test_a_bad_arm_is_shown(load):
    with pytest.raises(BadInput, match="No closing quotation"):
        arm_overrides([], ["credit.alpha='1"])
    with pytest.raises(BadInput, match="expected key=value"):
        make(load, "nonsense")
    with pytest.raises(BadInput, match="did you mean"):
        make(load, "credit.alpah=1")


def test_an_arm_has_all_settings_but_those_of_its_runs(load):
    (arm,) = make(load, "credit.alpha=0.3 training.groups_per_step=4")
    assert arm.name == "alpha=0.3 groups_per_step=4"
    assert arm.settings["credit"]["alpha"] == 0.3
    assert not {"seed", "output_dir"} & set(arm.settings)
    assert arm.episodes_per_rollout == 20
    assert json.loads(json.dumps(arm.settings)) == arm.settings


def test_the_settings_are_a_configuration_again(load, tmp_path):
    (arm,) = make(load, "training.lora='{r: 4}' training.learning_rate=1e-5")
    path = tmp_path / "arm.yaml"
    path.write_text(yaml.safe_dump(arm.settings))
    assert load_config(path, ["output_dir=x"]).model_dump(exclude={"output_dir"}) == load(arm.overrides).model_dump(
        exclude={"output_dir"}
    )


@pytest.mark.parametrize("key", ["seed", "output_dir"])
def test_what_each_run_has_of_its_own_is_no_arm(load, key):
    with pytest.raises(BadInput, match="set for each run"):
        make(load, f"{key}=1")


def test_an_arm_of_nothing_is_the_configuration_itself(load):
    assert [arm.name for arm in make(load, "")] == ["base"]


@given(st.lists(st.tuples(st.text(min_size=1), st.text()), max_size=3))
def test_a_name_is_one_safe_folder(pairs):
    name = arm_name([f"{key}={value}" for key, value in pairs])
    assert name
    assert Path(name).name == name
    assert name not in (".", "..")
    assert not set('/\\:*?"<>|\0\n') & set(name)
    assert len(name.encode()) <= 100
    assert name.strip(" .-") == name


@given(
    st.lists(
        st.tuples(st.sampled_from(["model", "credit.match", "warmup.x"]), st.text("ab/. -~=", max_size=4)),
        min_size=2,
        max_size=2,
    )
)
def test_names_of_different_single_settings_differ(pairs):
    one, other = ([f"{key}={json.dumps(value)}"] for key, value in pairs)
    assert (arm_name(one) == arm_name(other)) == (one == other)


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("training.learning_rate=1e-5", "learning_rate=1e-5"),
        ("warmup.learning_rate=1e-5", "warmup.learning_rate=1e-5"),
        ("credit.alpha=0.30", "alpha=0.3"),
        ("training.lora.alpha=3", "lora.alpha=3"),
    ],
)
def test_names_say_what_is_set(override, name):
    assert arm_name([override]) == name


def test_a_value_that_is_a_path_stays_one_name():
    name = arm_name(["model=../../etc"])
    assert name.startswith("model=..-..-etc-")
    assert name != arm_name(["model=..-..-etc"])


@pytest.mark.parametrize(
    ("text", "seeds"), [("0-3", (0, 1, 2, 3)), ("0,1,2", (0, 1, 2)), ("7", (7,)), ("0-1, 9", (0, 1, 9)), ("3-3", (3,))]
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "0,,1", "0-99999999", "4294967296", "1,1", "0-2,1", "0.5"])
def test_bad_seeds_are_shown(text):
    with pytest.raises(BadInput, match="--seeds"):
        parse_seeds(text)


def test_arms_of_one_budget_go_together(load):
    check_arms(make(load, "training.steps=10 training.groups_per_step=4", "training.steps=5 credit.alpha=0.1"))


def test_different_budgets_are_refused_with_their_numbers(load):
    with pytest.raises(BadInput) as error:
        check_arms(make(load, "training.steps=10", "training.steps=20", "training.group_size=10 training.steps=5"))
    assert "'steps=10' 10 x 8 x 5 = 400 episodes, 'steps=20' 20 x 8 x 5 = 800" in str(error.value)


def test_updates_of_the_same_episodes_are_no_budget(load):
    check_arms(make(load, "", "training.epochs=2", "training.minibatches=4", "training.micro_batch=1"))


@pytest.mark.parametrize("texts", [("credit.alpha=0.3", "credit.alpha=0.30"), ("", "credit.algorithm=tspo")])
def test_one_arm_twice_is_refused(load, texts):
    with pytest.raises(BadInput, match="are the same"):
        check_arms(make(load, *texts))


def test_names_that_some_file_systems_take_for_one_are_refused(load):
    with pytest.raises(BadInput, match="are the same"):
        check_arms(make(load, "model=Ab", "model=aB"))


@pytest.mark.parametrize(
    "override", ["data.test=[]", "data={world: {test_questions: 0, train_questions: 9}}"], ids=["files", "world"]
)
def test_without_test_questions_there_is_nothing_to_compare(load, override):
    with pytest.raises(BadInput, match="no test questions"):
        check_arms([make_arm([override], load)])


def test_questions_may_be_those_of_the_embedded_world(load):
    check_arms([make_arm(["data={world: {test_questions: 9}}"], load)])


def test_a_grid_is_read_as_it_was_written(load, tmp_path):
    grid = Grid(tuple(make(load, "", "credit.algorithm=grpo")), (0, 3))
    assert read_grid(tmp_path / "grid.json") is None
    write_grid(grid, tmp_path / "grid.json")
    assert read_grid(tmp_path / "grid.json") == grid


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"arms": {"a": {}}, "seeds": []}', '{"arms": [], "seeds": 1}'])
def test_a_file_that_is_no_grid_is_refused(tmp_path, text):
    (tmp_path / "grid.json").write_text(text)
    with pytest.raises(BadInput, match="not the grid of a comparison"):
        read_grid(tmp_path / "grid.json")


def names(grid):
    return [arm.name for arm in grid.arms]


def begun(arm):
    return True


def test_arms_and_seeds_may_come(load):
    first = grown_grid(None, make(load, "credit.algorithm=tspo", "credit.algorithm=grpo"), [0, 1], begun)
    second = grown_grid(first, make(load, "credit.alpha=0.3", "credit.algorithm=grpo"), [5, 1], begun)
    assert names(second) == ["algorithm=tspo", "algorithm=grpo", "alpha=0.3"]
    assert second.seeds == (0, 1, 5)


def test_an_arm_that_has_runs_keeps_its_settings(load, tmp_path):
    before = grown_grid(None, make(load, "credit.algorithm=grpo"), [0], begun)
    (tmp_path / "run.yaml").write_text(MINIMAL + "training: {steps: 7}\nrollout: {top_k: 9}\n")
    changed = make(load, "credit.algorithm=grpo")
    with pytest.raises(
        BadInput, match=r"'algorithm=grpo' has runs with other settings for rollout.top_k, training.steps"
    ):
        grown_grid(before, changed, [0], begun)
    assert grown_grid(before, changed, [0], lambda arm: False).arms == tuple(changed)


def test_what_an_older_version_did_not_know_had_its_default(load):
    before = grown_grid(None, make(load, "credit.algorithm=grpo"), [0], begun)
    (arm,) = before.arms
    older = {name: dict(section) if isinstance(section, dict) else section for name, section in arm.settings.items()}
    del older["verl"], older["credit"]["gae_lambda"], older["credit"]["ignore"], older["training"]["lora"]
    old_grid = Grid((Arm(arm.name, arm.overrides, older),), before.seeds)
    assert grown_grid(old_grid, [arm], [0, 1], begun).seeds == (0, 1)
    newer = Arm(arm.name, arm.overrides, arm.settings | {"credit": arm.settings["credit"] | {"gae_lambda": 0.5}})
    with pytest.raises(BadInput, match=r"has runs with other settings for credit\.gae_lambda; "):
        grown_grid(old_grid, [newer], [0], begun)


def test_of_settings_that_are_gone_only_those_that_said_something_count(load):
    (arm,) = make(load, "credit.algorithm=grpo")

    def old_grid(trl):
        training = arm.settings["training"] | {"trl": trl}
        return Grid((Arm(arm.name, arm.overrides, arm.settings | {"training": training}),), (0,))

    assert grown_grid(old_grid({}), [arm], [0], begun).arms == (arm,)
    said = r"^the runs of arm 'algorithm=grpo': training\.trl\.num_iterations: is training\.epochs now"
    with pytest.raises(BadInput, match=said):
        grown_grid(old_grid({"num_iterations": 2}), [arm], [0], begun)


def test_settings_that_change_no_result_may_change(load):
    before = grown_grid(None, make(load, "credit.algorithm=grpo"), [0], begun)
    (old,) = before.arms
    training = old.settings["training"] | {"save_every": 3, "keep_checkpoints": 5}
    now = Arm(old.name, old.overrides, old.settings | {"training": training})
    assert grown_grid(before, [now], [0], begun).arms == (now,)


def test_an_arm_without_runs_is_forgotten_when_nobody_asks_for_it(load):
    before = grown_grid(None, make(load, "credit.alpha=0.3", "credit.algorithm=grpo"), [0], begun)
    after = grown_grid(before, make(load, "credit.algorithm=grpo"), [0], lambda arm: False)
    assert names(after) == ["algorithm=grpo"]


def test_an_arm_that_comes_must_have_the_budget_of_those_there(load):
    before = grown_grid(None, make(load, "credit.algorithm=grpo"), [0], begun)
    with pytest.raises(BadInput, match="budgets"):
        grown_grid(before, make(load, "training.steps=7"), [0], begun)
