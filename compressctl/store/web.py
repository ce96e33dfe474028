"""Files of web servers, read from one answer. Standard library alone."""

from __future__ import annotations

import http.client
from typing import IO, Any
from urllib.request import HTTPRedirectHandler, Request, build_opener

import compressctl
from compressctl.core.errors import UsageError

_SECONDS = 60
"""Without a byte."""


class _HttpsAlone(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> Request | None:
        if not newurl.startswith("https://"):
            raise UsageError(f"{req.full_url} leads to {newurl[:200]}", hint="nothing but https is followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def open_https(url: str) -> tuple[Any, int | None]:
    """The answer's stream, and how many bytes it should have. Proxies and certificates are those of the environment.

    Raises what urllib does, and UsageError for redirections elsewhere.
    """
    answer = build_opener(_HttpsAlone).open(
        Request(url, headers={"User-Agent": f"compressctl/{compressctl.__version__}"}), timeout=_SECONDS
    )
    length = answer.headers.get("Content-Length", "")
    return answer, int(length) if length.isascii() and length.isdecimal() and len(length) < 20 else None
