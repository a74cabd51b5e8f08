"""Our signature is botocore's."""

import datetime
import random
from typing import Any

import botocore.auth
import botocore.compat
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from ingest_service.sinks.dynamodb.sigv4 import Signer

REGIONS = ("us-east-1", "eu-west-1", "ap-southeast-2", "us-gov-west-1", "cn-north-1", "local")
HOSTS = (
    "dynamodb.{}.amazonaws.com",
    "localhost:8000",
    "127.0.0.1:443",
    "[::1]:8000",
    "vpce-1a2b.dynamodb.{}.vpce.amazonaws.com",
)
TARGETS = ("BatchWriteItem", "PutItem", "DescribeTable")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/+="


def test_signatures_equal_botocores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand random requests are signed to the byte as botocore does, whatever went before in the same signer."""
    rng = random.Random(4)
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *_, **__: now.replace(tzinfo=None))

    def text(low: int, high: int) -> str:
        return "".join(rng.choices(LETTERS, k=rng.randint(low, high)))

    signers: dict[tuple[str, str], Signer] = {}
    secrets = [text(20, 60) for _ in range(5)]
    for _ in range(10_000):
        now += datetime.timedelta(seconds=rng.choice((0, 0, 1, 4_000)))
        region = rng.choice(REGIONS)
        host = rng.choice(HOSTS).format(region)
        scheme = "http" if ":" in host and not host.endswith(":443") else "https"
        target = f"DynamoDB_20120810.{rng.choice(TARGETS)}"
        body = rng.randbytes(rng.choice((0, 1, 100, 5_000)))
        access_key, secret = text(16, 20), rng.choice(secrets)
        token = text(100, 900) if rng.random() < 0.5 else None
        signer = signers.setdefault((region, host), Signer("dynamodb", region, host))
        ours = signer.headers(target, body, access_key, secret, token, now)

        headers: dict[str, Any] = {"Content-Type": "application/x-amz-json-1.0", "Host": host, "X-Amz-Target": target}
        request = AWSRequest("POST", f"{scheme}://{host}/", headers, data=body)
        SigV4Auth(Credentials(access_key, secret, token), "dynamodb", region).add_auth(request)
        assert ours == {name.lower(): value for name, value in request.headers.items()}
