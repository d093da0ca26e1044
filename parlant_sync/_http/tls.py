"""The TLS contexts of a client: one for its server, one for an ``https://`` proxy."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Any

import requests
from urllib3.util import create_urllib3_context, ssl_

from parlant_sync.errors import ConfigurationError

if TYPE_CHECKING:
    from parlant_sync._settings import Settings


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """The one context of all connections (each one more costs 28 ms and 670 KiB); None if a caller's sessions have it.

    Raises ConfigurationError if ``verify`` or ``cert`` cannot be loaded.
    """
    if not settings.base_url.startswith("https:") or settings.session_factory is not None or ssl_.IS_PYOPENSSL:
        return None
    context = _trusting_context(settings.verify)
    if settings.cert is not None:
        chain = (settings.cert,) if isinstance(settings.cert, str) else settings.cert
        try:
            context.load_cert_chain(*chain)
        except OSError as error:
            raise ConfigurationError(f"cert={settings.cert!r} cannot be loaded: {error}") from None
    return context


def proxy_context(settings: Settings, proxy: str | None, server: ssl.SSLContext | None) -> ssl.SSLContext | None:
    """For the handshake with an ``https://`` proxy. The client certificate is for the server, not for the proxy."""
    if settings.session_factory is not None or not (proxy or "").lower().startswith("https:") or ssl_.IS_PYOPENSSL:
        return None
    return server if server is not None and settings.cert is None else _trusting_context(settings.verify)


def arguments(settings: Settings) -> dict[str, Any]:
    """``verify`` and ``cert`` for ``requests``. Our own sessions have both in their context.

    pyOpenSSL forbids changes of a context that is in use, and urllib3 makes some for each connection. If it was
    injected into urllib3, each connection has its own context.
    """
    if settings.session_factory is None:
        if ssl_.IS_PYOPENSSL:
            return {"verify": settings.verify is not False and _bundle(settings.verify), "cert": settings.cert}
        return {"verify": settings.verify is not False}
    found: dict[str, Any] = {}
    if settings.verify is not True:
        found["verify"] = settings.verify
    if settings.cert is not None:
        found["cert"] = settings.cert
    return found


def _bundle(verify: bool | str) -> str:
    """The path of the authorities to trust."""
    given = verify if isinstance(verify, str) else ""
    given = given or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or ""
    return given or str(requests.utils.DEFAULT_CA_BUNDLE_PATH)


def _trusting_context(verify: bool | str) -> ssl.SSLContext:
    context = create_urllib3_context()
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    context.verify_mode = ssl.CERT_REQUIRED
    place = _bundle(verify)
    try:
        if os.path.isdir(place):
            context.load_verify_locations(capath=place)
        else:
            context.load_verify_locations(cafile=place)
    except OSError as error:
        raise ConfigurationError(f"verify={place!r} is not a usable bundle of certificates: {error}") from None
    return context
