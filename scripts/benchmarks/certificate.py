"""A self-signed certificate for 127.0.0.1, made by the openssl program at run time."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def make(folder: Path) -> tuple[Path, Path] | None:
    """The certificate and its key; None where this machine has no openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        return None
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    done = subprocess.run(command, capture_output=True, check=False)
    return (certificate, key) if done.returncode == 0 else None
