from __future__ import annotations

import asyncio
import contextlib
import io
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from catalog.errors import TamisError, UsageError
from clusters import submit as jobs
from clusters.cluster import Cluster

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Status:
    name: str

    def is_terminal(self) -> bool:
        return self.name in ("SUCCEEDED", "FAILED", "STOPPED")

    def __eq__(self, other: object) -> bool:
        return self.name == other

    def __str__(self) -> str:
        return self.name


@dataclass
class Details:
    status: Status
    driver_exit_code: int | None = None
    message: str | None = None
    submission_id: str = "job-1"


@dataclass
class FakeClient:
    """Tails: each a list of pieces of the log, an exception ends one. Then the job is what `details` says."""

    tails: list[list[str | BaseException]]
    details: list[Details | Exception]
    submitted: dict = field(default_factory=dict)

    async def tail_job_logs(self, _):
        for piece in self.tails.pop(0):
            await asyncio.sleep(0)
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def get_job_info(self, _):
        found = self.details.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def submit_job(self, **what):
        self.submitted = what
        return "job-1"


RUNNING, DONE = Details(Status("RUNNING")), Details(Status("SUCCEEDED"), 0)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.001)


def test_the_entrypoint_is_the_same_command_quoted_for_a_shell():
    cluster = Cluster(python="/opt/my venv/python")
    line = jobs.entrypoint(cluster, ["sql", "SELECT 'a' FROM runs; rm -rf /", "--format", "csv"])
    assert line == """'/opt/my venv/python' -m clusters.cli sql 'SELECT '"'"'a'"'"' FROM runs; rm -rf /' --format csv"""
    assert jobs.entrypoint(Cluster(), ["demo", "--quick"]) == "python -m clusters.cli demo --quick"


def test_a_job_carries_the_environment_and_the_cpus_of_its_cluster():
    client = FakeClient([], [])
    cluster = Cluster(env={"TAMIS_STORE": "/shared"}, num_cpus=1)
    assert jobs.start(client, cluster, "echo") == "job-1"
    assert client.submitted == {
        "entrypoint": "echo",
        "runtime_env": {"env_vars": {"PYTHONUNBUFFERED": "1", "TAMIS_STORE": "/shared"}},
        "entrypoint_num_cpus": 1,
    }


@pytest.mark.parametrize(("details", "status"), [(DONE, 0), (Details(Status("FAILED"), 3), 3)])
def test_the_log_is_copied_and_the_exit_status_is_the_jobs(details, status):
    out = io.StringIO()
    assert jobs.follow(FakeClient([["one\n", "two\n"], []], [RUNNING, details]), "job-1", out) == status
    assert out.getvalue() == "one\ntwo\n"


def test_a_log_that_broke_off_goes_on_where_it_was_and_repeats_nothing(capsys):
    out = io.StringIO()
    broken = [["one\n", "tw", RuntimeError("closed")], ["one\ntwo\n", OSError("reset")], ["one\n", "two\n", "three\n"]]
    assert jobs.follow(FakeClient(broken, [RUNNING, DONE, DONE]), "job-1", out) == 0
    assert out.getvalue() == "one\ntwo\nthree\n"
    assert "broke off (closed): trying again" in capsys.readouterr().err


def test_a_job_that_ended_and_whose_log_is_gone_ends_the_following(capsys):
    gone = [[RuntimeError("node lost")] for _ in range(jobs.MOST_FAILURES)]
    failed = Details(Status("FAILED"), None, "node lost")
    assert jobs.follow(FakeClient(gone, [failed] * jobs.MOST_FAILURES), "job-1", io.StringIO()) == 1
    assert "the job job-1 is FAILED: node lost" in capsys.readouterr().err


def test_a_job_that_never_ran_fails_with_the_reason(capsys):
    details = Details(Status("FAILED"), None, "Traceback ...\nno such module: polars")
    assert jobs.follow(FakeClient([[]], [details]), "job-1", io.StringIO()) == 1
    assert capsys.readouterr().err == "the job job-1 is FAILED: no such module: polars\n"


def test_a_cluster_that_stops_answering_ends_the_following_in_one_line():
    client = FakeClient([[RuntimeError("closed")]], [ConnectionError("no route")])
    with pytest.raises(TamisError, match="no longer answers about job-1: no route"):
        jobs.follow(client, "job-1", io.StringIO())


