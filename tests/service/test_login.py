"""Who may come in."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.sse import KEEPALIVE_COMMENT

from ingest_service.service.http.events import _events
from ingest_service.service.http.login import COOKIE, Login, is_foreign, is_local_name, is_loopback
from ingest_service.service.http.problems import Problem
from ingest_service.service.live import Live
from tests.service.conftest import Service

TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a token, from a file."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "token").write_text(f"{TOKEN}\n")
    found = Service(folder)
    yield found.start('[serve]\ntoken_file = "token"\n')
    found.close()


def test_nothing_but_the_page_and_its_health_is_there_without_a_token(guarded: Service) -> None:
    """Every path of the API's description wants one; what is open to all says nothing but whether it is well."""
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    described = json.loads(json.dumps(guarded.ask("GET", "/v1/openapi.json", **bearer).content))
    open_to_all = {"/healthz", "/readyz", "/v1/session"}
    for path, methods in described["paths"].items():
        for method in methods:
            concrete = path.replace("{number}", "1").replace("{stream}", "a")
            if path not in open_to_all:
                assert guarded.ask(method.upper(), concrete).status == 401, path
    for path in (*open_to_all, "/", "/static/index.html"):
        assert guarded.ask("GET", path).status == 200
    assert guarded.ask("GET", "/v1/openapi.json").status == 401
    assert guarded.ask("GET", "/v1/runs", **bearer).status == 200
    assert guarded.ask("GET", "/v1/runs", Host="any.example", **bearer).status == 200


