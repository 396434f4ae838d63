"""One task for many files spread over processes and machines by Dask; a worker that dies takes nothing with it, its file is given to another."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import resource_tracker
from typing import Any

from celladapt.errors import InputError, optional
from celladapt.hardware import usable_gpus
from celladapt.progress import say

PATIENCE = 20.0
"""Seconds to wait for a scheduler."""


def spread(task: Callable[[Any], Any], items: Mapping[str, Any], workers: int, scheduler: str | None) -> Iterator[tuple[Any, Any]]:
    """Carry out ``task`` for each item, on ``workers`` local processes or on those of a running scheduler; yields each item with its result, as they come.

    Args:
        task: may raise InputError, which is then the result.
        items: by a name of its own; what has one name is done once.
        workers: how many local processes.
        scheduler: address of a Dask scheduler to use instead.

    Raises:
        InputError: dask is not installed, or the scheduler does not answer.
    """
    distributed = optional("distributed", "Spreading files over processes", "cohort")
    with _client(distributed, workers, scheduler) as client:
        run = partial(_with_a_share, task, max(1, (os.cpu_count() or 1) // workers) if scheduler is None else None)
        futures = {client.submit(run, item, key=f"celladapt-{name}"): item for name, item in items.items()}
        for future in distributed.as_completed(futures):
            item = futures[future]
            try:
                yield item, future.result()
            except InputError as error:
                yield item, error
            except distributed.KilledWorker:
                yield item, InputError(f"{item} ended each process that tried it, perhaps for want of memory; try it alone, in one process.")
            except CancelledError:
                yield (
                    item,
                    InputError(
                        f"The scheduler {scheduler or 'of the workers'} has gone; see that it runs, and give the command again, which goes on."
                    ),
                )


@contextmanager
def _client(distributed: Any, workers: int, scheduler: str | None) -> Iterator[Any]:
    if scheduler is not None:
        try:
            client = distributed.Client(scheduler, timeout=PATIENCE)
        except (OSError, ValueError) as error:
            raise InputError(f"The scheduler {scheduler} does not answer ({error}); start one with `dask scheduler` and give its address.") from None
        say(f"Spread over the workers of {scheduler}.")
        with client:
            yield client
        return
    import dask

    stack = ExitStack()
    try:
        with _uninterrupted():
            # Dask's own would have each worker give memory back at once, and would stay in this process's environment for good.
            stack.enter_context(dask.config.set({"distributed.nanny.pre-spawn-environ": {}}))
            cluster = distributed.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None, memory_limit=0, silence_logs=50)
            client = stack.enter_context(distributed.Client(stack.enter_context(cluster)))
        yield client
    finally:
        with _uninterrupted():
            stack.close()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold an interrupt back till the end; processes and threads that begin meanwhile never see one, though a terminal sends Ctrl-C to each: we end them."""
    waiting: list[int] = []
    # A process that ignores interrupts, as in the background of a script, goes on doing so.
    here = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    before = signal.signal(signal.SIGINT, lambda number, _: waiting.append(number)) if here else None
    if masks := hasattr(signal, "pthread_sigmask"):  # not on Windows
        resource_tracker.ensure_running()  # its start would let interrupts through again
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        if masks:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        if here:
            signal.signal(signal.SIGINT, before or signal.SIG_DFL)
    if waiting:
        raise KeyboardInterrupt


def _with_a_share(task: Callable[[Any], Any], threads: int | None, item: Any) -> Any:
    """In a worker: the processes of one machine, if we started them, share its cores, and its GPUs in turn."""
    if threads is not None:
        import torch
        from distributed import get_worker

        torch.set_num_threads(threads)
        if gpus := usable_gpus():
            os.environ["LOCAL_RANK"] = str(int(get_worker().name) % len(gpus))  # by which a process picks its device
    return task(item)
