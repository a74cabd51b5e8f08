"""The page, in a real browser, against the real service with a real Redis, SQLite and files."""

import json
import re
import sqlite3
from pathlib import Path

import redis
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from ingest_service.service.runs import FILE_NAME, STATES
from ingest_service.sinks.testing.rows import FIRST_MS, interaction
from tests.helpers import HEADER
from tests.service.conftest import Service

TOKEN = "correct horse battery"
SLOW = "rate=3000"


def config(folder: Path, redis_url: str = "", options: str = SLOW) -> str:
    sinks = f'recent = "{redis_url}?{options}"\n' if redis_url else ""
    return (
        f'to = ["history"]\n[sinks]\n{sinks}history = "sqlite:///history.db?{options}"\n[serve]\nroots = ["{folder}"]\n'
    )


def write_padded(path: Path, rows: int, last: str = "", row_bytes: int = 6_000) -> None:
    """Rows of fifty users, so wide that a short file fills many blocks; then a row as it is given."""
    with path.open("w") as file:
        file.write(f"{HEADER},note\n")
        file.writelines(f"{i % 50},{i},{FIRST_MS + i},{'n' * row_bytes}\n" for i in range(rows))
        file.write(last)


def submit(page: Page, source: Path) -> None:
    page.get_by_label("Source").fill(str(source))
    page.get_by_role("button", name="Load", exact=True).click()


def assert_accessible(page: Page) -> None:
    """axe-core finds nothing, dark on the narrowest phone and light on a desk; and nobody need scroll sideways."""
    for scheme, width in (("dark", 320), ("light", 1280)):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = Axe().run(page)
        assert not found.response["violations"], found.generate_report()


def test_a_run_is_started_watched_and_mended(page: Page, service: Service, redis_db_url: str, tmp_path: Path) -> None:
    """Log in, load a file, watch it move, see which rows a sink refused, mend the sink, replay: they are gone.

    One stream of events is enough for all that, and the report adds up.
    """
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.removeprefix(service.url)))
    source = tmp_path / "clicks-2026-11-20.csv"
    write_padded(source, 15_000, last="1,not-a-number,1583366400000,\n")
    key = f"recent:{{{interaction(7, 1).user_id}}}"
    with redis.Redis.from_url(redis_db_url) as client:
        client.set(key, "no sorted set")
    service.start(config(tmp_path, redis_db_url), INGEST_SERVE__TOKEN=TOKEN)

    page.goto(service.url)
    assert_accessible(page)
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_have_text("The token is wrong.")
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("#connection")).to_have_text("Live")
    for name in ("recent", "history"):
        page.get_by_role("checkbox", name=name).check()
        expect(page.locator("#sinks li", has_text=name)).to_contain_text("healthy")
    submit(page, source)
    expect(page.locator("#submit")).to_contain_text("It is queued, as run 1.")

    panel = page.get_by_role("article", name=source.name)
    bar = panel.get_by_role("progressbar")
    wait_for_progress(page, 0)
    wait_for_progress(page, bar.evaluate("bar => bar.value"))
    expect(panel.get_by_role("img")).to_have_attribute("aria-label", re.compile(r"recent: now [\d,]+, at most"))
    for line in panel.locator(".plot .line").all():
        expect(line).to_have_attribute("d", re.compile("^M.*L"))
    assert panel.get_by_role("columnheader").all_text_contents() == [" history", " recent"]
    expect(panel.get_by_role("row", name="Concurrency")).to_contain_text("start")
    assert_accessible(page)

    row = page.locator("#runs tbody", has_text=source.name)
    expect(row).to_contain_text("done")
    expect(page.locator("#news")).to_have_text(f"Run 1, {source.name}: done.")
    expect(page.locator("#idle")).to_be_visible()
    row.get_by_role("button", name=source.name).click()
    ledger = row.get_by_role("region", name="How the rows of")
    assert numbers(ledger, "Read") == [15_001, 15_001]
    assert numbers(ledger, "+ rejected") == [1, 1]
    assert numbers(ledger, "+ dead") == [0, 300]
    expect(ledger.get_by_role("row", name="Adds up")).to_have_text("Adds upyesyes")

    letters = page.locator("#dead-letters").get_by_role("article", name=source.name)
    expect(letters).to_contain_text("301 rows")
    letters.get_by_role("button", name="Show", exact=True).click()
    expect(letters.get_by_role("row")).to_have_count(21)
    expect(letters).to_contain_text("wrong_type")
    letters.get_by_role("button", name="Show more").click()
    expect(letters.get_by_role("row")).to_have_count(41)
    with redis.Redis.from_url(redis_db_url) as client:
        client.delete(key)
        letters.get_by_role("button", name="Replay", exact=True).first.click()
        expect(letters).to_contain_text("1 rows")
        expect(letters.get_by_role("row")).to_have_count(2)
        expect(letters).not_to_contain_text("wrong_type")
        expect(letters).to_contain_text("1,not-a-number,1583366400000")
        assert client.zcard(key) == 100
    assert_accessible(page)

    page.get_by_role("button", name="Log out").click()
    expect(page.locator("#login")).to_contain_text("You are logged out.")
    assert asked.count("/v1/events") == 1
    assert TOKEN not in " ".join(asked)


