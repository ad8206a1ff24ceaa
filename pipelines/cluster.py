"""The one place that starts Ray; its start makes no connection that leaves the cluster."""

import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import ray

Item = TypeVar("Item")
Answer = TypeVar("Answer")

PACKAGES = ("schemas", "model", "filters", "pipelines", "training", "juzhou")


def start(cpus: int | None = None) -> None:
    """Connect to the cluster that RAY_ADDRESS names, otherwise start one of this machine alone; once is enough.

    Args:
        cpus: cores that tasks may use on this machine; all of them when None. A named cluster has its own.
    """
    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        modules = [str(Path(__file__).parents[1] / package) for package in PACKAGES]
        ray.init(runtime_env={"py_modules": modules}, log_to_driver=False, logging_level=logging.WARNING)
    else:
        _start_here(cpus)


def get(reference: Any) -> Any:
    """A task's result, or the error that it raised itself rather than Ray's wrapping of it."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error


def spread(function: Callable[[Any, Item], Answer], shared: Any, items: Iterable[Item]) -> Iterator[Answer]:
    """The answers of a function of something shared, which is sent to each machine once, and an item; in any order."""
    start()
    task = ray.remote(num_cpus=1)(function)
    there = ray.put(shared)
    waiting = [task.remote(there, item) for item in items]
    while waiting:
        [ready], waiting = ray.wait(waiting, num_returns=1)
        yield get(ready)


def cores() -> int:
    """The cores that this actor has to itself; 1 outside an actor."""
    if not ray.is_initialized() or ray.get_runtime_context().get_actor_id() is None:
        return 1
    resources: dict[str, float] = ray.get_runtime_context().get_assigned_resources()
    return max(1, int(resources.get("CPU", 1)))


def stop() -> None:
    """Leave the cluster; one that we started ends."""
    ray.shutdown()


def _start_here(cpus: int | None) -> None:
    """Start Ray on the loopback interface.

    Ray's usage reporter, even when it is off, asks cloud metadata services at link-local addresses where it runs,
    unless `~/ray_bootstrap_config.yaml` names a provider. So Ray begins with a HOME that holds just that file;
    workers get the user's HOME back.
    """
    home = os.environ.get("HOME", str(Path.home()))
    with tempfile.TemporaryDirectory(prefix="juzhou-ray-") as bare_home:
        (Path(bare_home) / "ray_bootstrap_config.yaml").write_text("provider: {type: local}\n")
        os.environ["HOME"] = bare_home
        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                runtime_env={"env_vars": {"HOME": home, "OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}},
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        finally:
            os.environ["HOME"] = home