@pytest.mark.parametrize(
    "header", ["Bearer wrong", "Bearer", "", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer é"]
)
def test_a_wrong_token_is_refused(guarded: Service, header: str) -> None:
    """401 as a problem, which says what to send."""
    answer = guarded.ask("GET", "/v1/runs", Authorization=header.encode("latin-1").decode("latin-1"))
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert TOKEN not in json.dumps(answer.content)


def test_the_page_logs_in_for_a_cookie(guarded: Service) -> None:
    """The cookie is no token, no script can read it, no other site sends it; it ends with the logout."""
    assert guarded.get("/v1/session") == {"login_needed": True, "logged_in": False}
    assert guarded.ask("POST", "/v1/session", {"token": "wrong"}).status == 401
    entered = guarded.ask("POST", "/v1/session", {"token": TOKEN})
    assert entered.status == 204
    cookie = entered.headers["set-cookie"]
    assert {"HttpOnly", "Path=/", "SameSite=strict"} <= set(cookie.split("; "))
    assert TOKEN not in cookie
    sent = {"Cookie": cookie.partition(";")[0]}
    assert guarded.ask("GET", "/v1/session", **sent).content["logged_in"] is True
    assert guarded.ask("GET", "/v1/runs", **sent).status == 200
    assert guarded.ask("GET", "/v1/runs", Cookie=f"{COOKIE}={TOKEN}").status == 401
    assert guarded.ask("DELETE", "/v1/session", **sent).status == 204
    assert guarded.ask("GET", "/v1/runs", **sent).status == 401


@pytest.mark.parametrize(
    ("headers", "is_refused"),
    [
        ({"Origin": "https://evil.example"}, True),
        ({"Origin": "null"}, True),
        ({"Sec_Fetch_Site": "cross-site"}, True),
        ({"Sec_Fetch_Site": "same-site"}, True),
        ({"Sec_Fetch_Site": "same-origin"}, False),
        ({}, False),
    ],
)
def test_other_sites_change_nothing(guarded: Service, headers: dict[str, str], is_refused: bool) -> None:
    """A request of another site's page is refused, with or without a login; one of our own, or of a tool, is not."""
    for path in ("/v1/runs/1/cancel", "/v1/session"):
        answer = guarded.ask("POST", path, {"token": TOKEN}, Authorization=f"Bearer {TOKEN}", **headers)
        assert (answer.status == 403) is is_refused


def test_without_a_token_only_local_names_lead_here(service: Service) -> None:
    """A website whose name is made to resolve to this machine is refused by its Host header."""
    service.start("")
    port = service.url.rpartition(":")[2]
    for host in ("localhost", f"localhost:{port}", f"127.0.0.1:{port}", "[::1]:80", "[::1]"):
        assert service.ask("GET", "/v1/runs", Host=host).status == 200, host
    for host in (
        f"evil.example:{port}",
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "10.0.0.1",
        "",
    ):
        assert service.ask("GET", "/v1/runs", Host=host).status == 403, host
    assert service.get("/v1/session") == {"login_needed": False, "logged_in": True}


async def test_wrong_tokens_wait_in_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are answered one after the other, and few may wait; the right one does not wait for them."""
    import asyncio

    monkeypatch.setattr("ingest_service.service.http.login._WRONG_S", 3600)
    login = Login(TOKEN)
    wrong = [asyncio.create_task(login.enter("wrong")) for _ in range(20)]
    await asyncio.sleep(0)
    with pytest.raises(Problem) as refused:
        await login.enter("wrong")
    assert refused.value.status == 429
    assert not any(task.done() for task in wrong)
    assert await login.enter(TOKEN)
    for task in wrong:
        task.cancel()
    await asyncio.wait(wrong)


async def test_sessions_end_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session is over after its time; the oldest gives way where there are too many."""
    monkeypatch.setattr("ingest_service.service.http.login._MAX_SESSIONS", 3)
    login = Login(TOKEN)
    sessions = [await login.enter(TOKEN) for _ in range(4)]
    inside = [await login.is_in({}, {COOKIE: session}) for session in sessions]
    assert inside == [False, True, True, True]
    monkeypatch.setattr("ingest_service.service.http.login.SESSION_S", -1)
    assert not await login.is_in({}, {COOKIE: await login.enter(TOKEN)})


def test_what_is_local_and_what_is_foreign() -> None:
    """Spellings of loopback; an Origin with our own host is not foreign; reading never is."""
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "localhost", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.com", "")))
    assert is_local_name("LOCALHOST:80") and not is_local_name("localhost:80:80")
    assert not is_foreign("POST", {"origin": "http://localhost:8080", "host": "localhost:8080"})
    assert is_foreign("POST", {"origin": "http://localhost:9090", "host": "localhost:8080"})
    assert not is_foreign("GET", {"sec-fetch-site": "cross-site"})


def test_the_page_is_in_the_package(guarded: Service) -> None:
    """`/` is HTML, and `/static/` serves the page's files alone."""
    assert guarded.ask("GET", "/").headers["content-type"].startswith("text/html")
    for name in ("..%2f__init__.py", "%2e%2e/api.py", "none.js"):
        assert guarded.ask("GET", f"/static/{name}").status == 404
    assert Path(__file__).exists()


def test_an_event_stream_ends_with_its_session(service: Service) -> None:
    """One that a session opened ends at the logout, and in no other's way; one that the token opened goes on."""
    service.start(f'[serve]\ntoken = "{TOKEN}"\nroots = ["."]\n')
    (service.folder / "a.csv").write_text("user,item,timestamp\n")
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    cookies = []
    for _ in range(2):
        entered = service.ask("POST", "/v1/session", {"token": TOKEN})
        cookies.append({"Cookie": entered.headers["set-cookie"].partition(";")[0]})

    def leave_and_submit() -> None:
        assert service.ask("DELETE", "/v1/session", **cookies[0]).status == 204
        assert service.ask("POST", "/v1/runs", {"source": "a.csv"}, **bearer).status == 201

    service.headers = cookies[0]
    assert list(service.watch("/v1/events", leave_and_submit)) == []
    for headers in (cookies[1], bearer):
        service.headers = headers
        for _, data in service.watch("/v1/events", lambda: None):
            assert data
            break
    service.headers = cookies[0]
    assert service.ask("GET", "/v1/events").status == 401


async def test_a_stream_ends_with_the_time_of_its_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many hours, to the moment; and where the session gives way to others."""
    monkeypatch.setattr("ingest_service.service.http.login.SESSION_S", 0.2)
    monkeypatch.setattr("ingest_service.service.http.login._MAX_SESSIONS", 1)
    login, live = Login(TOKEN), Live()

    async def nothing() -> list[bytes]:
        return []

    session = login.session({COOKIE: await login.enter(TOKEN)})
    assert session is not None
    assert [event async for event in _events(live, None, nothing, session)] == [KEEPALIVE_COMMENT]
    monkeypatch.setattr("ingest_service.service.http.login.SESSION_S", 3600)
    session = login.session({COOKIE: await login.enter(TOKEN)})
    stream = _events(live, None, nothing, session)
    assert await anext(stream) == KEEPALIVE_COMMENT
    await login.enter(TOKEN)
    assert [event async for event in stream] == []


@pytest.mark.parametrize(("address", "is_secure"), [("https://ingest.example", True), ("http://ingest.example", False)])
def test_the_cookie_is_for_tls_alone_behind_it(service: Service, address: str, is_secure: bool) -> None:
    """As the address says that browsers use; at login and at logout."""
    service.start(f'[serve]\ntoken = "{TOKEN}"\npublic_url = "{address}"\n')
    entered = service.ask("POST", "/v1/session", {"token": TOKEN}).headers["set-cookie"]
    left = service.ask("DELETE", "/v1/session", Authorization=f"Bearer {TOKEN}").headers["set-cookie"]
    for cookie in (entered, left):
        assert ("secure" in cookie.lower().split("; ")) is is_secure
