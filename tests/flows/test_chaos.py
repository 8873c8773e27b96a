"""A short run of the chaos suite: real servers of its own, a few faults, every promise checked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAULTS = (
    "killed after producing, before it is noted",
    "killed after a commit, before the answer",
    "kill -9 of PostgreSQL",
    "FLUSHALL",
    "back to the older release and forward again",
)


@pytest.mark.timeout(400)
@pytest.mark.skipif(
    not os.environ.get("KAFKA_BOOTSTRAP_SERVERS"),
    reason="no Kafka broker: Java or Maven is missing",
)
def test_faults_lose_nothing_and_heal() -> None:
    given = ("DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL", "KAFKA_BOOTSTRAP_SERVERS")
    env = {name: value for name, value in os.environ.items() if name not in given}
    chosen = [word for fault in FAULTS for word in ("--only", fault)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--seed", "5", *chosen],
        cwd=ROOT, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert sorted(row["fault"] for row in rows) == sorted(FAULTS)
    assert [(row["lost"], row["new_doubled"]) for row in rows] == [(0, 0)] * len(FAULTS)
    assert all(row["commands"] > 0 for row in rows)
