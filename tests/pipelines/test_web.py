"""The guards of the one way to the web: names that lie, addresses in disguise, certificates, hosts that tire."""

import ipaddress
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from pipelines import hosts as limits
from pipelines.hosts import Host, Hosts, NotNow
from pipelines.retry import retry_at
from pipelines.web import Failed, Web, host_of, may_be_asked
from schemas.errors import JuZhouError
from schemas.recipe import Fetch
from tests.pipelines import faults
from tests.pipelines.faults import dns_answers

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
CONTACT = "Tester/1 (+https://tester.example)"


def settings(**given: Any) -> Fetch:
    quick = {"user_agent": CONTACT, "timeout_s": 0.5, "transfer_s": 1.0, "requests_per_second": None}
    return Fetch.model_validate(quick | given)


@pytest.fixture
def web() -> Iterator[faults.Web]:
    with faults.serve() as served:
        yield served


def test_a_name_that_answers_with_loopback(web: faults.Web) -> None:
    with dns_answers({"sly.example": "127.0.0.1"}), pytest.raises(Failed) as caught:
        Web(settings()).get(f"http://sly.example:{web.port}/picture.jpg")
    assert caught.value.status == "disallowed"
    assert caught.value.error == "sly.example is 127.0.0.1, which is no public address; see fetch.networks"
    assert not web.log.connections


def test_a_name_that_answers_otherwise_when_asked_again(web: faults.Web) -> None:
    """What was checked is what is connected to: a second answer is never asked for."""
    with dns_answers({"rebind.example": ("192.0.2.1", "127.0.0.1")}) as names, pytest.raises(Failed) as caught:
        allowed = settings(networks=["192.0.2.0/24"], timeout_s=0.2)
        Web(allowed).get(f"http://rebind.example:{web.port}/picture.jpg")
    assert caught.value.status == "transient"
    assert names == ["rebind.example"]
    assert not web.log.connections


def test_of_several_addresses_those_that_may_be_asked_are(web: faults.Web) -> None:
    url = f"http://both.example:{web.port}/picture.jpg"
    names = dns_answers({"both.example": "10.0.0.1 127.0.0.1"})
    with names, Web(settings(networks=LOOPBACK)).get(url) as answer:
        assert answer.read() == faults.picture("picture")


def test_a_redirect_to_a_name_that_is_this_machine(web: faults.Web) -> None:
    """The guard of the connection holds for each hop, whatever host the chain began at."""
    free = settings(networks=["127.0.0.1/32"], connections_per_host=None)
    with pytest.raises(Failed) as caught:
        Web(free).get(f"{web.site()}/redirect-metadata.jpg")
    assert caught.value.status == "disallowed" and "169.254.169.254" in caught.value.error


def test_a_name_that_nobody_knows() -> None:
    with dns_answers({}), pytest.raises(Failed) as caught:
        Web(settings()).get("http://nowhere.example/a.jpg")
    assert caught.value.status == "transient" and caught.value.error.startswith("the name is not known")


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1"),
        *("224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::7f00:1"),
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not may_be_asked(address, ())


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_addresses_that_are(address: str) -> None:
    assert may_be_asked(address, ())


def test_networks_of_the_recipe_may_be_asked() -> None:
    assert may_be_asked("127.0.0.9", LOOPBACK) and may_be_asked("::ffff:127.0.0.9", LOOPBACK)
    assert not may_be_asked("10.0.0.1", LOOPBACK)


@given(st.text() | st.from_regex(r"https?://[^\s]*", fullmatch=True))
def test_whatever_is_given_for_a_url_fails_in_one_line(url: str) -> None:
    with dns_answers({}), pytest.raises(Failed) as caught:
        Web(settings()).get(url)
    assert caught.value.error and "\n" not in caught.value.error


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://a.example", "a.example"),
        ("https://A.Example:8443/x?y", "a.example"),
        ("http://user:secret@a.example/", "a.example"),
        ("http://a.example?q", "a.example"),
        ("http://[::1]:80/", "[::1]"),
    ],
)
def test_hosts_are_told_apart_by_name(url: str, host: str) -> None:
    assert host_of(url) == host


