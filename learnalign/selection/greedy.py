"""Greedy coverage: the picks that together represent best what can be learned.

Facility location over the candidates C, F(S) = sum_{i in C} max(0, max_{j in S} S_ij), with S_ij = z_i . z_j and
z = V phi / |phi|.
Only prompts with score > 0 are candidates: similarities clipped at zero would also cover clusters that point away
from the pool (wrong answers, noise). This module does not search neighbors and does not score.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from learnalign.scoring.rows import Floats, Integers
from learnalign.selection.constraints import Admission, Constraints
from learnalign.selection.core import facility_location, top
from learnalign.selection.neighbors import Neighbors, nearest
from learnalign.selection.prompts import Doubles, Picks, Prompts

CHEAP_CANDIDATES = 20_000
"""Up to here no prompt of score > 0 is pruned, unless that were more than `MOST_PER_PICK` a pick."""
MOST_PER_PICK = 256
LOOK_AHEAD = 256
"""Picks checked together after one is refused: each refusal costs a pass over the graph."""
FEWEST_NEIGHBORS, MOST_NEIGHBORS = 32, 256


class Graph(NamedTuple):
    """Candidates in CSR form: candidate j covers points indices[e] by weights[e], e in [indptr[j], indptr[j + 1])."""

    indptr: Integers
    indices: Integers
    weights: Floats

    @property
    def rows(self) -> Integers:
        """[entries] the candidate of each."""
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))

    def keep(self, mask: npt.NDArray[np.bool_]) -> Graph:
        """The entries of a mask; every candidate stays."""
        counts = np.bincount(self.rows[mask], minlength=len(self.indptr) - 1)
        return Graph(np.concatenate([[0], np.cumsum(counts)]), self.indices[mask], self.weights[mask])


def greedy(prompts: Prompts, n: int, constraints: Constraints) -> Picks:
    """n picks by lazy greedy facility location over a neighbor graph of the best-scored candidates.

    What the approximations can cost, with P the prompts of score > 0, T any n of them, C the candidates, S the picks:

    - Pruning, with scores against the pool. Let M be its size, tau the lowest score in C and nu_j the sum over the pool
      of max(0, -S_ij). Then
      F_P(T) <= F_C(T within C) + Vmax sum_{i in P \\ C} V_i + sum_{j in T \\ C} (M tau + nu_j):
      a point that was pruned is worth Vmax V_i at most, and a pick that was pruned, of score below tau, covers no more
      than M tau + nu_j. Nothing is lost where C = P: up to 20,000 prompts, if that is no more than 256 a pick.
    - A graph of the k nearest candidates of every point. With s_i the similarity of its k-th,
      F_C(T) <= F_graph(T) + sum_i max(0, s_i), since a pick that is no neighbor of i represents it by s_i at most.
      (Where all were found; the measured recall says how far that is so.)
    - Greedy. F_graph(S) >= (1 - 1/e) max F_graph (Nemhauser, Wolsey, Fisher 1978), without constraints.

    Where candidates run out, the rest is filled in the order of `top`, with gain 0.
    """
    order = top(prompts.score, prompts.learnability, len(prompts))
    positive = order[(prompts.score[order] > 0) & (prompts.row_of[order] >= 0)]
    most = max(prompts.search.candidates_per_pick * n, min(CHEAP_CANDIDATES, MOST_PER_PICK * n))
    candidates = np.sort(positive[:most])
    admission = Admission(prompts, constraints, n)
    chosen, gains = candidates[:0], np.zeros(0)
    facts: dict[str, Any] = {"learnable_above_zero": len(positive), "candidates": len(candidates)}
    notes = []
    if len(candidates):
        graph, facts["neighbors"], found = _graph(prompts, candidates, n)
        notes += found
        chosen, gains = _picks(graph, candidates, admission)
    if len(chosen) < n:
        rest = admission.take(order[~np.isin(order, candidates)])
        if len(rest):
            notes.append(f"greedy chose {len(chosen):,} prompts: the other {len(rest):,} are the best left by score")
        chosen, gains = np.concatenate([chosen, rest]), np.concatenate([gains, np.zeros(len(rest))])
    return Picks(chosen, gains, notes, {**facts, "objective": round(float(gains.sum()), 6)})


def _graph(prompts: Prompts, candidates: Integers, n: int) -> tuple[Graph, dict[str, Any], list[str]]:
    """The graph, how its neighbors were searched, and what to read about that."""
    values = prompts.learnability[candidates]
    if len(candidates) == 1:
        return Graph(np.array([0, 1]), np.array([0]), (values**2).astype(np.float32)), {}, []
    k = int(np.clip(np.ceil(1.5 * len(candidates) / n), FEWEST_NEIGHBORS, MOST_NEIGHBORS))
    with prompts.search.track(len(candidates)) as advance:
        found = nearest(
            prompts.rows,
            prompts.row_of[candidates],
            values,
            k,
            seconds=prompts.search.seconds,
            device=prompts.search.device,
            method=prompts.search.method,
            seed=prompts.seed,
            advance=advance,
        )
    return _transposed(found, values), found.facts, found.notes


def _transposed(found: Neighbors, values: Doubles) -> Graph:
    """From every point's nearest candidates to every candidate's points; each covers itself with S_ii = V_i^2."""
    m, k = found.positions.shape
    own = np.arange(m)
    by = np.concatenate([found.positions, own[:, None]], axis=1).reshape(-1)
    weights = np.concatenate([found.similarity, (values**2).astype(np.float32)[:, None]], axis=1).reshape(-1)
    order = np.argsort(by, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(by, minlength=m))])
    return Graph(indptr, np.repeat(own, k + 1)[order], weights[order])


def _picks(graph: Graph, candidates: Integers, admission: Admission) -> tuple[Integers, Doubles]:
    """Greedy under constraints: up to the first pick that is refused; then on without it, from what is covered by then.

    What is left to gain given S is facility location again, with weights max(0, w - covered).
    """
    chosen, gains = [candidates[:0]], [np.zeros(0)]
    covered = np.zeros(len(candidates), np.float32)
    usable = np.ones(len(candidates), np.bool_)
    while admission.left and usable.any():
        wanted, added = _facility_location(graph, min(admission.left, int(usable.sum())), usable)
        taken = admission.take(candidates[wanted], until_refused=True)
        count = len(taken)
        chosen.append(taken)
        gains.append(added[:count])
        if count == len(wanted):
            break
        picked = np.isin(np.arange(len(candidates)), wanted[:count])
        mask = picked[graph.rows]
        np.maximum.at(covered, graph.indices[mask], graph.weights[mask])
        usable &= ~picked & admission.has_room(candidates)
        soon = wanted[count : count + LOOK_AHEAD]  # the refused one, and others that would be refused next
        usable[soon[~admission.allows(candidates[soon])]] = False
        graph = _left_to_gain(graph, covered, usable)
        covered[:] = 0.0  # it is in the weights now
    return np.concatenate(chosen), np.concatenate(gains)


def _left_to_gain(graph: Graph, covered: Floats, usable: npt.NDArray[np.bool_]) -> Graph:
    left = Graph(graph.indptr, graph.indices, graph.weights - covered[graph.indices])
    return left.keep((left.weights > 0) & usable[left.rows])


def _facility_location(graph: Graph, n: int, usable: npt.NDArray[np.bool_]) -> tuple[Integers, Doubles]:
    """Picks among the usable candidates only."""
    rows = np.flatnonzero(usable)
    if len(rows) == len(usable):
        return facility_location(*graph, n, len(usable))
    within = graph.keep(usable[graph.rows])
    indptr = np.append(within.indptr[rows], within.indptr[-1])
    picks, gains = facility_location(indptr, within.indices, within.weights, n, len(usable))
    return rows[picks], gains
