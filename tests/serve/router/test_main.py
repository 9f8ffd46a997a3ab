"""Command-line options that controller and worker share."""

import pytest

from mgm.errors import MGMError
from mgm.serve.http.server import accepted_keys, worker_key
from mgm.serve.router import main as router_main
from mgm.serve.worker import main as worker_main


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch):
    for name in ("MGM_WORKER_KEY", "MGM_API_KEYS"):
        monkeypatch.delenv(name, raising=False)


def test_worker_key_as_a_flag_or_variable(monkeypatch):
    assert worker_key(router_main.parse_controller_options([])) is None
    assert worker_key(router_main.parse_controller_options(["--worker-key", "w"])) == "w"
    monkeypatch.setenv("MGM_WORKER_KEY", "v")
    assert worker_key(router_main.parse_controller_options([])) == "v"
    assert worker_key(router_main.parse_controller_options(["--worker-key", "w"])) == "w"


@pytest.mark.parametrize("key", ["", " ", "a b", "\u00e4", "a\n"])
def test_invalid_keys(key, monkeypatch):
    with pytest.raises(MGMError, match="--worker-key"):
        worker_key(router_main.parse_controller_options(["--worker-key", key]))
    monkeypatch.setenv("MGM_WORKER_KEY", key)
    with pytest.raises(MGMError, match="MGM_WORKER_KEY"):
        worker_key(router_main.parse_controller_options([]))


def test_client_and_worker_keys_must_differ():
    options = router_main.parse_controller_options(
        ["--worker-key", "k", "--api-key", "a", "--api-key", "k"]
    )
    with pytest.raises(MGMError, match="API key, too"):
        worker_key(options)


def test_valid_keys():
    assert accepted_keys([], None) == []
    assert accepted_keys([], "w") == []  # open to clients
    assert accepted_keys(["c"], None) == ["c"]
    assert accepted_keys(["c"], "w") == ["c", "w"]


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e9"])
def test_time_options(seconds):
    with pytest.raises(MGMError, match="--heartbeat-timeout"):
        router_main.parse_controller_options(["--heartbeat-timeout", seconds])
    with pytest.raises(MGMError, match="--heartbeat-interval"):
        worker_main.parse_worker_options(["--model-path", "x", "--heartbeat-interval", seconds])


@pytest.mark.parametrize("flag", ["--worker", "--controller"])
def test_addresses_are_checked_before_loading(flag):
    with pytest.raises(MGMError, match="give http://HOST:PORT"):
        worker_main.parse_worker_options(["--model-path", "x", flag, "localhost:1"])
