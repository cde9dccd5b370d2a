"""What is shipped to run it elsewhere: each file read by the tool that knows its language, its parts run by hand where no engine is."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from tests.postgres import PASSWORD, Server, serving
from tuner.cli import cli

yaml = pytest.importorskip("yaml", reason="needs PyYAML (extra `dev`)")

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
SMALL = """
[data]
source = "synthetic"
stories = 30
[budget]
trials = 3
epochs = 40
[search]
lr = { low = 1e-3, high = 1e-2, log = true }
[fixed]
hidden_dim = 16
num_rules = 2
[confirm]
top = 1
seeds = 2
"""


def program(name: str) -> str:
    """A program of the environment or of this machine; without it the test is skipped."""
    found = shutil.which(name, path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"needs {name} (extra `dev`)")
    return found


def options_of(words: list[str]) -> None:
    """Every option in a command of ours is one that it has."""
    command = cli.commands[words[0]]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for word in words[1:]:
        assert not word.startswith("--") or word in known, f"{words[0]} has no {word}"


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    """All of its rules."""
    done = subprocess.run([program("hadolint"), "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_gets_what_it_needs_and_nothing_else() -> None:
    """What is copied is let through, and every package of the product is pinned."""
    dockerfile, let = (ROOT / "Dockerfile").read_text(), (ROOT / ".dockerignore").read_text().split()
    copied = [word for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.M) for word in line.split()[:-1]]
    assert {f"!{name}" for name in copied} <= set(let)
    assert let[0] == "*"
    pinned = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", (ROOT / "deploy" / "constraints.txt").read_text(), re.M))
    project = (ROOT / "pyproject.toml").read_text()
    needed = re.findall(r'^    "([A-Za-z0-9._-]+)[^"]*",$', project.split("dependencies = [")[1].split("]")[0], re.M)
    assert {name.lower() for name in needed} <= {name.lower() for name in pinned}
    assert f'"torch=={pinned["torch"]}"' in project


def test_shellcheck_finds_nothing_in_the_slurm_script() -> None:
    """And bash can read it."""
    script = str(ROOT / "deploy" / "slurm.sh")
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    done = subprocess.run([program("shellcheck"), script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_slurm_task_whose_time_is_up_writes_its_state_and_is_queued_again(tmp_path: Path) -> None:
    """With the signal that Slurm sends to the script; `scontrol` is one of ours that notes what it is told."""
    noted = tmp_path / "scontrol"
    noted.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/told\n')
    noted.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}{os.pathsep}{BIN}{os.pathsep}{os.environ['PATH']}",
        "TUNER_STORAGE": f"sqlite:///{tmp_path}/tuner.db",
        "SLURM_JOB_ID": "17",
        "SLURM_ARRAY_TASK_ID": "0",
    }
    command = ["bash", str(ROOT / "deploy" / "slurm.sh"), "quick", "--num-stories", "30", "--no-confirm", "-v"]
    script = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert script.stderr is not None
    assert any('"event": "epoch"' in line for line in script.stderr), "it never trained an epoch"
    script.send_signal(signal.SIGTERM)
    rest = script.communicate()[1]
    assert script.returncode == 143, rest
    assert (tmp_path / "told").read_text() == "requeue 17\n"
    assert list((tmp_path / "runs" / "snapshots").rglob("*.safetensors"))


@pytest.mark.parametrize(("words", "joined"), [([], "quick"), (["--name", "mine"], "mine"), (["--trials", "9", "--name=mine"], "mine")])
def test_the_other_slurm_tasks_join_the_study_that_is_trained(tmp_path: Path, words: list[str], joined: str) -> None:
    """By the name that the first gives it, and not before; `tuner` is one of ours that notes what it is told."""
    fake = tmp_path / "tuner"
    fake.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/told\nif [ "$1" = status ]; then echo \'{{"study": "x", "running": 2}}\'; fi\n')
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "TUNER_STORAGE": "any", "SLURM_ARRAY_TASK_ID": "1"}
    command = ["bash", str(ROOT / "deploy" / "slurm.sh"), "quick", *words]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "told").read_text().splitlines() == [f"status {joined} --json", f"worker {joined} --log-format json"]


def test_the_kubernetes_job_says_what_there_is() -> None:
    """It keeps to the schema; its options are ours, bad usage ends it, a preempted worker does not; nothing is root or writes elsewhere."""
    (job,) = yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
    with pytest.raises(kubernetes_validate.ValidationError, match="parallelism"):
        kubernetes_validate.validate({**job, "spec": {**job["spec"], "parallelism": "many"}}, kubernetes_validate.latest_version())
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    for line in re.findall(r"tuner (\w+ .*)", container["args"][0]):
        options_of(re.sub(r"[;>|].*", "", line).split())
    rules = {rule["action"]: rule.get("onExitCodes", {}).get("values") for rule in job["spec"]["podFailurePolicy"]["rules"][:2]}
    assert rules == {"FailJob": [2], "Ignore": [143]}
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert pod["automountServiceAccountToken"] is False
    assert "envFrom" not in container, "the password would be in the environment of every process"
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def substituted(value: Any, of: dict[str, str]) -> Any:
    """As Compose fills in variables."""
    if isinstance(value, dict):
        return {key: substituted(entry, of) for key, entry in value.items()}
    if isinstance(value, list):
        return [substituted(entry, of) for entry in value]
    if isinstance(value, str):
        return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: of.get(found[1], found[2]), value)
    return value


def test_what_compose_starts_runs_by_hand(tmp_path: Path) -> None:
    """The same three parts from the same variables and commands: PostgreSQL, the search that is watched, the dashboard with its login."""
    (tmp_path / "small.toml").write_text(SMALL)
    composed = substituted(yaml.safe_load((ROOT / "compose.yaml").read_text()), {"STUDY": str(tmp_path / "small.toml")})
    search, dashboard = composed["services"]["search"], composed["services"]["dashboard"]
    assert search["secrets"] == ["postgres"], "the dashboard's token is for the dashboard alone"
    assert search["cap_drop"] == dashboard["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for service in composed["services"].values() for port in service.get("ports", []))
    for name, secret in (("postgres", PASSWORD), ("dashboard", "a token of some length")):
        (tmp_path / name).write_text(secret)
    ports = {"9464": str(Server.free_port()), "8080": str(Server.free_port())}
    with serving() as server:
        server.create("tuner")

        def begun(service: dict[str, Any]) -> subprocess.Popen[str]:
            options_of(service["command"])
            told = {
                name: value.replace("@postgres/", f"@127.0.0.1:{server.port}/").replace("/run/secrets", str(tmp_path))
                for name, value in service["environment"].items()
            }
            words, pipe = [str(BIN / "tuner"), *(ports.get(word, word) for word in service["command"])], subprocess.PIPE
            return subprocess.Popen(words, cwd=tmp_path, env={**os.environ, **told}, stderr=pipe, stdout=pipe, text=True)

        searching = begun(search)
        assert searching.stderr is not None
        assert any('"event": "started"' in line for line in searching.stderr), "the search began no trial"
        figures = urllib.request.urlopen(f"http://127.0.0.1:{ports['9464']}/metrics", timeout=60).read().decode()
        assert "tuner_trials_total{" in figures
        for seen in ("cmdline", "environ"):
            assert PASSWORD not in Path(f"/proc/{searching.pid}/{seen}").read_text()
        found, said = searching.communicate()
        assert searching.returncode == 0, said
        assert PASSWORD not in found + said
        dashing = begun(dashboard)
        try:
            assert dashing.stderr is not None
            assert any(ports["8080"] in line for line in dashing.stderr)
            health = [word.replace("8080", ports["8080"]) for word in dashboard["healthcheck"]["test"][1:]]
            assert subprocess.run([sys.executable, *health[1:]], check=False).returncode == 0
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(f"http://127.0.0.1:{ports['8080']}/api/studies", timeout=60)
        finally:
            dashing.terminate()
            dashing.communicate()
