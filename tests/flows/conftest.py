"""The whole system as real processes on a database, Redis keys and topic of its own."""

from collections.abc import Iterator

import pytest

from tests.conftest import cloned_database
from tests.system import System, wait_for

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def system(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A running system with users; empty otherwise."""
    with cloned_database() as database:
        running = System(database, tmp_path_factory.mktemp("system"))
        running.manage("demo", "--password", PASSWORD, "--rows", "200")
        running.start()
        try:
            wait_for(running.ready, "the web server")
            running.wait_caught_up()
            yield running
        finally:
            running.stop()
