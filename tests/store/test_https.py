"""Files of a web server, which can answer anything."""

import datetime
import hashlib
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest

from compressctl.core.errors import MachineError, UsageError
from compressctl.store.address import parse
from compressctl.store.downloads import fetch

CONTENT = b"numbers of a model" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/status/"):
            self.send_error(int(self.path.removeprefix("/status/")))
            return
        if self.path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1/a.onnx")
            self.end_headers()
            return
        self.send_response(200)
        if self.path == "/short":
            self.send_header("Content-Length", str(len(CONTENT) + 1))
        self.end_headers()
        with suppress(OSError):  # the reader has had enough
            self.wfile.write(CONTENT)
            while self.path == "/endless":
                self.wfile.write(CONTENT)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a server at 127.0.0.1, signed by itself, with its key."""
    pytest.importorskip("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path_factory.mktemp("certificate") / "both.pem"
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def host(certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("COMPRESSCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_file_is_brought_and_verified(host: str) -> None:
    assert fetch(parse(f"{host}/a.onnx?download=true"), DIGEST).path.read_bytes() == CONTENT
    assert fetch(parse("https://nowhere.invalid/a.onnx"), DIGEST).path.read_bytes() == CONTENT


def test_another_file_is_refused(host: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is another file"):
        fetch(parse(f"{host}/a.onnx"), "ab" * 32)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("path", "kind", "says"),
    [
        ("/status/404", UsageError, "does not exist"),
        ("/status/403", UsageError, "nobody lets us in"),
        ("/status/503", MachineError, "cannot be reached"),
        ("/short", MachineError, "bytes came"),
        ("/elsewhere", UsageError, "nothing but https is followed"),
    ],
)
def test_other_answers_say_whether_trying_again_helps(path: str, kind: type[Exception], says: str, host: str) -> None:
    with pytest.raises(kind, match=says):
        fetch(parse(f"{host}{path}"), DIGEST)


def test_a_body_without_an_end_is_read_to_the_limit(host: str) -> None:
    with pytest.raises(UsageError, match="too much"):
        fetch(parse(f"{host}/endless"), DIGEST, most_bytes=10 << 20)


def test_a_certificate_of_nobody_is_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(UsageError, match="certificate verify failed"):
        fetch(parse(f"{host}/a.onnx"), DIGEST)