def test_everything_can_be_done_by_keyboard(page: Page, service: Service, tmp_path: Path) -> None:
    """From the skip link to a run that is loaded, looked at, cancelled and taken up again; the focus is always seen."""
    write_padded(tmp_path / "pairs.csv", 12_000)
    service.start(config(tmp_path, options="rate=800"))  # so slow that no key comes too late
    page.goto(service.url)
    expect(page.locator("#connection")).to_have_text("Live")

    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to the content")
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    tab_to(page, page.get_by_label("Source"))
    page.keyboard.type(str(tmp_path / "pairs.csv"))
    page.keyboard.press("Enter")
    tab_to(page, page.get_by_role("button", name="Cancel run 1"), back=True)
    wait_for_progress(page, 0)
    page.keyboard.press("Enter")
    expect(page.locator("#runs tbody")).to_contain_text("cancelled")
    expect(page.locator("#now-title")).to_be_focused()  # the button is gone
    tab_to(page, page.get_by_role("radio", name="all"))
    page.keyboard.press("ArrowRight")
    expect(page.locator("#runs .message")).to_have_text("No run is running.")
    page.keyboard.press("ArrowLeft")
    tab_to(page, page.get_by_role("button", name="pairs.csv"))
    page.keyboard.press("Enter")
    expect(page.locator(":focus")).to_have_attribute("aria-expanded", "true")
    tab_to(page, page.get_by_role("button", name="Retry run 1"))
    page.keyboard.press("Space")
    expect(page.locator("#runs tbody .state")).to_have_text("done", timeout=120_000)
    expect(page.get_by_role("button", name="pairs.csv")).to_be_focused()  # its details were made anew


def test_a_lost_connection_is_told_and_found_again(page: Page, service: Service, tmp_path: Path) -> None:
    """The service is killed: the page says so. It comes back: what happened meanwhile is there.

    It comes back with a token: the page asks for it.
    """
    write_padded(tmp_path / "first.csv", 12_000)
    (tmp_path / "second.csv").write_text(f"{HEADER}\n1,2,{FIRST_MS}\n")
    service.start(config(tmp_path))
    port = service.url.rpartition(":")[2]
    page.goto(service.url)
    submit(page, tmp_path / "first.csv")
    expect(page.get_by_role("article", name="first.csv")).to_be_visible()
    service.kill()
    expect(page.get_by_role("status").filter(has_text="Connection lost")).to_contain_text("may be old")
    assert_accessible(page)

    page.context.set_offline(True)
    service.start(config(tmp_path, options="rate=100000"), "--port", port)
    service.until(service.submit(tmp_path / "first.csv"), "done")
    service.until(service.submit(tmp_path / "second.csv"), "done")
    page.context.set_offline(False)
    expect(page.locator("#connection")).to_have_text("Live")
    expect(page.locator("#runs tbody .state")).to_have_text(["done", "done"])
    expect(page.locator("#idle")).to_be_visible()

    service.kill()
    service.start(config(tmp_path), "--port", port, INGEST_SERVE__TOKEN=TOKEN)
    expect(page.locator("#login")).to_contain_text("The session has ended; log in again.")
    expect(page.get_by_label("Token")).to_be_focused()
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("#connection")).to_have_text("Live")


def test_ten_thousand_past_runs(page: Page, service: Service, tmp_path: Path) -> None:
    """They are counted, shown a page at a time and by state; the last page has no more."""
    (tmp_path / "pairs.csv").write_text(f"{HEADER}\n1,2,{FIRST_MS}\n")
    service.start(config(tmp_path))
    service.stop()
    remember_runs(tmp_path / ".ingest" / FILE_NAME, {"done": 9_880, "failed": 120})
    service.start()
    page.goto(service.url)
    rows = page.locator("#runs tbody")
    more = page.get_by_role("button", name="Show more")
    expect(rows).to_have_count(50)
    expect(rows.first).to_contain_text("10000")
    expect(page.get_by_role("radio", name="all")).to_have_accessible_name("all 10,000")
    more.click()
    expect(rows).to_have_count(100)
    page.get_by_role("radio", name="failed 120").check(force=True)
    expect(rows).to_have_count(100)
    expect(rows.locator(".state.failed")).to_have_count(100)
    more.focus()
    page.keyboard.press("Enter")
    expect(rows).to_have_count(120)
    expect(more).to_be_hidden()
    expect(rows.nth(100).get_by_role("button")).to_be_focused()
    submit(page, tmp_path / "pairs.csv")
    expect(page.get_by_role("radio", name="all")).to_have_accessible_name("all 10,001")
    expect(rows).to_have_count(120)  # it is none of those that failed