def test_an_interrupt_leaves_the_job_and_says_how_to_reach_it(tmp_path, monkeypatch):
    (tmp_path / "c.yaml").touch()
    monkeypatch.setattr(jobs, "connect", lambda _: FakeClient([[KeyboardInterrupt()]], []))
    with pytest.raises(TamisError, match="no longer following job-1, which goes on: `ray job logs"):
        jobs.submit(["ls"], cluster=tmp_path / "c.yaml", wait=True)


def test_without_waiting_the_id_is_printed(tmp_path, monkeypatch, capsys):
    (tmp_path / "c.yaml").write_text("address: http://file:1\nnum_cpus: 2")
    seen = []
    monkeypatch.setattr(jobs, "connect", lambda cluster: seen.append(cluster) or FakeClient([], []))
    assert jobs.submit(["ls"], cluster=tmp_path / "c.yaml", wait=False) == 0
    assert seen == [Cluster(address="http://file:1", num_cpus=2)]
    assert capsys.readouterr().out == "job-1\n"


def test_where_nothing_listens_one_line_says_so_without_importing_ray(tmp_path):
    (tmp_path / "c.yaml").write_text(f"address: http://127.0.0.1:{free_port()}")
    code = f"""
import sys
from pathlib import Path
from clusters.submit import submit
try:
    submit(["ls"], cluster=Path({str(tmp_path / "c.yaml")!r}), wait=True)
except Exception as error:
    print(type(error).__name__, error, "ray" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("UsageError no Ray cluster answers at http://127.0.0.1:")
    assert "start one with `ray start --head`" in done.stdout
    assert done.stdout.endswith("False\n")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("status", [200, 404, 500])
def test_what_is_not_a_ray_dashboard_is_told_apart(status):
    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(UsageError, match="is not a Ray dashboard") as caught:
            jobs.connect(Cluster(address=f"http://127.0.0.1:{server.server_port}"))
    finally:
        server.shutdown()
        server.server_close()
    assert len(str(caught.value).splitlines()) == 1


@pytest.fixture
def dashboard():
    """(address, environment for its clients) of a Ray of our own: private ports, folder, token and process group."""
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    (folder / "token").write_text(secrets.token_hex(32))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "metrics-export-port", "ray-client-server-port")
    ports = {name: free_port() for name in names}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--temp-dir={folder}", "--num-cpus=2", "--object-store-memory=100000000"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    with open(folder / "log", "wb") as log:
        ray = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while b"Ray runtime started" not in (folder / "log").read_bytes():
            assert time.monotonic() < deadline, (folder / "log").read_text()
            assert ray.poll() is None, (folder / "log").read_text()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{ports['dashboard-port']}", environment
    finally:
        ray.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            ray.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(ray.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


CARRY = """
import io, sys
from pathlib import Path
from clusters.cluster import load
from clusters.submit import connect, follow, start
cluster = load(Path(sys.argv[1]))
client = connect(cluster)
line = "cat recipe.yaml; echo $TAMIS_STORE; echo $PYTHONPATH; exit 7"
job = start(client, cluster, line)
print("status", follow(client, job, sys.stdout))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_real_cluster_runs_the_command_with_shipped_code_and_gives_back_log_and_status(dashboard, tmp_path):
    address, environment = dashboard
    store, file = tmp_path / "store", tmp_path / "cluster.yaml"
    file.write_text(f"address: {address}\ncode: shipped\npython: {sys.executable}\nenv: {{TAMIS_STORE: {store}}}\n")
    (tmp_path / "carried").mkdir()
    (tmp_path / "carried" / "recipe.yaml").write_text("steps: []\n")

    def call(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment | changes, capture_output=True, text=True)

    submit = ("-m", "clusters.cli", "submit", "--cluster", str(file), "--")
    shown = call(*submit, "schema")
    assert (shown.returncode, "near-duplicate" in shown.stdout or "fuzzy" in shown.stdout) == (0, True), shown
    refused = call(*submit, "ls")
    assert (refused.returncode, f"no tamis store at {store}" in refused.stdout) == (2, True), refused
    carrying = tmp_path / "carrying.yaml"
    carrying.write_text(f"{file.read_text()}runtime_env: {{working_dir: {tmp_path / 'carried'}}}\n")
    carried = call("-c", CARRY, str(carrying))
    assert f"steps: []\n{store}\n" in carried.stdout
    assert "py_modules_files" in carried.stdout
    assert carried.stdout.endswith("status 7\n")
    stranger = call(*submit, "ls", RAY_AUTH_MODE="disabled")
    assert (stranger.returncode, "asks for a token" in stranger.stderr) == (2, True), stranger
