"""Selects 1,000 problems of GSM8K for a policy of yours, judged as GSM8K is judged.

    python gsm8k.py train.jsonl Qwen/Qwen2.5-1.5B-Instruct RUN [--select 1000] [--limit 0] [--engine vllm]

train.jsonl: GSM8K's own file (`question`, `answer` with "#### 72"), or any pool like it. The policy is a directory or
hub name that transformers loads. Give the same command again to go on after a kill.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from learnalign import Config, run
from learnalign.config import PolicyConfig, PoolConfig, RolloutConfig, SelectConfig

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path)
    parser.add_argument("policy")
    parser.add_argument("run", type=Path)
    parser.add_argument("--select", type=int, default=1000)
    parser.add_argument("--limit", type=int, default=0, help="first rows only; 0 takes all")
    parser.add_argument("--instruction", default=INSTRUCTION, help="what your training appends to a problem")
    parser.add_argument("--max-new-tokens", type=int, default=512)
    parser.add_argument("--engine", default="transformers", choices=["transformers", "vllm"])
    arguments = parser.parse_args()
    config = Config(
        pool=PoolConfig(path=str(arguments.pool.absolute()), limit=arguments.limit),
        policy=PolicyConfig(model=arguments.policy, instruction=arguments.instruction),
        rollout=RolloutConfig(engine=arguments.engine, max_new_tokens=arguments.max_new_tokens),
        select=SelectConfig(n=arguments.select),
    )
    result = run(config, arguments.run, quiet=False)
    print(result.selection_jsonl, *result.notes, sep="\n")


if __name__ == "__main__":
    main()
