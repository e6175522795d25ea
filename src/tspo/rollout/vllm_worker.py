"""What vLLM's workers are asked to do beyond their own methods; runs in their processes."""

from __future__ import annotations

from typing import Any

from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead


class TakesOverWeights:
    """Mixed into vLLM's worker by `worker_extension_cls`."""

    reload_weights: Any
    model_runner: Any

    def take_over(self, folder: str) -> None:
        """Load the weights in `folder` over those of the model, in place."""
        self.reload_weights(weights_path=folder)
        # On a CPU a head computes with its own packed copy, and vLLM's reload packs none that is tied.
        for module in self.model_runner.get_model().modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)
