"""What a process of verl has once it has imported the plugin."""

import os
import subprocess
import sys

import pytest

from tspo.advantages import ADVANTAGES
from tspo.errors import BadInput
from tspo.training.verl import versions
from tspo.training.verl.names import AGENT, CPU, PLUGIN, REWARD_MANAGER, estimator_name

SAY = """
import verl
from verl.experimental.agent_loop.agent_loop import _agent_loop_registry as agents
from verl.experimental.reward_loop.reward_manager.registry import REWARD_MANAGER as managers
from verl.plugin.platform import get_platform
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY as estimators
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY as trainers
print(*estimators, *agents, *managers, *trainers, get_platform().device_name)
"""


@pytest.mark.verl
@pytest.mark.parametrize("platform", ["", "cpu"])
def test_everything_is_registered(platform: str) -> None:
    pytest.importorskip("verl")
    pytest.importorskip("transfer_queue")
    environment = os.environ | {"VERL_USE_EXTERNAL_MODULES": PLUGIN, "VERL_PLATFORM": platform}
    said = subprocess.run([sys.executable, "-c", SAY], env=environment, capture_output=True, text=True, check=True)
    names = set(said.stdout.split())
    assert {estimator_name(algorithm) for algorithm in ADVANTAGES} <= names
    assert {AGENT, REWARD_MANAGER, "tspo_sync", "tspo_colocate_async", "tspo_separate_async"} <= names
    assert ({CPU, "cpu"} <= names) == (platform == "cpu")


def test_another_verl_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "version", lambda _: "0.10.0")
    with pytest.raises(BadInput, match=r"verl 0\.10\.0 is installed"):
        versions.check_verl()


def test_no_verl_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise versions.PackageNotFoundError(name)

    monkeypatch.setattr(versions, "version", missing)
    with pytest.raises(BadInput, match=r"pip install 'tspo\[verl\]'"):
        versions.check_verl()
