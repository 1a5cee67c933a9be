"""The processes are started once for all tests that need them."""

from collections.abc import Iterator

import pytest

from tests.fisher.processes import Processes


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    running = Processes(tmp_path_factory.mktemp("processes"))
    yield running
    running.stop()
