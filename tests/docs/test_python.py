"""docs/python.md: its ten lines print what stands below them, and its tables name what there is."""

import re
from pathlib import Path

import pytest

import tspo
from tspo.config import default_of
from tspo.old_settings import OLD

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
TEN_LINES, WHAT_THEY_USE, CREDIT = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
(PRINTED,) = re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
TABLES = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))

SECTIONS = ("data", "rollout", "credit", "training", "warmup", "evaluation", "verl")


def rows(section):
    """The cells of a section's table, without its head."""
    lines = [line for line in TABLES[section].splitlines() if line.startswith("| ")]
    return [re.split(r" \| ", line.strip("| ")) for line in lines[2:]]


def codes(text):
    return re.findall(r"`([^`]+)`", text)


def execute(block, names):
    exec(compile(block, "python.md", "exec", dont_inherit=True), names)


def test_ten_lines_are_ten_and_those_of_the_readme():
    assert TEN_LINES.count("\n") == 10
    assert f"```python\n{TEN_LINES}```" in (ROOT / "README.md").read_text(encoding="utf-8")


def outline(text, folder):
    """What does not hang on the machine: the lines without their numbers, and without what the policy said."""
    lines = [line for line in text.replace(folder, "").splitlines() if not line.startswith("  ")]
    return [re.sub(r"\d+(\.\d+)?", "0", " ".join(line.split())) for line in lines]


def test_they_print_what_stands_below(tmp_path, monkeypatch, capsys):
    for package in ("torch", "accelerate", "peft"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TSPO_CACHE", str(tmp_path / "cache"))
    names = {"__name__": "docs"}
    execute(WHAT_THEY_USE, names)
    execute(TEN_LINES, names)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert outline(printed.out, f"{tmp_path}/") == outline(PRINTED, "/home/you/")
    # the first step's sample is of the model as it is
    assert printed.out.splitlines()[1:8] == PRINTED.splitlines()[1:8]
    found = [float(number) for number in re.findall(r"EM (\d\.\d+)", printed.out)]
    assert found[-1] > found[0]


def test_credit_alone(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(
        r"^\$ cat group\.jsonl\n(.*?)^\$ ", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "group.jsonl").write_text(example, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    execute(CREDIT, {})
    first, second = capsys.readouterr().out.splitlines()
    # rewards 0.3 and 0 in the first turn: mean 0.15, standard deviation (n - 1) 0.2121
    assert float(first.strip("[]").split(", ")[0]) == pytest.approx(0.7071, abs=1e-4)
    assert float(second.strip("[]").split(", ")[0]) == pytest.approx(-0.7071, abs=1e-4)


def test_the_public_names_are_all_told():
    told = [name for row in rows("The public names") for name in codes(row[0])]
    assert sorted(told) == tspo.__all__


@pytest.mark.parametrize("section", ["From TRL", "From verl", "From Search-R1"])
def test_settings_that_are_named_there_are(section):
    here = " ".join(row[1] for row in rows(section))
    keys = {key.partition(":")[0] for key in codes(here)}
    keys = {key for key in keys if key.split(".")[0] in SECTIONS and "." in key}
    assert len(keys) > 15
    # a setting that there is not has None for its default, and so have these
    empty = {"rollout.retriever", "training.epsilon_high", "training.pass_tokens", "training.run_name", "training.lora"}
    empty |= {"verl.test_every", "training.hub"}
    assert {key for key in keys if default_of(key) is None} <= empty


def test_fields_of_trl_are_those_that_became_something():
    arguments = {"train_dataset", "eval_dataset", "reward_funcs", "tools", "environment_factory", "rollout_func"}
    arguments |= {"processing_class", "peft_config", "callbacks"}
    told = {re.split(r"[(=:\[]", name)[0] for row in rows("From TRL") for name in codes(row[0])}
    told -= {"GRPOTrainer", "trainer.train", "GRPOConfig", "prompt", "f"} | arguments
    values = {"dapo", "grpo", "dr_grpo", "cispo", "none"}
    fields = {name for name in told if "." not in name} - values
    assert len(fields) > 25
    assert fields <= set(OLD["training.trl"])


def test_keys_of_verl_are_verls():
    pytest.importorskip("verl")
    pytest.importorskip("hydra")
    from omegaconf import OmegaConf

    from tspo.training.verl.translation import _defaults

    base = OmegaConf.to_container(_defaults())
    places = ("data.", "actor.", "rollout.", "actor_rollout_ref.", "algorithm.", "trainer.", "reward.")
    keys = {name.partition(":")[0] for row in rows("From verl") for name in codes(row[0]) if name.startswith(places)}
    assert len(keys) > 35
    for key in keys:
        node = base["actor_rollout_ref"] if key.startswith(("actor.", "rollout.")) else base
        for part in key.split("."):
            assert part in node, key
            node = node[part]
