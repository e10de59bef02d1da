"""The compose files: right by the specification's schema, and by what the documents promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gemini_caching_proxy.settings import Settings

from .compose import FILES, ROOT, interpolated, read_compose
from .dockerfile import read_stages

SERVICES = [(name, service) for name in FILES for service in read_compose(name)["services"]]
PUBLISHED = {"docker-compose.yml": "proxy", "docker-compose.replicas.yml": "nginx"}
PROXIES = {"docker-compose.yml": ["proxy"], "docker-compose.replicas.yml": ["proxy-1", "proxy-2"]}
SERVERS = {"docker-compose.yml": ["mongo"], "docker-compose.replicas.yml": ["mongo-1", "mongo-2", "mongo-3"]}
USERS = {"gemini-caching-proxy": "10001:10001", "mongo:8.0": "999:999", "nginx:1.28-alpine": "101:101"}
"""The users of the images that are not root; of the official ones as their Dockerfiles make them."""


def service(file: str, name: str, **variables: str) -> dict[str, Any]:
    found: dict[str, Any] = read_compose(file, variables)["services"][name]
    return found


def test_the_files_keep_to_the_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", *FILES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", FILES)
def test_one_service_is_published_and_to_this_machine_only(file: str) -> None:
    services = read_compose(file)["services"]
    assert {name: each["ports"] for name, each in services.items() if "ports" in each} == {
        PUBLISHED[file]: ["127.0.0.1:8000:8000"]
    }
    assert service(file, PUBLISHED[file], GEMINI_PROXY_PORT="9000")["ports"] == ["127.0.0.1:9000:8000"]
    assert not [name for name, each in services.items() if "network_mode" in each or "expose" in each]


@pytest.mark.parametrize(("file", "name"), SERVICES)
def test_every_service_has_no_more_rights_than_it_needs(file: str, name: str) -> None:
    found = service(file, name)
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert "cap_add" not in found
    assert "privileged" not in found
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert found["user"] == USERS[found["image"]]
    for each in found["tmpfs"]:
        assert {"noexec", "nosuid", "nodev"} < set(each.partition(":")[2].split(","))
        assert "size=" in each


@pytest.mark.parametrize(("file", "name"), SERVICES)
def test_every_service_is_bounded(file: str, name: str) -> None:
    found = service(file, name)
    limits = found["deploy"]["resources"]["limits"]
    assert set(limits) == {"cpus", "memory", "pids"}
    assert all(limits.values())
    assert found["logging"]["options"] == {"max-size": "10m", "max-file": "3"}
    assert found["stop_grace_period"] == "40s"
    assert found["restart"] == ("no" if name == "replica-set" else "unless-stopped")


def test_the_limits_can_be_changed() -> None:
    found = service("docker-compose.yml", "mongo", MONGO_MEMORY="8g", MONGO_CPUS="4", MONGO_CACHE_GB="3.5")
    assert found["deploy"]["resources"]["limits"] == {"cpus": "4", "memory": "8g", "pids": 1024}
    assert found["command"][-1] == "3.5"
    assert service("docker-compose.yml", "proxy", PROXY_MEMORY="2g")["deploy"]["resources"]["limits"]["memory"] == "2g"


@pytest.mark.parametrize("file", FILES)
def test_what_is_kept_lies_in_named_volumes_one_for_each(file: str) -> None:
    document = read_compose(file)
    used = [
        volume.split(":")[0]
        for each in document["services"].values()
        for volume in each.get("volumes", [])
        if not volume.startswith("./")
    ]
    assert sorted(used) == sorted(document["volumes"])
    assert len(used) == len(set(used)) == len(PROXIES[file] + SERVERS[file])
    for name in PROXIES[file]:
        assert [each.partition(":")[2] for each in service(file, name)["volumes"]] == ["/data"]
    for name in SERVERS[file]:
        found = service(file, name)
        assert [each.partition(":")[2] for each in found["volumes"]] == ["/data/db"]
        # The image declares it a volume, and would get a new nameless one each time.
        assert any(each.startswith("/data/configdb:") for each in found["tmpfs"])


@pytest.mark.parametrize("file", FILES)
def test_mongodb_can_be_reached_by_the_proxies_only(file: str) -> None:
    document = read_compose(file)
    assert document["networks"]["store"] == {"internal": True}
    for name in SERVERS[file]:
        assert document["services"][name]["networks"] == ["store"]
    members = {name for name, each in document["services"].items() if "store" in each["networks"]}
    assert members - set(SERVERS[file]) == {*PROXIES[file]} | ({"replica-set"} & set(document["services"]))


@pytest.mark.parametrize("file", FILES)
def test_each_starts_when_what_it_needs_is_healthy(file: str) -> None:
    document = read_compose(file)
    for name, each in document["services"].items():
        for needed, how in each.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert _has_health_check(document["services"][needed]), (name, needed)
            else:
                assert (how["condition"], needed) == ("service_completed_successfully", "replica-set")
    order = {name: set(each.get("depends_on", {})) for name, each in document["services"].items()}
    if file == "docker-compose.yml":
        assert order == {"proxy": {"mongo"}, "mongo": set()}
    else:
        assert order["nginx"] == set(PROXIES[file])
        assert order["proxy-1"] == order["proxy-2"] == {"replica-set"}
        assert order["replica-set"] == set(SERVERS[file])


def _has_health_check(found: dict[str, Any]) -> bool:
    if found["image"] == "gemini-caching-proxy":
        return "healthcheck" not in found and read_stages(ROOT / "Dockerfile")[-1].last("HEALTHCHECK") is not None
    return bool(found["healthcheck"]["test"])


@pytest.mark.parametrize("file", FILES)
def test_the_proxies_take_their_environment(file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in PROXIES[file]:
        found = service(file, name, GEMINI_API_KEY="made-up-key")
        for variable in [each for each in os.environ if each.startswith("GEMINI_")]:
            monkeypatch.delenv(variable)
        monkeypatch.chdir(tmp_path)
        for variable, value in found["environment"].items():
            if variable != "GEMINI_PROXY_STORE":
                monkeypatch.setenv(variable, value)
        settings = Settings()
        assert (settings.host, settings.port, settings.allow_remote) == ("0.0.0.0", 8000, True)
        assert settings.data_dir == Path("/data")
        assert settings.gemini_api_key is not None
        assert settings.gemini_api_key.get_secret_value() == "made-up-key"
        assert found["env_file"] == [{"path": ".env", "required": False}]
        monkeypatch.setenv("GEMINI_API_KEY", service(file, name)["environment"]["GEMINI_API_KEY"])
        assert Settings().gemini_api_key is None


def test_a_password_turns_passwords_on() -> None:
    file = "docker-compose.yml"
    store = service(file, "proxy")["environment"]["GEMINI_PROXY_STORE"]
    assert store == "mongodb://mongo:27017/gemini_proxy"
    assert set(service(file, "mongo")["environment"].values()) == {""}
    store = service(file, "proxy", MONGO_PASSWORD="made-up")["environment"]["GEMINI_PROXY_STORE"]
    assert store == "mongodb://root:made-up@mongo:27017/gemini_proxy?authSource=admin"
    assert service(file, "mongo", MONGO_PASSWORD="made-up")["environment"] == {
        "MONGO_INITDB_ROOT_USERNAME": "root",
        "MONGO_INITDB_ROOT_PASSWORD": "made-up",
    }


def test_the_replica_set_is_the_one_that_the_proxies_ask_for() -> None:
    file = "docker-compose.replicas.yml"
    name, *members = service(file, "replica-set")["command"]
    hosts = [f"{each}:27017" for each in SERVERS[file]]
    assert members == hosts
    for proxy in PROXIES[file]:
        store = service(file, proxy)["environment"]["GEMINI_PROXY_STORE"]
        assert store == f"mongodb://{','.join(hosts)}/gemini_proxy?replicaSet={name}"
    for server in SERVERS[file]:
        assert service(file, server)["command"][:2] == ["--replSet", name]


@pytest.mark.parametrize("file", FILES)
def test_no_secret_has_a_default(file: str) -> None:
    for found in re.finditer(r"\$\{(\w*(?:KEY|PASSWORD|SECRET)\w*):-([^}]*)\}", (ROOT / file).read_text()):
        assert found[2] == "", found[0]


def test_every_variable_and_file_is_in_the_documents() -> None:
    page = (ROOT / "docs" / "docker.md").read_text()
    for file in FILES:
        for name in re.findall(r"\$\{(\w+)", (ROOT / file).read_text()):
            assert f"`{name}=" in page, name
    parts = [f"docker/{each.name}" for each in (ROOT / "docker").iterdir() if each.is_file()]
    for file in (*FILES, "Dockerfile", ".dockerignore", *parts):
        assert f"| `{file}` |" in page, file


def test_variables_are_put_in_as_compose_does() -> None:
    assert interpolated("a ${B:-c} ${D:+e${D}}${F}", {"D": "d"}) == "a c ed"
    assert interpolated("${B:-${C:-d}}${B:+x}", {"C": "c"}) == "c"
    for wrong in ("$NAME", "${NAME?words}", "${NAME"):
        with pytest.raises(ValueError):
            interpolated(wrong, {})
