"""Jobs: a tamis command as a Ray job, with its log here and its exit status as ours.

Ray starts the command as a driver on the cluster and sets RAY_ADDRESS for it, so steps run on that cluster; the job
goes on when this process stops looking.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from catalog.errors import TamisError, UsageError
from clusters.cluster import Cluster, job_environment, load

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

ANSWER_SECONDS = 5.0
POLL_SECONDS = 0.5
MOST_FAILURES = 5  # to read the log of a job that has ended: its node may be gone


def submit(command: Sequence[str], *, cluster: Path, wait: bool) -> int:
    """Run `tamis COMMAND` on the cluster of a file; follow it to its exit status, or print the job's id and return 0.

    Raises UsageError when no cluster answers.
    """
    found = load(cluster)
    client = connect(found)
    job = start(client, found, entrypoint(found, command))
    if not wait:
        print(job)
        return 0
    print(f"job {job} on {found.address}", file=sys.stderr)
    try:
        return follow(client, job, sys.stdout)
    except KeyboardInterrupt:
        raise TamisError(
            f"no longer following {job}, which goes on: `ray job logs --address {found.address} --follow {job}`, "
            f"`ray job stop --address {found.address} {job}`"
        ) from None


def entrypoint(cluster: Cluster, command: Sequence[str]) -> str:
    """The shell line that runs `tamis COMMAND` there."""
    return shlex.join([cluster.python, "-m", "clusters.cli", *command])


def connect(cluster: Cluster) -> JobSubmissionClient:
    """A client of the cluster's job server. Raises UsageError when none answers."""
    host, port = cluster.host_and_port
    try:
        socket.create_connection((host, port), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        raise UsageError(
            f"no Ray cluster answers at {cluster.address} ({error.strerror or error}): start one with "
            "`ray start --head`, or name the dashboard of another with `address` in the cluster file"
        ) from error
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient
    from requests.exceptions import RequestException

    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(cluster.address)
    except AuthenticationError as error:
        raise UsageError(
            f"the Ray at {cluster.address} asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH "
            "where that cluster's token is not in ~/.ray/auth_token"
        ) from error
    except (RuntimeError, ConnectionError, ValueError, KeyError, RequestException) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"what answers at {cluster.address} is not a Ray dashboard: {reason}") from error


def start(client: JobSubmissionClient, cluster: Cluster, line: str) -> str:
    """Submit a shell line, with the cluster's environment; the job's id. Raises TamisError when it is refused."""
    try:
        return client.submit_job(
            entrypoint=line,
            runtime_env=job_environment(cluster),
            entrypoint_num_cpus=cluster.num_cpus,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise TamisError(f"{cluster.address} refused the job: {' '.join(str(error).split())[:500]}") from error


def follow(client: JobSubmissionClient, job: str, stream: TextIO) -> int:
    """Copy the job's log to `stream` as it grows, until the job ends; its exit status."""
    return _exit_status(asyncio.run(_follow(client, job, stream)))


async def _follow(client: JobSubmissionClient, job: str, stream: TextIO) -> JobDetails:
    from aiohttp import ClientError

    copied = failures = 0
    while True:
        broken, seen = False, 0
        try:
            async for text in client.tail_job_logs(job):  # from its beginning each time
                stream.write(text[max(0, copied - seen) :])
                stream.flush()
                seen += len(text)
                copied = max(copied, seen)
        except (RuntimeError, OSError, ClientError) as error:  # the connection; the job may well go on
            broken, failures = True, failures + 1
            print(f"the log of {job} broke off ({error}): trying again", file=sys.stderr)
        details = _details(client, job)
        if details.status.is_terminal() and (not broken or failures >= MOST_FAILURES):
            return details
        await asyncio.sleep(POLL_SECONDS)


def _details(client: JobSubmissionClient, job: str) -> JobDetails:
    try:
        return client.get_job_info(job)
    except (RuntimeError, OSError) as error:
        raise TamisError(f"the cluster no longer answers about {job}: {' '.join(str(error).split())[:300]}") from error


def _exit_status(details: JobDetails) -> int:
    if details.status == "SUCCEEDED":
        return 0
    if details.driver_exit_code is None:  # it never ran, or was stopped
        lines = (details.message or "").strip().splitlines() or ["no reason given"]
        print(f"the job {details.submission_id} is {details.status}: {lines[-1]}", file=sys.stderr)
    return details.driver_exit_code or 1
