"""What deploy/ says against what there is: every setting is real, every process is one that runs."""

import re
from pathlib import Path
from typing import Any

import yaml

from tests import system

local = system.local  # type: ignore[attr-defined]  # bin/local.py, found by tests.system

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = (ROOT / "config" / "settings.py").read_text()
ELSEWHERE = ("audit", "ledger", "projections", "config", "bin")


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    return found


def known() -> set[str]:
    """Every name that the code reads from its environment."""
    code = "".join(
        path.read_text() for folder in ELSEWHERE for path in (ROOT / folder).rglob("*.py")
    )
    return set(re.findall(r'"([A-Z][A-Z_]+)"', code))


def test_compose_sets_only_what_the_code_reads() -> None:
    ours = ("web", "worker", "beat", "projector", "migrate")
    given = {name for item in ours for name in compose()["services"][item]["environment"]}
    assert {"SECRET_KEY", "DATABASE_URL", "REDIS_URL"} <= given
    assert given <= known()


def test_compose_runs_the_processes_of_bin_up() -> None:
    services = compose()["services"]
    for name, command in local.processes(8000, "python").items():
        if name == "web":
            continue  # the image's own command, below
        wanted = [part for part in services[name]["command"] if not part.startswith(("-", "/"))]
        plain = [part.rpartition("/")[2] for part in command]
        assert set(wanted) - {"python", "celery"} <= set(plain), name
    image = (ROOT / "deploy" / "Dockerfile").read_text()
    asked = set(re.findall(r'"(--[a-z-]+)"', image.split("CMD")[1]))
    assert asked - {"--host", "--port"} <= set(local.processes(8000, "python")["web"])


def test_the_image_holds_every_package() -> None:
    image = (ROOT / "deploy" / "Dockerfile").read_text()
    copied = set(re.findall(r"^COPY (\S+)", image, re.MULTILINE))
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "bench"}
    assert packages | {"templates", "requirements.txt", "manage.py"} <= copied


def test_every_setting_is_in_the_list_and_the_list_names_no_other() -> None:
    listed = set(re.findall(r"`([A-Z][A-Z_]+)`", (ROOT / "deploy" / "README.md").read_text()))
    read = set(re.findall(r'env\.\w+\(\s*"([A-Z_]+)"', SETTINGS))
    internal = {"DEBUG", "LEDGER_PLAIN_STATIC", "CELERY_QUEUE"}
    assert read - internal - listed == set()
    assert listed - known() == {"PROMETHEUS_MULTIPROC_DIR"} - known()
