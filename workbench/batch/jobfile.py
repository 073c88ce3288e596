"""Job files: TOML, or YAML with the extra; read, overridden and checked as a whole, without importing torch."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from workbench.batch.checks import cross_faults
from workbench.batch.schema import LAYOUT, BadJobs, JobFile
from workbench.faults import faults_of, meant
from workbench.textfile import parsed


@dataclass(frozen=True)
class Jobs:
    """What a job file asks for, and the folder that its relative paths start from."""

    file: JobFile
    folder: Path
    source: str


def read_jobs(
    jobs: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), *, user_code: bool = True
) -> Jobs:
    """Read and check a job file, or what would stand in one.

    Parameters
    ----------
    jobs : the path of a ``.toml``, ``.yaml`` or ``.yml`` file, or a dict of the same content
    overrides : ``a.b=c``, put into the content before it is checked; a job is named by its number, from 0, or name
    user_code : whether ``package.module:function`` is allowed

    Raises
    ------
    BadJobs
        Something in it is wrong; the message lists everything.
    OSError
        The file cannot be read.
    ModuleNotFoundError
        It is YAML, and the extra is not installed.
    """
    path = None if isinstance(jobs, Mapping) else Path(jobs)
    source = str(path) if path else "the jobs"
    data: Any = copy.deepcopy(dict(jobs)) if isinstance(jobs, Mapping) else parsed(Path(jobs), BadJobs)
    if not isinstance(data, dict):
        raise BadJobs(source, ["the file holds no table of fields; it must at least have [[jobs]]"])
    for override in overrides:
        _override(data, override, source)
    faults, file = [], None
    try:
        file = JobFile.model_validate(data)
    except ValidationError as error:
        faults = faults_of(error, data, LAYOUT)
    faults += cross_faults(data, user_code)
    if faults or file is None:
        raise BadJobs(source, faults)
    return Jobs(file, (path.parent if path else Path()).resolve(), source)


def _override(data: dict[str, Any], override: str, source: str) -> None:
    """Put one ``a.b=c`` where it belongs."""
    path, equals, text = override.partition("=")
    *tables, last = (part.strip() for part in path.split("."))
    if not equals or not all([*tables, last]):
        raise BadJobs(source, [f'--set "{override}" is not NAME.NAME=VALUE; try --set defaults.seed=1'])
    inside: Any = data
    for table in tables:
        inside = _job(inside, table, override, source) if isinstance(inside, list) else inside.setdefault(table, {})
        if not isinstance(inside, dict | list):
            raise BadJobs(source, [f'--set "{override}": {table} is no table; try --set defaults.seed=1'])
    if not isinstance(inside, dict):
        raise BadJobs(source, [f'--set "{override}" names no field of a job; try --set jobs.0.seed=1'])
    inside[last] = _value(text.strip())


def _job(jobs: list[Any], name: str, override: str, source: str) -> Any:
    names = [str(job.get("name")) for job in jobs if isinstance(job, dict) and "name" in job]
    for number, job in enumerate(jobs):
        if name == str(number) or (isinstance(job, dict) and job.get("name") == name):
            return job
    where = f"; there are {len(jobs)} jobs, from 0 on" + (f", called {', '.join(names)}" if names else "")
    raise BadJobs(source, [f'--set "{override}": there is no job {name}{meant(name, names) or where}'])


def _value(text: str) -> Any:
    """As it would be written in TOML; what is nothing in TOML is a text."""
    try:
        found = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return found["value"] if found.keys() == {"value"} else text
