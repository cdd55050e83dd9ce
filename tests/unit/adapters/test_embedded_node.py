from __future__ import annotations

import shutil
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from adapters import kafka_runtime
from adapters.embedded_broker import EmbeddedBroker, read_broker_file
from adapters.embedded_node import (
    allocate_ports,
    java_command,
    read_log_tail,
    write_properties,
)
from adapters.kafka_runtime import find_jars, find_java
from pipeline.errors import ConfigError
from schemas.topics import DAY_MS, TOPICS


def _settings(path: Path) -> dict[str, str]:
    lines = path.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_ports_are_kept_between_runs_while_they_are_free(tmp_path: Path) -> None:
    first = allocate_ports(tmp_path, 1, None)
    assert allocate_ports(tmp_path, 1, None) == first
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first[0].port))
        taken.listen()
        other = allocate_ports(tmp_path, 1, None)
    assert other[0].port != first[0].port
    assert other[0].controller_port == first[0].controller_port


def test_all_ports_of_a_cluster_differ(tmp_path: Path) -> None:
    nodes = allocate_ports(tmp_path, 3, None)
    assert len({port for node in nodes for port in (node.port, node.controller_port)}) == 6
    assert [node.number for node in nodes] == [1, 2, 3]


def test_a_full_disk_is_one_line_that_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = SimpleNamespace(free=1_000_000)
    monkeypatch.setattr("adapters.embedded_node.shutil.disk_usage", lambda _: full)
    with pytest.raises(ConfigError, match=r"only 1 MB free .* LINESIDE_STATE_DIR") as refused:
        allocate_ports(tmp_path, 1, None)
    assert "\n" not in str(refused.value)


def test_committed_positions_outlive_every_topic(tmp_path: Path) -> None:
    nodes = allocate_ports(tmp_path, 1, None)
    write_properties(nodes[0], nodes)
    settings = _settings(nodes[0].properties_path)
    longest_days = max(topic.retention_ms or 0 for topic in TOPICS.values()) / DAY_MS
    assert int(settings["offsets.retention.minutes"]) > longest_days * 24 * 60
    assert settings["auto.create.topics.enable"] == "false"
    assert settings["log.message.timestamp.type"] == "LogAppendTime"
    assert settings["min.insync.replicas"] == "1"
    assert settings["listeners"].startswith("PLAINTEXT://127.0.0.1:")


def test_a_cluster_needs_two_of_three_copies(tmp_path: Path) -> None:
    nodes = allocate_ports(tmp_path, 3, None)
    write_properties(nodes[1], nodes)
    settings = _settings(nodes[1].properties_path)
    assert settings["node.id"] == "2"
    assert settings["default.replication.factor"] == "3"
    assert settings["min.insync.replicas"] == "2"
    assert settings["controller.quorum.voters"].count("@") == 3


def test_a_node_takes_all_of_its_heap_at_its_start() -> None:
    """What grows afterwards would else be a heap that nobody had limited yet, or a leak."""
    command = java_command("java", [Path("kafka.jar")])
    sizes = {part[:4]: part[4:] for part in command if part.startswith(("-Xms", "-Xmx"))}
    assert sizes["-Xms"] == sizes["-Xmx"]
    assert "-XX:+AlwaysPreTouch" in command


def test_the_last_words_of_a_node_fit_on_one_line(tmp_path: Path) -> None:
    (node,) = allocate_ports(tmp_path, 1, None)
    assert read_log_tail(node) == "nothing"
    node.folder.mkdir()
    node.log_path.write_text("one\n" * 1000 + "the last\nword")
    assert read_log_tail(node).endswith("the last word")
    assert len(read_log_tail(node)) <= 600


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pids": [1]}', '{"pids": 3}'])
def test_a_broken_broker_file_means_no_broker(tmp_path: Path, text: str) -> None:
    (tmp_path / "broker.json").write_text(text)
    assert read_broker_file(tmp_path) is None


def test_a_broker_file_of_dead_processes_means_no_broker(tmp_path: Path) -> None:
    text = '{"pids": [2147480000], "bootstrap_servers": "127.0.0.1:9"}'
    (tmp_path / "broker.json").write_text(text)
    assert read_broker_file(tmp_path) is None


def test_a_machine_without_java_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_runtime, "_java_candidates", lambda: iter(["/no/such/java"]))
    with pytest.raises(ConfigError, match=r"no Java 17 .* LINESIDE_KAFKA__BOOTSTRAP_SERVERS"):
        find_java()


def test_an_old_java_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for path, version in ((old, "11.0.2"), (new, "21.0.1")):
        path.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
        path.chmod(0o755)
    candidates = [str(old), str(new)]
    monkeypatch.setattr(kafka_runtime, "_java_candidates", lambda: iter(candidates))
    assert find_java() == str(new)


def test_a_machine_that_cannot_download_is_told_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr("jgo.build", refuse)
    with pytest.raises(ConfigError, match=r"network is unreachable.*BOOTSTRAP_SERVERS"):
        find_jars(tmp_path)


def test_behind_a_proxy_clients_are_told_its_port_and_nodes_use_their_own(tmp_path: Path) -> None:
    node = replace(allocate_ports(tmp_path, 1, None)[0], front_port=4001, peer_port=4002)
    write_properties(node, [node])
    settings = _settings(node.properties_path)
    assert f"PLAINTEXT://127.0.0.1:{node.port}," in settings["listeners"]
    assert settings["advertised.listeners"] == ("PLAINTEXT://127.0.0.1:4001,PEERS://127.0.0.1:4002")
    assert settings["inter.broker.listener.name"] == "PEERS"


async def test_a_broker_that_does_not_come_back_says_if_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def end() -> None:
        raise ConfigError("java.io.IOException: a long trace")

    broker = EmbeddedBroker(tmp_path)
    monkeypatch.setattr(broker, "wait_ready", end)
    for free_bytes, told in ((1_000_000, "only 1 MB free"), (10**12, "a long trace")):
        found = SimpleNamespace(free=free_bytes)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, found=found: found)
        with pytest.raises(ConfigError, match=told):
            await broker.revive()
