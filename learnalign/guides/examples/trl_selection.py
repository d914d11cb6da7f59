"""Selects prompts, then trains on the selection with TRL's GRPOTrainer. Needs the extra `train`.

    python trl_selection.py RUN [--steps 50]

The policy and the pool are the small ones that ship with learnalign, so that it runs on two CPU cores; put your own in
their place.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from learnalign import Config, run
from learnalign.config import PolicyConfig, PoolConfig, RewardConfig, RolloutConfig, SelectConfig
from learnalign.demo.pool import write_pool
from learnalign.demo.run import POLICY


def right(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    """TRL's reward: 1 for the answer, else 0."""
    return [float(text.strip() == wanted) for text, wanted in zip(completions, answer, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--prompts", type=int, default=240)
    parser.add_argument("--steps", type=int, default=50)
    arguments = parser.parse_args()
    arguments.run.parent.mkdir(parents=True, exist_ok=True)
    pool = write_pool(arguments.run.with_name(arguments.run.name + "-pool.jsonl"), arguments.prompts, seed=1)
    config = Config(
        pool=PoolConfig(path=str(pool.absolute())),
        policy=PolicyConfig(model=str(POLICY)),
        rollout=RolloutConfig(max_new_tokens=16),
        reward=RewardConfig(verifier="exact"),
        select=SelectConfig(n=arguments.prompts // 10, strategy="random_positive"),
    )
    result = run(config, arguments.run)
    picks = load_dataset("json", data_files=str(result.selection_jsonl), split="train")
    tokenizer = AutoTokenizer.from_pretrained(POLICY)
    tokenizer.chat_template = None
    trainer = GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(POLICY),
        reward_funcs=right,
        args=GRPOConfig(
            str(arguments.run) + "-trained",
            max_steps=arguments.steps,
            per_device_train_batch_size=32,
            num_generations=8,
            max_completion_length=16,
            learning_rate=1e-4,
            use_cpu=not torch.cuda.is_available(),
            bf16=torch.cuda.is_available(),
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=picks.rename_column("problem", "prompt"),
        processing_class=tokenizer,
    )
    trainer.train()
    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    print(f"trained {trainer.state.global_step} steps on {len(picks)} prompts; mean reward {rewards[0]:.2f} at first")


if __name__ == "__main__":
    main()
