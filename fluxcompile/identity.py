"""Who a server is and who may come: a certificate it signed itself and a secret, told to cameras in one token.

A token off the machine is SECRET.FINGERPRINT: the camera knows the server by its certificate, whoever else answers at
that address, and the server knows the camera by the secret.
"""

import datetime
import ipaddress
import os
import secrets
import ssl
from dataclasses import dataclass
from pathlib import Path

from fluxcompile.errors import OptionError
from fluxcompile.runtime.channel import Connect, fingerprint, tcp

LASTS = datetime.timedelta(days=3650)
FINGERPRINT_LENGTH = 64


@dataclass(frozen=True)
class Identity:
    """The secret, and the folder that holds the certificate and its key."""

    secret: str
    folder: Path

    def token(self, encrypted: bool) -> str:
        """What a camera is given."""
        if not encrypted:
            return self.secret
        der = ssl.PEM_cert_to_DER_cert((self.folder / "certificate.pem").read_text())
        return f"{self.secret}.{fingerprint(der)}"

    def context(self) -> ssl.SSLContext:
        """Of the server's side."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.folder / "certificate.pem", self.folder / "key.pem")
        return context


def identity(folder: Path) -> Identity:
    """The one that a folder holds; made, and readable by its owner alone, where there is none."""
    secret = folder / "secret"
    if not secret.exists():
        folder.mkdir(parents=True, exist_ok=True)
        certificate, key = _certificate()
        for name, data in (
            ("key.pem", key),
            ("certificate.pem", certificate),
            ("secret", secrets.token_urlsafe(24).encode()),
        ):
            _write_private(folder / name, data)
    return Identity(secret.read_text().strip(), folder)


def is_loopback(host: str) -> bool:
    """Whether an address never leaves the machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_server(server: str) -> tuple[str, int]:
    """Host and port of HOST:PORT, [v6]:PORT."""
    host, _, port = server.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise OptionError(f"server is {server!r}; write HOST:PORT, as 192.168.1.20:7080")
    return host.strip("[]"), int(port)


def reached(server: str, token: str) -> tuple[Connect, str]:
    """How to connect to a server with its token, and the secret; over TLS unless both are on this machine."""
    host, port = parse_server(server)
    secret, dot, pinned = token.partition(".")
    if dot and len(pinned) != FINGERPRINT_LENGTH:
        raise OptionError(
            "this token is cut off: its part behind the dot is the fingerprint of the server's certificate"
        )
    if not dot and not is_loopback(host):
        raise OptionError(
            f"{server} is not this machine and this token has no fingerprint: the connection would be in the clear; "
            "take the token that `fluxcompile serve` prints there"
        )
    return tcp(host, port, pinned or None), secret


def _write_private(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)


def _certificate() -> tuple[bytes, bytes]:
    """A certificate that signs itself, and its key, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fluxcompile server")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + LASTS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private
