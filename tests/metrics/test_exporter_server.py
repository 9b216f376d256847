"""The exporter as a server: pages, limits, addresses, tokens, its end."""

import signal
import socket
import urllib.error
from contextlib import ExitStack
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from metrics.exporter import (
    DEFAULT_SCRAPE_TIMEOUT_S,
    MAX_SCRAPE_TIMEOUT_S,
    TIMEOUT_MARGIN_S,
    collection_limit_s,
)
from metrics.metrics_http import MAX_CONNECTIONS, RegistryServer, listen_address
from tests.metrics.conftest import DEADLINE_S, until


def test_pages(make_driver: Any, serve: Any) -> None:
    served = serve("--node", "n1", driver=make_driver("count 1"))
    assert "NVML" in served.get("/")
    with pytest.raises(urllib.error.HTTPError) as refused:
        served.get("/nothing")
    with refused.value as answer:
        assert answer.code == 404
        assert b"/metrics" in answer.read()


def test_ends_on_sigterm(make_driver: Any, serve: Any) -> None:
    served = serve("--node", "n1", driver=make_driver("count 1"))
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(DEADLINE_S) == 0


def test_connections_are_limited(make_driver: Any, serve: Any) -> None:
    served = serve("--node", "n1", driver=make_driver("count 1"))
    host, _, port = served.url.removeprefix("http://").partition(":")
    with ExitStack() as silent:
        for _ in range(MAX_CONNECTIONS):
            silent.enter_context(socket.create_connection((host, int(port)), DEADLINE_S))
        with socket.create_connection((host, int(port)), DEADLINE_S) as one_more:
            assert one_more.recv(64).startswith(b"HTTP/1.0 503")

    def is_served() -> bool:
        try:
            return bool(served.get("/-/healthy") == "ok\n")
        except urllib.error.HTTPError as error:
            error.close()
        except OSError:
            pass  # turned away before the request was read
        return False

    until(is_served)


@pytest.mark.parametrize(
    ("header", "limit_s"),
    [
        (None, DEFAULT_SCRAPE_TIMEOUT_S - TIMEOUT_MARGIN_S),
        ("3", 2.5),
        ("0.6", 0.3),
        (str(MAX_SCRAPE_TIMEOUT_S), MAX_SCRAPE_TIMEOUT_S - TIMEOUT_MARGIN_S),
        (str(MAX_SCRAPE_TIMEOUT_S + 1), MAX_SCRAPE_TIMEOUT_S - TIMEOUT_MARGIN_S),
        ("-1", 9.5),
        ("0", 9.5),
        ("nan", 9.5),
        ("inf", 9.5),
        ("soon", 9.5),
    ],
)
def test_scrape_timeout_header(header: str | None, limit_s: float) -> None:
    assert collection_limit_s(header) == pytest.approx(limit_s)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "127.0.0.7:65535"])
def test_loopback_is_accepted(listen: str) -> None:
    host, port = listen_address(listen, None, "X")
    assert f"{host}:{port}" == listen


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:9", "10.0.0.1:9", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1", "x:1"]
)
def test_other_addresses_are_refused(listen: str, no_driver: Any, once: Any) -> None:
    with pytest.raises(ValueError, match="cannot listen on"):
        listen_address(listen, None, "X")
    run = once("--listen", listen, driver=no_driver)
    assert run.returncode == 2
    assert "cannot listen on" in run.stderr


@pytest.mark.parametrize(("token", "given"), [(None, ""), ("t", "t")])
def test_a_process_serves_what_it_measures_of_itself(token: str | None, given: str) -> None:
    registry = CollectorRegistry()
    Counter("turns", "Turns.", registry=registry).inc(3)
    page = RegistryServer(listen_address("127.0.0.1:0", token, "X"), registry, token)
    page.start()
    request = urllib.request.Request(
        f"http://127.0.0.1:{page.server_port}/metrics", headers={"Authorization": f"Bearer {given}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 (as above)
            assert "turns_total 3.0" in answer.read().decode()
        if token is not None:
            request.remove_header("Authorization")
            with pytest.raises(urllib.error.HTTPError, match="401") as refused:
                urllib.request.urlopen(request, timeout=20)  # noqa: S310 (as above)
            refused.value.close()
    finally:
        page.stop()


def test_an_open_address_is_served_with_a_token_only() -> None:
    anywhere = "0.0.0.0"  # noqa: S104 (that is what is tested)
    assert listen_address(f"{anywhere}:9401", "t", "X") == (anywhere, 9401)
    with pytest.raises(ValueError, match="set KEZEK_METRICS_TOKEN_FILE"):
        listen_address(f"{anywhere}:9401", None, "KEZEK_METRICS_TOKEN_FILE")
