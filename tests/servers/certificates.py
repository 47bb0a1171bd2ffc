"""A certificate authority of the tests' own, and a certificate of the loopback signed by it."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = "127.0.0.1"
VALID = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Certificates:
    """PEM files: ``authority`` is what clients trust, ``server`` has the key and certificate."""

    authority: Path
    server: Path


def make_certificates(folder: Path) -> Certificates:
    """Write both files; nobody else has the authority's key, which is not kept."""
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _signed("BatchWeave tests", authority_key, authority_key, None)
    key = ec.generate_private_key(ec.SECP256R1())
    server = _signed(HOST, key, authority_key, authority)
    written = Certificates(folder / "authority.pem", folder / "server.pem")
    written.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    written.server.write_bytes(private + server.public_bytes(serialization.Encoding.PEM))
    return written


def _signed(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - VALID)
        .not_valid_after(now + VALID)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if issuer is not None:
        address = x509.IPAddress(ipaddress.ip_address(HOST))
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    return builder.sign(signer, hashes.SHA256())
