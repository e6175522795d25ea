import dataclasses
import re

import pytest

from tspo import old_settings
from tspo.config import RunConfig, load_config
from tspo.errors import BadInput
from tspo.old_settings import without_old_settings
from tspo.old_trl_settings import TRL
from tspo.training.run_folder import changed_settings

VALUES = {
    "loss_type": ["dapo", "bnpo", "grpo", "dr_grpo", "cispo", "sapo"],
    "bf16": [True, False, None],
    "optim": ["sgd"],
}
"""Values that change what is said."""


def lines_about(trl):
    with pytest.raises(BadInput) as error:
        without_old_settings({"training": {"trl": trl}}, "run.yaml")
    lines = str(error.value).splitlines()
    assert all(line.startswith("run.yaml: training.trl") for line in lines)
    return [line.removeprefix("run.yaml: training.trl.") for line in lines]


def setting_names(section=RunConfig, place=""):
    for name, field in section.model_fields.items():
        yield f"{place}{name}"
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if hasattr(inner, "model_fields"):
                yield from setting_names(inner, f"{place}{name}.")


def test_every_field_of_trl_s_configuration_has_a_line():
    trl = pytest.importorskip("trl")
    names = [field.name for field in dataclasses.fields(trl.GRPOConfig)]
    assert len(names) > 180
    told = dict(line.split(": ", 1) for line in lines_about(dict.fromkeys(names)))
    assert list(told) == names
    assert [name for name, line in told.items() if "tspo settings lists" in line] == []


@pytest.mark.parametrize("name", TRL)
def test_a_line_says_where_it_is_now_or_why_it_is_not(name):
    for value in VALUES.get(name, [1]):
        (line,) = lines_about({name: value})
        assert re.match(rf"{name}: is .* now|{name}: (has no meaning here: |is not here|is not a setting: )", line)
        assert len(line) < 150
        assert not line.endswith(".")


def test_settings_that_lines_name_are_there():
    settings = set(setting_names())
    sections = sorted({name.split(".")[0] for name in settings if "." in name})
    for name in TRL:
        for value in VALUES.get(name, [1, True, "sequence"]):
            (line,) = lines_about({name: value})
            named = re.findall(rf"\b(?:{'|'.join(sections)})\.[a-z_0-9]+(?:\.[a-z_0-9]+)*", line)
            named = [key for key in named if key != "metrics.jsonl" and not key.startswith("rollout.vllm.")]
            assert set(named) <= settings, line


@pytest.mark.parametrize(
    ("field", "value", "now"),
    [
        ("num_iterations", 2, "training.epochs"),
        ("bf16", True, "training.dtype=bfloat16"),
        ("bf16", False, "training.dtype=float32"),
        ("loss_type", "dapo", "training.average=tokens"),
        ("loss_type", "grpo", "training.average=trajectories"),
        ("loss_type", "dr_grpo", "training.average=constant"),
        ("loss_type", "cispo", "training.objective=cispo"),
        ("importance_sampling_level", "sequence", "training.objective=gspo"),
        ("importance_sampling_level", "token", "training.objective=ppo"),
        ("scale_rewards", False, "credit.scale=none"),
        ("scale_rewards", "group", "credit.scale=std"),
        ("optim", "adamw_torch_fused", "training.optimizer=adamw"),
        ("use_vllm", True, "rollout.sampler=vllm"),
        ("use_cpu", True, "device=cpu"),
    ],
)
def test_what_a_field_is_now_can_be_set(field, value, now, tmp_path):
    (line,) = lines_about({field: value})
    assert line.startswith(f"{field}: is {now} now")
    if "=" in now:
        path = tmp_path / "run.yaml"
        path.write_text("model: m\ndata: {world: {}}\n")
        load_config(path, [now])


@pytest.mark.parametrize(
    ("field", "value", "part"),
    [
        ("loss_type", "vespo", "is not here with vespo"),
        ("scale_rewards", "batch", "is not here with batch"),
        ("optim", "lion_8bit", "is not here with lion_8bit"),
        ("warmup_steps", 0.1, "not a share"),
        ("mask_truncated_completions", True, "has no meaning here: an episode ends at </answer>"),
        ("hub_token", "hf_secret", "HF_TOKEN"),
        ("nonsense", 1, "is not a setting; tspo settings lists those there are"),
        ("loss_type", ["a", "b"], "is not here with"),
    ],
)
def test_what_is_not_here_says_so(field, value, part):
    (line,) = lines_about({field: value})
    assert part in line
    assert "hf_secret" not in line


def test_a_number_of_warmup_steps_is_taken_for_one():
    assert lines_about({"warmup_steps": 10}) == ["warmup_steps: is training.lr_warmup_steps now, in optimizer steps"]


@pytest.mark.parametrize("trl", [{}, None])
def test_an_old_section_that_holds_nothing_says_nothing(trl, tmp_path):
    settings = {"seed": 1, "training": {"steps": 3, "trl": trl}, 1: {"trl": 2}}
    assert without_old_settings(settings, "x") == {"seed": 1, "training": {"steps": 3}, 1: {"trl": 2}}
    path = tmp_path / "run.yaml"
    path.write_text(f"model: m\ndata: {{world: {{}}}}\ntraining: {{trl: {'{}' if trl == {} else 'null'}}}\n")
    load_config(path)
    load_config(path, ["training.trl={}"])


def test_an_old_section_that_is_none_is_named():
    with pytest.raises(BadInput, match=r"^run.yaml: training\.trl: is not a setting"):
        without_old_settings({"training": {"trl": 5}}, "run.yaml")


def test_files_and_overrides_are_told_the_same(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("model: m\ndata: {world: {}}\ntraining: {trl: {num_iterations: 2}}\n")
    with pytest.raises(BadInput) as in_file:
        load_config(path)
    path.write_text("model: m\ndata: {world: {}}\n")
    for override in ("training.trl.num_iterations=2", "training.trl={num_iterations: 2}"):
        with pytest.raises(BadInput) as in_override:
            load_config(path, [override])
        assert str(in_override.value) == str(in_file.value)


def test_a_saved_run_without_anything_in_its_old_section_is_the_same_run(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("model: m\ndata: {world: {}}\n")
    now = load_config(path).model_dump(mode="json")
    saved = now | {"training": now["training"] | {"trl": {}}}
    assert changed_settings(without_old_settings(saved, path), now, frozenset()) == []


def test_any_key_can_become_an_old_one(monkeypatch):
    old = {"credit.alfa": "is credit.alpha now", "seed": lambda value: f"was {value}"}
    monkeypatch.setattr(old_settings, "OLD", old)
    with pytest.raises(BadInput) as error:
        without_old_settings({"seed": 3, "credit": {"alfa": 1, "alpha": 2}}, "run.yaml")
    assert str(error.value) == "run.yaml: seed: was 3\nrun.yaml: credit.alfa: is credit.alpha now"
