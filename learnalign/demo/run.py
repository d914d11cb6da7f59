"""What `learnalign demo` asks of the pipeline: generated arithmetic, the shipped policy, exact matching."""

from __future__ import annotations

from pathlib import Path

from learnalign.config import Config, PolicyConfig, PoolConfig, RewardConfig, RolloutConfig, SelectConfig
from learnalign.demo.pool import write_pool

POLICY = Path(__file__).parent / "policy"
PROMPTS = 1200
SELECTED = 120
SEED = 0


def demo_config(run: Path) -> Config:
    """Settings of the demo; the pool is written beside the run directory's own files if it is not there yet."""
    pool = run.with_name(f"{run.name}-pool.jsonl").absolute()
    if not pool.exists():
        pool.parent.mkdir(parents=True, exist_ok=True)
        write_pool(pool, PROMPTS, SEED)
    return Config(
        pool=PoolConfig(path=str(pool)),
        policy=PolicyConfig(model=str(POLICY)),
        rollout=RolloutConfig(max_new_tokens=16),
        reward=RewardConfig(verifier="exact"),
        select=SelectConfig(n=SELECTED),
    )
