"""What runs a batch elsewhere: a Dask cluster, here or anywhere."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from typing import Any

# no page of its own, and no port that another cluster on this machine may have
QUIET = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}


@contextmanager
def dask_executor(address: str, workers: int) -> Iterator[Executor]:
    """The executor of the scheduler at ``address``; ``local`` is a cluster of so many processes that ends with it.

    Raises ModuleNotFoundError without the extra.
    """
    if importlib.util.find_spec("distributed") is None:
        raise ModuleNotFoundError("--dask needs distributed; pip install 'workbench[dask]'")
    from distributed import Client, LocalCluster

    with ExitStack() as stack:
        where: Any = address
        if address == "local":
            cluster = LocalCluster(n_workers=workers, threads_per_worker=1, scheduler_kwargs=QUIET)
            where = stack.enter_context(cluster)
        yield stack.enter_context(Client(where)).get_executor()
