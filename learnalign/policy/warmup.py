"""The warm-up: GRPO on a few prompts through TRL's GRPOTrainer, so that success rates and gradients are those of
a policy that training has begun to move (Li et al., arXiv 2506.11480: 300 prompts for GSM8K, one pass, lr 1e-6,
beta 0.04, clip 0.2, G = 8).

Whole weights are trained in float32 and kept so: steps of 1e-6 are lost when they are rounded to bfloat16. Needs the
extra `train`. This module does not choose the prompts, measure success, or resume: a warm-up is short, and one that
was killed begins again.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from learnalign.config import PolicyConfig, RolloutConfig, WarmupConfig
from learnalign.errors import MissingPackageError
from learnalign.policy import Renderer, load_renderer, load_trainable

ALPHA_OVER_RANK = 2
"""LoRA's scale: alpha = 2 r on all linear layers."""


class Example(NamedTuple):
    """A prompt to train on."""

    prompt_id: str
    problem: str
    messages: str | None
    """Chat messages as JSON, in place of the problem."""


def train(
    policy: PolicyConfig,
    examples: Sequence[Example],
    reward: Callable[[Sequence[str], Sequence[str]], list[float]],
    warmup: WarmupConfig,
    rollout: RolloutConfig,
    target: Path,
    stepped: Callable[[int], None],
) -> list[dict[str, float]]:
    """Train one pass over `examples` and write the policy, or its LoRA adapter, to the new folder `target`.

    reward(texts, prompt_ids) gives one reward a response; stepped(1) is called after every optimizer step. Returns
    TRL's metrics of every step (reward, KL, length, ...). Raises `MissingPackageError` without TRL.
    """
    try:
        import trl
        from datasets import Dataset
        from peft import LoraConfig
        from transformers import PrinterCallback, TrainerCallback
    except ImportError as error:
        raise MissingPackageError("the warm-up", "train", error) from error

    class Steps(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            stepped(1)

    def judged(completions: list[Any], prompt_id: list[str], **_: Any) -> list[float]:
        texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        return reward(texts, prompt_id)

    renderer = load_renderer(policy)
    tokenizer = renderer.tokenizer
    tokenizer.pad_token_id = renderer.pad_id
    rows = [{"prompt": _prompt(renderer, example), "prompt_id": example.prompt_id} for example in examples]
    adapter = LoraConfig(r=warmup.lora_rank, lora_alpha=ALPHA_OVER_RANK * warmup.lora_rank, target_modules="all-linear")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    with tempfile.TemporaryDirectory() as scratch:
        model = load_trainable(policy)
        use_cache = getattr(model.config, "use_cache", True)
        trainer = trl.GRPOTrainer(
            model,
            judged,
            trl.GRPOConfig(
                scratch,
                chat_template_kwargs=renderer.template_kwargs or None,
                **_settings(warmup, rollout, str(model.device)),
            ),
            Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Steps()],
            peft_config=adapter if warmup.lora_rank else None,
        )
        trainer.remove_callback(PrinterCallback)  # standard output is for results
        trainer.train()
    target.mkdir()
    model.config.use_cache = use_cache  # TRL leaves it off, and whoever loads the result would sample without one
    trainer.model.save_pretrained(target)
    load_renderer(policy).tokenizer.save_pretrained(target)
    return [{k: float(v) for k, v in row.items()} for row in trainer.state.log_history if "reward" in row]


def steps(prompts: int, warmup: WarmupConfig) -> int:
    """Optimizer steps of one pass; prompts that do not fill the last step are left out."""
    return prompts // min(warmup.prompts_per_step, prompts)


def _prompt(renderer: Renderer, example: Example) -> Any:
    """Messages for the tokenizer's chat template, or rendered text where it has none: as in sampling."""
    if renderer.tokenizer.chat_template is None:
        return renderer.text(example.problem, example.messages)
    return renderer.chat(example.problem, example.messages)


def _settings(warmup: WarmupConfig, rollout: RolloutConfig, device: str) -> dict[str, Any]:
    """One group a device batch; a step's groups are sampled together and used once, exactly on-policy."""
    return {
        "learning_rate": warmup.learning_rate,
        "beta": warmup.beta,
        "epsilon": warmup.clip,
        "num_generations": warmup.responses,
        "loss_type": "grpo",
        "temperature": rollout.temperature,
        "max_completion_length": rollout.max_new_tokens,
        "per_device_train_batch_size": warmup.responses,
        "gradient_accumulation_steps": min(warmup.prompts_per_step, warmup.prompts),
        "num_train_epochs": 1,
        "lr_scheduler_type": "constant",
        "seed": warmup.seed,
        "use_cpu": device == "cpu",
        "bf16": device != "cpu",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
