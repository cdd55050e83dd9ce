"""docker-compose.yml is what it says: valid, and every command and health check of it runs."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from app.chaos.scripted_llm import ScriptedLlm
from app.up import free_port
from tests.compose_rig import ROOT, ComposeRig, interpolated, start_kafka, start_postgres
from tests.services import missing

ROLES = ("web", "embed", "anomaly", "llm", "record")


def test_the_compose_specification_accepts_the_file(tmp_path: Path) -> None:
    checker = shutil.which("compose-check")
    if checker is None:
        missing("the compose specification's own loader", ".ci/run builds it")
    text = yaml.safe_dump(interpolated())
    (tmp_path / "docker-compose.yml").write_text(text, "utf-8")
    result = subprocess.run(
        [str(checker), str(tmp_path / "docker-compose.yml")],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr + result.stdout


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[ComposeRig]:
    for program in ("versitygw", "/usr/lib/postgresql/15/bin/postgres"):
        if shutil.which(program) is None:
            missing(program, "installed by .ci/run")
    ports = {name: str(free_port()) for name in ("kafka", "control", "s3", "pg", "search", "web")}
    rig = ComposeRig(
        tmp_path,
        {
            "kafka:9092": f"127.0.0.1:{ports['kafka']}",
            "kafka:9093": f"127.0.0.1:{ports['control']}",
            "127.0.0.1:9092": f"127.0.0.1:{ports['kafka']}",
            "://:9092": f"://127.0.0.1:{ports['kafka']}",
            "://:9093": f"://127.0.0.1:{ports['control']}",
            "/var/lib/kafka/data": str(tmp_path / "kafka-data"),
            "http://s3:7070": f"http://127.0.0.1:{ports['s3']}",
            "127.0.0.1:7070": f"127.0.0.1:{ports['s3']}",
            ":7070": f"127.0.0.1:{ports['s3']}",
            "/data": str(tmp_path / "objects"),
            "@postgres:5432": f"@127.0.0.1:{ports['pg']}",
            "http://embed:5010": f"http://127.0.0.1:{ports['search']}",
            "0.0.0.0": "127.0.0.1",
        },
    )
    rig.services["embed"]["environment"]["LINESIDE_SEARCH__PORT"] = ports["search"]
    rig.services["web"]["environment"]["LINESIDE_WEB__PORT"] = ports["web"]
    (tmp_path / "objects").mkdir()
    yield rig
    rig.stop()


def _give_role_its_port(rig: ComposeRig, role: str) -> None:
    """Containers share port 9100; processes of one machine cannot."""
    service = rig.services[role]
    environment = dict(service["environment"])
    target = service["healthcheck"]["test"][-1]
    port = environment["LINESIDE_WEB__PORT"] if role == "web" else str(free_port())
    environment["LINESIDE_HEALTH__PORT"] = port if role != "web" else "0"
    environment["LINESIDE_STATE_DIR"] = str(rig.folder / f"home-{role}")
    service["environment"] = environment
    probe = target.replace(":9100", f":{port}").replace(":5000", f":{port}")
    service["healthcheck"] = {"test": [*service["healthcheck"]["test"][:-1], probe]}


@pytest.mark.needs_kafka
@pytest.mark.needs_s3
@pytest.mark.needs_postgres
def test_every_command_and_health_check_runs_outside_docker(rig: ComposeRig) -> None:
    start_kafka(rig)
    gateway = ["versitygw", *(rig.text(part) for part in rig.services["s3"]["command"])]
    rig.start(gateway, rig.environment("s3"), "s3")
    url = rig.environment("prepare")["LINESIDE_DATABASE__URL"]
    port = url.rsplit(":", 1)[1].split("/")[0]
    start_postgres(rig, port)
    for service in ("kafka", "s3"):
        rig.wait_healthy(service)
    check = rig.health_command("postgres")
    subprocess.run(
        [f"/usr/lib/postgresql/15/bin/{check[0]}", *check[1:], "-h", "127.0.0.1", "-p", port],
        check=True,
    )
    assert "created images.uploaded" in rig.run("prepare")
    for role in ROLES:
        _give_role_its_port(rig, role)
        rig.start(rig.command(role), rig.environment(role), role)
    for role in ROLES:
        rig.wait_healthy(role)
    web = f"http://127.0.0.1:{rig.environment('web')['LINESIDE_WEB__PORT']}"
    without_login = httpx.get(f"{web}/v1/products", trust_env=False)
    assert without_login.status_code == 401
    token = {"Authorization": "Bearer compose-token"}
    assert httpx.get(f"{web}/v1/products", headers=token, trust_env=False).status_code == 200


async def test_the_language_model_s_health_check_runs_against_its_protocol() -> None:
    service = ComposeRig(Path(), {}).services["tgi"]
    async with ScriptedLlm() as server:
        command = [
            part.replace("http://127.0.0.1:5001", server.url)
            for part in service["healthcheck"]["test"][1:]
        ]
        if shutil.which(command[0]) is None:
            missing(command[0], "a Debian package")
        process = await asyncio.create_subprocess_exec(*command)
        assert await process.wait() == 0
    arguments = service["command"]
    assert arguments[arguments.index("--port") + 1] == "5001"


def test_every_role_installs_its_own_packages_only() -> None:
    heavy = ("torch", "faiss-cpu", "open-clip-torch", "kiwipiepy", "fastapi")
    wanted = {
        "web": {"fastapi"},
        "embed": {"torch", "faiss-cpu", "open-clip-torch", "fastapi"},
        "anomaly": {"torch"},
        "llm": {"kiwipiepy"},
        "record": set(),
    }
    for role in ROLES:
        lock = (ROOT / "infra/requirements" / f"{role}.lock").read_text("utf-8")
        held = {name for name in heavy if f"\n{name}==" in f"\n{lock}"}
        assert held == wanted[role], role
