"""A certificate authority of our own, made by ``openssl`` at test time."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Authority:
    """``bundle`` is what a client trusts; ``context()`` what a server shows."""

    home: Path

    @property
    def bundle(self) -> str:
        return str(self.home / "ca.pem")

    def context(self, name: str = "127.0.0.1") -> ssl.SSLContext:
        key, certificate = self.certificate(name)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        return context

    def certificate(self, name: str) -> tuple[Path, Path]:
        stem = self.home / name.replace("*", "_")
        key, request, certificate = (stem.with_suffix(f".{kind}") for kind in ("key", "csr", "crt"))
        if not certificate.exists():
            kind = "IP" if name.replace(".", "").isdigit() else "DNS"
            extensions = stem.with_suffix(".ext")
            extensions.write_text(f"subjectAltName={kind}:{name}\n")
            openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", f"/CN={name}")
            openssl(
                *("x509", "-req", "-in", request, "-CA", self.bundle, "-CAkey", self.home / "ca.key"),
                *("-CAcreateserial", "-days", "2", "-extfile", extensions, "-out", certificate),
            )
        return key, certificate


def authority(home: Path) -> Authority:
    openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", home / "ca.key", "-out", home / "ca.pem"),
        *("-days", "2", "-subj", "/CN=Test Authority"),
        *("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
    )
    return Authority(home)


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)
