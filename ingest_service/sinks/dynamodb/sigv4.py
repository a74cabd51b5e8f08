"""AWS Signature Version 4 for one kind of request: a POST to `/` with a body and no query.

Format: docs.aws.amazon.com, "Create a signed AWS API request". botocore's signer handles every kind and costs several
times as much; a test holds this one to it.
"""

import hashlib
import hmac
from datetime import datetime

_ALGORITHM = "AWS4-HMAC-SHA256"


class Signer:
    """Signs requests of one service, region and host. What those of one second have in common is made once."""

    def __init__(self, service: str, region: str, host: str) -> None:
        self._service = service
        self._region = region
        self._host = host
        self._made_for: tuple[str, str, str, str | None, int] | None = None
        self._key_for: tuple[str, str] = ("", "")
        self._key = b""

    def headers(
        self, target: str, body: bytes, access_key: str, secret_key: str, token: str | None, now: datetime
    ) -> dict[str, str]:
        """The headers that make a request with `X-Amz-Target: target` valid; `now` is UTC."""
        made_for = (target, access_key, secret_key, token, int(now.timestamp()))
        if self._made_for != made_for:
            self._begin(target, access_key, secret_key, token, now)
            self._made_for = made_for
        request = f"{self._request}{hashlib.sha256(body).hexdigest()}"
        text = f"{self._text}{hashlib.sha256(request.encode()).hexdigest()}"
        signature = hmac.digest(self._key, text.encode(), "sha256").hex()
        return {**self._headers, "authorization": f"{self._authorization}{signature}"}

    def _begin(self, target: str, access_key: str, secret_key: str, token: str | None, now: datetime) -> None:
        at = now.strftime("%Y%m%dT%H%M%SZ")
        day = at[:8]
        headers = {"content-type": "application/x-amz-json-1.0", "host": self._host, "x-amz-date": at}
        if token:
            headers["x-amz-security-token"] = token
        headers["x-amz-target"] = target
        names = ";".join(headers)  # inserted in alphabetical order, as the algorithm wants them
        lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
        scope = f"{day}/{self._region}/{self._service}/aws4_request"
        self._headers = headers
        self._request = f"POST\n/\n\n{lines}\n{names}\n"
        self._text = f"{_ALGORITHM}\n{at}\n{scope}\n"
        self._authorization = f"{_ALGORITHM} Credential={access_key}/{scope}, SignedHeaders={names}, Signature="
        self._renew_key(secret_key, day)

    def _renew_key(self, secret_key: str, day: str) -> None:
        if self._key_for != (secret_key, day):
            key = f"AWS4{secret_key}".encode()
            for part in (day, self._region, self._service, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key, self._key_for = key, (secret_key, day)
