"""One run over many workers: Ray Core actors compute, the driver alone writes.

    work      what a worker is asked to do, and the units in which it is asked
    local     this process as the only worker, without Ray
    session   the connection to a Ray cluster
    actor     what runs in a worker
    crew      the workers' lives: started, checked, replaced when they die
    ordered   units to the crew and results back, in order, whoever died meanwhile

Workers keep nothing between two units that could change a result, so that what is written does not depend on how many
there are or which of them died. This package knows neither policies nor files: what is computed is in `runs`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from learnalign.cluster.local import LocalWorkers
from learnalign.cluster.session import session
from learnalign.cluster.work import Later, Needs, Opened, Unit, Work, Workers
from learnalign.config import ClusterConfig
from learnalign.progress import Progress

__all__ = ["Later", "Needs", "Opened", "Unit", "Work", "Workers", "open_workers", "session"]


@contextmanager
def open_workers(cluster: ClusterConfig, work: Work, label: str, progress: Progress) -> Iterator[Workers]:
    """Workers of the cluster, or this process where no cluster is named. Leaving ends them.

    label: before every line that is said. Raises `EngineError` where workers cannot be had, or would compute something
    else than the driver.
    """

    def say(line: str) -> None:
        progress.say(f"{label}: {line}")

    if not cluster.address:
        with work.open(say) as opened:
            yield LocalWorkers(opened)
        return
    from learnalign.cluster.crew import Crew
    from learnalign.cluster.ordered import RayWorkers
    from learnalign.cluster.session import connect

    connect(cluster.address)
    with Crew(work, cluster.workers, say) as crew:
        yield RayWorkers(crew)