def test_many_streams_of_dead_letters_and_more_letters(page: Page, service: Service, tmp_path: Path) -> None:
    """Streams are shown fifty at first; letters that come while one reads are added, and what was shown stays."""
    paths = [tmp_path / ".ingest" / f"old-{i:02}" / "dead-letters.jsonl" for i in range(60)]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_text(letter(1))
    (tmp_path / "pairs.csv").write_text(f"{HEADER}\n1,2,{FIRST_MS}\n")
    service.start(config(tmp_path))
    page.goto(service.url)
    streams = page.locator("#dead-letters").get_by_role("article")
    expect(streams).to_have_count(50)
    page.get_by_role("button", name="Show more streams").click()
    expect(streams).to_have_count(60)
    expect(streams.nth(50).get_by_role("heading")).to_be_focused()
    streams.first.get_by_role("button", name="Show", exact=True).click()
    expect(streams.first.locator(".raw")).to_have_text(["raw 1"])
    with paths[0].open("a") as file:
        file.writelines(letter(line) for line in range(2, 31))
    submit(page, tmp_path / "pairs.csv")  # the letters are looked at again
    expect(streams.first.locator(".raw")).to_have_text([f"raw {line}" for line in range(1, 21)])
    streams.first.get_by_role("button", name="Show more").click()
    expect(streams.first.locator(".raw")).to_have_count(30)
    with paths[0].open("a") as file:
        file.write(letter(31))
    page.get_by_label("Rows at most").fill("1")
    submit(page, tmp_path / "pairs.csv")
    expect(streams.first.locator(".raw")).to_have_text([f"raw {line}" for line in range(1, 32)])


def test_what_files_hold_stays_text(page: Page, service: Service, tmp_path: Path) -> None:
    """Markup in a file's name, in a row and in bytes that are no text is shown as it stands, and does nothing."""
    attack = "<img src=x onerror=alert(1)>"
    source = tmp_path / f"{attack}.csv"
    rows = [f"1,{attack},1", '"><svg/onload=alert(2)>,1,1', "1,<script>alert(3)</script>", "1,\u202egnp.exe,1"]
    text = f"{HEADER}\n" + "".join(f"{row}\n" for row in rows)
    source.write_bytes(text.encode() + b"1,<b>\xff</b>,1\n1,2,1583366400000\n")
    service.start(config(tmp_path))
    page.goto(service.url)
    submit(page, source)
    expect(page.locator("#runs tbody")).to_contain_text("done")
    page.get_by_role("button", name=source.name).click()
    letters = page.get_by_role("article", name=source.name)
    letters.get_by_role("button", name="Show", exact=True).click()
    expect(letters.locator(".raw")).to_have_text([*rows, "MSw8Yj7/PC9iPiwx"])
    expect(letters).to_contain_text("in base64: it is not UTF-8")
    expect(page.get_by_role("cell").filter(has_text=str(source)).first).to_be_visible()
    assert page.locator("main").locator("img, script, svg, b, i").count() == 0
    assert_accessible(page)


def wait_for_progress(page: Page, percent: float) -> None:
    """Until the bar of the run that is running is beyond that."""
    page.evaluate(
        """percent => new Promise(resolve => {
            const look = () => document.querySelector("progress")?.value > percent ? resolve() : setTimeout(look, 20);
            look();
        })""",
        percent,
    )


def tab_to(page: Page, wanted: Locator, *, back: bool = False) -> None:
    """Press Tab until it has the focus, which can be seen wherever it is."""
    expect(wanted).to_be_visible()
    for _ in range(60):
        page.keyboard.press("Shift+Tab" if back else "Tab")
        outline = page.evaluate(_OUTLINE)
        assert outline != "none", page.evaluate("document.activeElement.outerHTML")
        if wanted.evaluate("element => element === document.activeElement"):
            return
    raise AssertionError(f"Tab does not lead to {wanted}")


