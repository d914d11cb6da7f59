"""The host does not wait for the device: a pass is launched without a value of it, and rows are used behind the next.

Without a GPU, two devices stand in for one: torch's "meta", on which no tensor has values, so that whoever asks for
one fails; and a late one, whose results are not a number until its event has happened.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from gradient_oracle import SEED, D, random_groups, tiny
from learnalign.kernels import transfers
from learnalign.kernels.transfers import on_device, reached, to_device, to_host
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from learnalign.config import Config, PolicyConfig, PoolConfig, RewardConfig, RolloutConfig, SelectConfig, SketchConfig
from learnalign.demo.pool import write_pool
from learnalign.demo.run import POLICY
from learnalign.errors import PolicyError
from learnalign.gradient import Group, Pending, Sketcher, experts, hooks, sketcher, weighted
from learnalign.runs import pipeline
from learnalign.runs.directory import open_run
from learnalign.store import SketchReader, SketchWriter

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
META = torch.device("meta")


class Copies(TorchDispatchMode):
    """Counts copies from the host's memory to the meta device."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            source = args[1] if func.overloadpacket is torch.ops.aten.copy_ else args[0]
            self.count += result.device == META and source.device != META
        return result


def launched_on_meta(kind: str, share: bool) -> tuple[Tensor, int]:
    """Sketches of two groups that have no values, and copies that were made for them; `TypeError` where one is asked.

    Attention is torch's plain one: transformers asks whether there is padding before it uses another (once a pass).
    """
    model = tiny(kind, attn_implementation="eager")
    own = Sketcher(model, SketchConfig(dimension=D, seed=SEED, share_prompts=share))
    own.costs = replace(own.costs, token=1.0, pair=0.0)
    parts = [weighted(group) for group in random_groups(2)]
    assert (own.costs.together(parts) > 1) == share  # asks the model, and keeps the answer
    model.to(META)
    own.device = META
    transfers._on_stream.cache_clear()
    with patch.object(hooks, "fold_segments", fold_like_a_kernel), Copies() as copies:
        phi = own._passes(parts, torch.float64, [])
    return phi, copies.count


def fold_like_a_kernel(phi: Tensor, delta: Tensor, x: Tensor, offsets: Sequence[int], **_: Any) -> None:
    """Takes of the host what `fold_triton` takes; the reference implementation looks at values."""
    phi += on_device(tuple(offsets), phi.device).sum() * delta.sum() * x.sum()


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_a_pass_is_launched_without_a_value_and_its_inputs_go_by_one_copy(kind: str, share: bool) -> None:
    phi, copies = launched_on_meta(kind, share)
    assert phi.device == META
    assert phi.shape == (2, D)
    assert copies == 4, "the batch, which of its rows have a gradient, and where its tokens and its targets begin"


def test_experts_ask_for_their_tokens_once_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = experts.by_expert, []

    def by_expert(chosen: Tensor, count: int, offsets: list[int]) -> tuple[Tensor, Tensor, list[list[int]]]:
        if chosen.device != META:
            return real(chosen, count, offsets)
        asked.append(count)
        somewhere = (torch.arange(chosen.numel()) % count).view(chosen.shape)
        tokens, slots, bounds = real(somewhere, count, offsets)
        return tokens.to(META), slots.to(META), bounds

    with pytest.raises(NotImplementedError, match="no data"):
        launched_on_meta("qwen3-moe", True)
    monkeypatch.setattr(experts, "by_expert", by_expert)
    phi, _ = launched_on_meta("qwen3-moe", True)
    assert phi.shape == (2, D)
    assert asked == [5, 5]


@pytest.mark.parametrize("device", {torch.device("cpu"), DEVICE}, ids=str)
def test_copies_hold_what_they_are_copies_of(device: torch.device) -> None:
    arrays = [np.arange(6).reshape(2, 3), np.zeros((0, 3), dtype=np.int64), np.array([0.5, -np.inf])]
    moved = to_device(arrays, device)
    back = [to_host(one + one) for one in moved]
    event = reached(device)
    if event is not None:
        event.synchronize()
    for one, array in zip(back, arrays, strict=True):
        assert one.device.type == "cpu"
        np.testing.assert_array_equal(one.numpy(), 2 * array, strict=True)
    assert on_device((3, 1), device).tolist() == [3, 1]
    assert on_device((3, 1), device) is on_device((3, 1), device)


