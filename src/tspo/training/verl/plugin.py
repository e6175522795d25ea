"""What verl imports in each of its processes (VERL_USE_EXTERNAL_MODULES=tspo.training.verl.plugin)."""

from __future__ import annotations

import os

from tspo.training.verl.versions import check_verl

check_verl()
if os.environ.get("VERL_PLATFORM") == "cpu":
    import tspo.training.verl.cpu.platform

import tspo.training.verl.advantage  # noqa: E402
import tspo.training.verl.agent_loop  # noqa: E402
import tspo.training.verl.reward_manager  # noqa: E402
import tspo.training.verl.trainer  # noqa: E402

if os.environ.get("VERL_PLATFORM") == "cpu":
    import tspo.training.verl.cpu.rollout
    import tspo.training.verl.cpu.worker  # noqa: F401