def letter(line: int) -> str:
    about = {"source": "file:///data/old.csv", "line": line, "offset": 10 * line, "raw": f"raw {line}"}
    return (
        json.dumps({**about, "stage": "parse", "code": "wrong_arity", "reason": "Too few.", "at": "2026-11-20"}) + "\n"
    )


def numbers(table: Locator, row: str) -> list[int]:
    cells = table.get_by_role("row", name=row, exact=False).first.get_by_role("cell").all_text_contents()
    return [int(cell.replace(",", "")) for cell in cells]


def remember_runs(path: Path, counts: dict[str, int]) -> None:
    """Past runs, as the service would have stored them, the last of them failed ones."""
    task = {"kind": "run", "source": "file:///data/old.csv", "name": "/data/old.csv", "sinks": ["history"]}
    assert set(counts) <= set(STATES)
    rows = [(state, f"{state} {i}") for state, n in counts.items() for i in range(n)]
    with sqlite3.connect(path) as db:
        db.executemany(
            "INSERT INTO runs (identity, uri, task, state, created_at) VALUES (?, 'file:///data/old.csv', ?, ?,"
            " '2026-11-20T12:00:00.000000Z')",
            [(identity, json.dumps(task), state) for state, identity in rows],
        )
    db.close()


_OUTLINE = """() => {
    const focused = document.activeElement;
    const shown = focused.matches("[type=radio]") ? focused.nextElementSibling : focused;
    return getComputedStyle(shown).outlineStyle;
}"""


def test_a_user_is_looked_up(page: Page, service: Service, tmp_path: Path) -> None:
    """By his id in the files, with the titles of what he watched; what is in a title stays text."""
    (tmp_path / "clicks.csv").write_text(f"{HEADER}\n7,1,{FIRST_MS}\n7,2,{FIRST_MS + 1000}\n")
    (tmp_path / "titles.csv").write_text("item,title\n1,Cats\n2,<b>Dogs</b>\n")
    service.start(config(tmp_path))
    for name, dataset in (("clicks.csv", None), ("titles.csv", "microlens-titles")):
        run = service.submit(tmp_path / name, **({"dataset": dataset} if dataset else {}))
        assert service.until(run, "done", "failed")["state"] == "done"
    page.goto(service.url)
    box = page.locator("#user")
    box.get_by_label("User", exact=True).fill("7")
    box.get_by_label("With titles").check()
    box.get_by_role("button", name="Look up").click()
    expect(box.locator(".message")).to_contain_text("The newest 2 that history has of")
    expect(box.locator("tbody tr")).to_have_count(2)
    expect(box.locator("tbody tr").first).to_contain_text("<b>Dogs</b>")
    assert_accessible(page)
    box.get_by_label("User", exact=True).fill("8")
    box.get_by_role("button", name="Look up").click()
    expect(box.locator(".message")).to_contain_text("has nothing of")


def test_runs_are_searched_and_linked(page: Page, service: Service, tmp_path: Path) -> None:
    """By a part of the source's name, events in between included; a link opens the run for whoever is sent it."""
    service.start(config(tmp_path))
    runs = {}
    for name in ("clicks-monday.csv", "clicks-tuesday.csv", "likes.csv"):
        (tmp_path / name).write_text(f"{HEADER}\n7,1,{FIRST_MS}\n")
        runs[name] = service.submit(tmp_path / name)
        service.until(runs[name], "done", "failed")
    page.goto(service.url)
    page.get_by_label("Source").fill(f"{tmp_path}/")
    expect(page.locator(f'#files option[value="{tmp_path}/likes.csv"]')).to_have_count(1)
    page.get_by_label("Data set", exact=True).focus()
    expect(page.locator('#datasets option[value="movielens"]')).to_have_count(1)
    table = page.locator("#runs tbody")
    expect(table).to_have_count(3)
    expect(table.first).to_contain_text("/s")
    expect(page.locator("#runs .zone")).not_to_be_empty()
    page.get_by_label("Search runs").fill("CLICKS")
    expect(table).to_have_count(2)
    (tmp_path / "likes-2.csv").write_text(f"{HEADER}\n7,1,{FIRST_MS}\n")
    service.until(service.submit(tmp_path / "likes-2.csv"), "done", "failed")
    expect(table).to_have_count(2)
    page.get_by_label("Search runs").fill("nothing")
    expect(page.locator("#runs .message")).to_have_text("There is no such run.")
    linked = runs["likes.csv"]["id"]
    page.goto(f"{service.url}/#run={linked}")
    page.reload()
    details = page.locator(f"#run-{linked}")
    expect(details).to_contain_text("Adds up")
    expect(details.get_by_role("link", name=f"Link to run {linked}")).to_have_attribute("href", f"#run={linked}")
    assert_accessible(page)