class Late:
    """A device whose results are NaN in the host's memory until somebody waits for them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.order: list[str] = []
        self._coming: list[tuple[Tensor, Tensor]] = []
        launch, append = Sketcher.launch, SketchWriter.append

        def launched(own: Sketcher, groups: Sequence[Group]) -> Pending:
            pending = launch(own, groups)
            self.order.append("launch")
            return pending

        def appended(writer: SketchWriter, *rows: Any) -> None:
            self.order.append("append")
            append(writer, *rows)

        patch.setattr(Sketcher, "launch", launched)
        patch.setattr(SketchWriter, "append", appended)
        patch.setattr(sketcher, "to_host", self.to_host)
        patch.setattr(sketcher, "reached", self.reached)

    def to_host(self, tensor: Tensor) -> Tensor:
        host = torch.full_like(tensor, torch.nan)
        self._coming.append((host, tensor))
        return host

    def reached(self, device: torch.device) -> Any:
        coming, self._coming = self._coming, []

        class Event:
            """Of torch.cuda.Event, what is used."""

            def query(self) -> bool:
                return False

            def synchronize(self) -> None:
                for host, tensor in coming:
                    host.copy_(tensor)

        return Event()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with several batches."""
    folder = tmp_path_factory.mktemp("runs")
    config = Config(
        pool=PoolConfig(path=str(write_pool(folder / "pool.jsonl", 56, seed=3))),
        policy=PolicyConfig(model=str(POLICY)),
        rollout=RolloutConfig(max_new_tokens=16, batch_sequences=128),
        reward=RewardConfig(verifier="exact"),
        sketch=SketchConfig(dimension=1024, dtype="float32", batch_tokens=256),
        select=SelectConfig(n=8),
    )
    return pipeline.run(config, folder / "run").directory


def files(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "sketches").iterdir())}


@pytest.fixture
def unsketched(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run without its sketches."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(run / "sketches")
    return run


def sketch(run: Path) -> None:
    opened = open_run(run)
    pipeline.run(opened.config, run)


def test_rows_are_stored_behind_the_next_launch_in_their_order(
    finished: Path, unsketched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = Late(monkeypatch)
    sketch(unsketched)
    batches = late.order.count("launch")
    assert batches > 3
    assert late.order == ["launch", *["launch", "append"] * (batches - 1), "append"]
    assert files(unsketched) == files(finished)
    assert (unsketched / "scores.parquet").read_bytes() == (finished / "scores.parquet").read_bytes()


def test_a_launch_that_fails_takes_no_row_along(
    finished: Path, unsketched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        late = Late(patch)
        launch, launches = Sketcher.launch, iter(range(100))

        def failing(own: Sketcher, groups: Sequence[Group]) -> Pending:
            if next(launches) == 2:
                raise PolicyError("out of memory")
            return launch(own, groups)

        patch.setattr(Sketcher, "launch", failing)
        with pytest.raises(PolicyError, match="out of memory"):
            sketch(unsketched)
    assert late.order == ["launch", "launch", "append", "append"]
    kept = SketchReader(unsketched / "sketches").prompt_ids
    assert kept == SketchReader(finished / "sketches").prompt_ids[: len(kept)]
    sketch(unsketched)
    assert files(unsketched) == files(finished)


def test_on_a_cpu_rows_are_stored_at_once(unsketched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = Late(monkeypatch)
    monkeypatch.setattr(sketcher, "to_host", to_host)
    monkeypatch.setattr(sketcher, "reached", lambda device: reached(torch.device("cpu")))
    sketch(unsketched)
    assert late.order == ["launch", "append"] * late.order.count("launch")
