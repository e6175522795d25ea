from pathlib import Path

import pytest

from tspo import config
from tspo.commands.config_argument import config_and_overrides


@pytest.mark.parametrize(
    ("arguments", "path", "overrides"),
    [
        (["my.yaml"], "my.yaml", []),
        (["my.yaml", "seed=1"], "my.yaml", ["seed=1"]),
        (["seed=1", "my.yaml"], "default.yaml", ["seed=1", "my.yaml"]),
        (["runs/alpha=0.3/my.yaml", "seed=1"], "runs/alpha=0.3/my.yaml", ["seed=1"]),
        (["model=./folder"], "default.yaml", ["model=./folder"]),
        (["seed=1"], "default.yaml", ["seed=1"]),
        ([], "default.yaml", []),
    ],
)
def test_the_first_argument_is_the_configuration_if_it_sets_nothing(arguments, path, overrides, monkeypatch):
    monkeypatch.setattr(config, "default_config_path", lambda: Path("default.yaml"), raising=False)
    assert config_and_overrides(arguments) == (Path(path), overrides)