def test_a_contact_is_wanted_beyond_this_machine_alone() -> None:
    nameless = Web(settings(user_agent="Tester/1"))
    nameless.introduce(["http://127.0.0.1/a", "http://localhost/", "http://[::1]/", "no url"])
    with pytest.raises(JuZhouError, match="needs a contact"):
        nameless.introduce(["http://10.0.0.1/"])
    Web(settings()).introduce(["http://a.example/"])


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A site over TLS, and the file of its certificate, which it signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = tmp_path_factory.mktemp("tls") / "site.pem"
    path.write_bytes(secret + signed.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404 if self.path == "/robots.txt" else 200)
            self.end_headers()
            self.wfile.write(b"safe")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}/a", path
        server.shutdown()
        thread.join()


def test_a_certificate_that_nobody_signed_is_not_trusted(secure: tuple[str, Path]) -> None:
    with pytest.raises(Failed, match="CERTIFICATE_VERIFY_FAILED") as caught:
        Web(settings(networks=LOOPBACK)).get(secure[0])
    assert caught.value.status == "transient"


def test_a_site_over_tls(secure: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    url, certificate = secure
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with Web(settings(networks=LOOPBACK)).get(url) as answer:
        assert answer.read() == b"safe"


def test_a_user_agent_cannot_smuggle_a_header() -> None:
    with pytest.raises(ValueError, match="user_agent"):
        settings(user_agent="Tester/1\r\nX: y")


def test_turns_keep_their_distance() -> None:
    host = Host(interval_s=0.05, connections=None)
    times = []
    for _ in range(5):
        host.wait_turn()
        times.append(time.monotonic())
    assert min(later - earlier for earlier, later in pairwise(times)) > 0.05


def test_a_host_that_is_busy_is_asked_half_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(limits.time, "sleep", slept.append)
    host = Host(interval_s=1.0, connections=None)
    host.wait_turn()
    host.busy(None)
    host.wait_turn()
    host.wait_turn()
    assert 0.9 < slept[0] < 1.1 and 1.9 < slept[1] < 3.2


def test_a_host_that_wants_to_be_left_alone_is() -> None:
    host = Host(interval_s=0.0, connections=1)
    host.busy(3600.0)
    with pytest.raises(NotNow, match="asked us to wait") as caught, host.connection():
        pass
    assert 3590 < caught.value.wait_s <= 3600


def test_a_host_that_is_down_is_not_tried_over_and_over(web: faults.Web) -> None:
    connections_refused = "http://127.0.0.1:9/robots.txt"
    free = Web(settings(networks=LOOPBACK))
    host = free._hosts["127.0.0.1"]
    for _ in range(limits.DOWN_AFTER):
        with pytest.raises(OSError):
            free._connected(connections_refused, host)
    with pytest.raises(Failed, match="does not answer") as caught:
        free.get(f"{web.site()}/picture.jpg")
    assert not caught.value.asked and caught.value.retry_after_s
    assert not web.log.requests


def test_a_pause_that_no_request_can_wait_for() -> None:
    host = Host(interval_s=0.0, connections=None)
    host.slow_down(600.0)
    host.wait_turn()
    with pytest.raises(NotNow, match="between requests"):
        host.wait_turn()


def test_hosts_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REMEMBERED", 2)
    hosts = Hosts(1.0, 1)
    first = hosts["a"]
    assert hosts["a"] is first
    hosts["b"], hosts["c"]
    assert hosts["a"] is not first


@given(st.integers(0, 100), st.floats(0.1, 1000), st.none() | st.floats(0, 1e6))
def test_back_off_doubles_within_bounds(tries: int, first_s: float, retry_after_s: float | None) -> None:
    wait = retry_at(tries, first_s, retry_after_s) - datetime.now(UTC)
    backoff = min(first_s * 2.0 ** max(tries - 1, 0), 24 * 3600) if tries else 0.0
    slack = timedelta(seconds=0.5)
    assert wait >= timedelta(seconds=max(0.75 * backoff, retry_after_s or 0)) - slack
    assert wait <= timedelta(seconds=max(1.25 * backoff, retry_after_s or 0)) + slack
