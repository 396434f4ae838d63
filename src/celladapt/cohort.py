"""Many files spread over processes and machines by Dask; a worker that dies loses nothing, its slide goes on at the tile where it was."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celladapt.errors import InputError, optional
from celladapt.model import loaded_model
from celladapt.progress import Bar, say

if TYPE_CHECKING:
    from celladapt.prediction import Job, Written

PATIENCE = 20.0
"""Seconds to wait for a scheduler."""


def segment(model: Path, jobs: Sequence["Job"], workers: int, scheduler: str | None) -> tuple[list["Written"], list[str]]:
    """Carry out ``jobs`` on ``workers`` local processes, or on those of a running scheduler; what was written, and a sentence for each file that failed.

    Raises:
        InputError: dask is not installed, or the scheduler does not answer.
    """
    distributed = optional("distributed", "Spreading files over processes", "cohort")
    done: list[Written] = []
    failed: list[str] = []
    with _client(workers, scheduler) as client, Bar("predicting", len(jobs)) as bar:
        threads = max(1, (os.cpu_count() or 1) // workers) if scheduler is None else None
        model = model.absolute()
        # A key for each file: submitted twice, it is done once.
        futures = {
            client.submit(_carry_out, model, job, threads, key=f"celladapt-{job.image.absolute()}-{job.model}", retries=2): job for job in jobs
        }
        for future in distributed.as_completed(futures):
            job = futures[future]
            try:
                done.append(future.result())
            except InputError as error:
                failed.append(str(error))
            except distributed.KilledWorker:
                failed.append(f"{job.image} ended each process that tried it, perhaps for want of memory; try it alone, without --workers.")
            bar.step(job.image.name)
    return done, failed


@contextmanager
def _client(workers: int, scheduler: str | None) -> Iterator[Any]:
    import distributed

    if scheduler is not None:
        try:
            client = distributed.Client(scheduler, timeout=PATIENCE)
        except (OSError, ValueError) as error:
            raise InputError(f"The scheduler {scheduler} does not answer ({error}); start one with `dask scheduler` and give its address.") from None
        say(f"Spread over the workers of {scheduler}.")
        with client:
            yield client
        return
    with (
        distributed.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None, memory_limit=0, silence_logs=50) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def _carry_out(model: Path, job: "Job", threads: int | None) -> "Written":
    """One file, in a worker."""
    import torch

    from celladapt import prediction

    if threads is not None:
        torch.set_num_threads(threads)
    return prediction.segment(loaded_model(model), job)
