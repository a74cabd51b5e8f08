"""The page as a tool: what one does with it beyond looking, in a real browser, against the real service."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from ingest_service.sinks.testing.rows import FIRST_MS
from tests.helpers import HEADER
from tests.service.conftest import Service, eventually
from tests.service.test_page import assert_accessible
from tests.service.test_questions import children, hold_reading

ROWS = f"{HEADER}\n7,1,{FIRST_MS}\n7,2,{FIRST_MS + 1000}\n"
INBOX = """
to = ["history"]
[sinks]
history = "sqlite:///history.db"
[serve]
roots = ["."]
upload_mb = 50
[[serve.inbox]]
name = "drop"
url = "drop"
pattern = "*.csv"
complete = "rename"
"""
_DROP = """({text, name, element}) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([text], name));
    for (const kind of ["dragenter", "dragover", "drop"])
        element.dispatchEvent(new DragEvent(kind, {dataTransfer: transfer, bubbles: true, cancelable: true}));
}"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "drop").mkdir()
    return tmp_path


def test_files_are_put_into_an_inbox(page: Page, service: Service, folder: Path) -> None:
    """Chosen or dropped, one after the other, and loaded; what is refused says why, also after all of it was sent."""
    service.start(INBOX)
    files = folder / "mine"
    files.mkdir()
    (files / "clicks.csv").write_text(ROWS)
    (files / "notes.txt").write_text("none of the inbox's")
    (files / "long.csv").write_bytes(b"\n" * 50_000_001)
    (files / "taken.csv").write_bytes(b"\n" * 45_000_000)
    (folder / "drop" / "taken.csv").write_text(ROWS)
    page.goto(service.url)
    box = page.locator("#upload")
    expect(box).to_contain_text("Names like *.csv, 50.0 MB at most.")
    box.get_by_label("Files").set_input_files(list(files.iterdir()))
    box.get_by_role("button", name="Put").click()
    for name, told in {
        "clicks.csv": "It is in drop.",
        "notes.txt": "The inbox drop passes over files of that name",
        "long.csv": "It has 50.0 MB, more than an inbox takes.",
        "taken.csv": "The inbox has a file of that name",
    }.items():
        expect(box.locator("li", has_text=name)).to_contain_text(told)
    assert box.locator("li", has_text="clicks.csv").get_by_role("progressbar").evaluate("bar => bar.value") == 1
    expect(page.locator("#runs tbody", has_text="clicks.csv")).to_contain_text("done")
    assert (folder / "drop" / "taken.csv").read_text() == ROWS
    assert_accessible(page)

    handle = box.element_handle()
    page.evaluate(_DROP, {"text": ROWS, "name": "dropped <b>.csv", "element": handle})
    expect(box.locator("li", has_text="dropped <b>.csv")).to_contain_text("It is in drop.")
    expect(page.locator("#runs tbody", has_text="dropped <b>.csv")).to_contain_text("done")
    assert (folder / "drop" / "dropped <b>.csv").read_text() == ROWS
    for one in ("clicks.csv", "notes.txt"):
        box.get_by_role("button", name=f"Remove {one}").click()
    expect(box.locator("li")).to_have_count(3)
    expect(box.get_by_role("heading")).to_be_focused()


def test_a_file_on_its_way_shows_its_progress_and_can_be_stopped(page: Page, service: Service, folder: Path) -> None:
    """The bar moves while it is sent; Remove ends it, and nothing of it stays in the inbox."""
    service.start(INBOX)
    (folder / "slow.csv").write_bytes(b"\n" * 45_000_000)
    page.goto(service.url)
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 1_000_000}
    network.send("Network.emulateNetworkConditions", slow)
    box = page.locator("#upload")
    box.get_by_label("Files").set_input_files(folder / "slow.csv")
    box.get_by_role("button", name="Put").click()
    bar = box.get_by_role("progressbar", name="How much of slow.csv is sent")
    page.wait_for_function("bar => bar.value > 0 && bar.value < 1", arg=bar.element_handle())
    assert_accessible(page)
    box.get_by_role("button", name="Remove slow.csv").click()
    expect(box.locator("li")).to_have_count(0)
    page.wait_for_function("fetch('/v1/uploads').then(answer => answer.ok)")
    while list((folder / "drop").iterdir()):
        page.wait_for_timeout(50)


def test_without_inboxes_there_is_nowhere_to_put_files(page: Page, service: Service) -> None:
    """The section is not shown, and a file that is dropped on the page does nothing."""
    service.start("[serve]\n")
    page.goto(service.url)
    expect(page.locator("#connection")).to_have_text("Live")
    expect(page.locator("#upload")).to_be_hidden()
    page.evaluate(_DROP, {"text": ROWS, "name": "a.csv", "element": page.locator("#runs").element_handle()})
    expect(page.locator("#connection")).to_have_text("Live")


def test_a_load_is_looked_at_before(page: Page, service: Service, folder: Path) -> None:
    """What the rows become, what a load takes and a schema file, each as its command says it; nothing is loaded."""
    service.start(INBOX)
    (folder / "clicks.csv").write_text(f"{ROWS}7,<b>\u202e,{FIRST_MS}\n")
    page.goto(service.url)
    box = page.locator("#submit")
    box.get_by_role("button", name="Preview").click()
    expect(box.get_by_label("Source")).to_be_focused()  # it is to be filled in first
    box.get_by_label("Source").fill("clicks.csv")
    box.get_by_role("button", name="Preview").click()
    expect(box.get_by_role("region", name="What the first rows become")).to_be_focused()
    expect(box.locator("pre")).to_contain_text("history:")
    expect(box.locator("pre")).to_contain_text("refused: line 4")
    assert box.locator("pre").inner_text().count("\n") > 3
    assert_accessible(page)
    box.get_by_role("button", name="Estimate").click()
    expect(box.get_by_role("region", name="What a load takes")).to_contain_text(
        "3 rows: 2 records of 1 users, 1 refused"
    )
    box.get_by_role("button", name="Infer a schema").click()
    expect(box.get_by_role("region", name="A schema file, told from the rows")).to_contain_text("x-role: owner")
    assert "\u202e" not in box.inner_text()
    assert_accessible(page)
    box.get_by_label("Source").fill("/etc/passwd")
    box.get_by_role("button", name="Infer a schema").click()
    expect(box).to_contain_text("The source is not below a folder of the setting serve.roots.")
    expect(box.locator("pre")).to_have_count(0)
    expect(page.locator("#runs .message")).to_contain_text("no run")


def test_a_long_look_can_be_stopped(page: Page, service: Service, folder: Path) -> None:
    """The button is there as long as somebody waits, and then the service looks no longer."""
    service.start(INBOX)
    long = hold_reading(folder / "long.csv")
    page.goto(service.url)
    box = page.locator("#submit")
    box.get_by_label("Source").fill(str(long))
    box.get_by_role("button", name="Estimate").click()
    expect(box).to_contain_text("is being looked at…")
    eventually(lambda: children(service))
    box.get_by_role("button", name="Stop").click()
    expect(box.get_by_role("button", name="Preview")).to_be_focused()
    expect(box.get_by_role("button", name="Stop")).to_be_hidden()
    expect(box).not_to_contain_text("is being looked at…")
    eventually(lambda: children(service), lambda found: not found)


def test_dead_letters_are_edited_and_replayed(page: Page, service: Service, folder: Path) -> None:
    """One with another row, which may be refused as well; one as it is; all of a code. What comes of each is told."""
    service.start(INBOX)
    bad = ["7,x,1", "7,2", "<b>,1,1", "8,y,1"]
    (folder / "clicks.csv").write_text(ROWS + "".join(f"{row}\n" for row in bad))
    service.until(service.submit("clicks.csv"), "done", "failed")
    page.goto(service.url)
    panel = page.get_by_role("article", name="clicks.csv")
    panel.get_by_role("button", name="Show", exact=True).click()
    raws = panel.locator(".raw")
    expect(raws).to_have_text(bad)
    panel.get_by_role("button", name="Edit line 5").click()
    row = panel.get_by_role("textbox", name="New row for line 5")
    expect(row).to_be_focused()
    expect(row).to_have_value("7,2")
    assert_accessible(page)
    row.fill("7,2,never")
    panel.get_by_role("button", name="Replay with this").click()
    expect(panel.locator(".editor")).to_contain_text("The new text is refused (bad_timestamp)")
    expect(raws).to_have_text(bad)

    (letters,) = (folder / ".ingest").rglob("dead-letters.jsonl")
    mended = letters.read_text().replace('"raw": "7,x,1"', f'"raw": "9,9,{FIRST_MS}"')
    letters.write_text(mended)  # by another hand, meanwhile
    service.until(service.submit("clicks.csv", limit=1), "done", "failed")
    expect(row).to_have_value("7,2,never")
    row.fill(f"7,5,{FIRST_MS}")
    panel.get_by_role("button", name="Replay with this").click()
    expect(raws).to_have_text([f"9,9,{FIRST_MS}", "<b>,1,1", "8,y,1"])
    expect(panel.get_by_role("heading")).to_be_focused()  # the row is gone that had the focus
    assert_accessible(page)

    panel.get_by_role("button", name="Replay line 7").click()
    expect(panel.locator(".message").first).to_contain_text("0 landed, 1 left.")
    panel.get_by_role("button", name="Edit line 6").click()
    panel.get_by_role("button", name="Cancel").click()
    expect(panel.get_by_role("button", name="Edit line 6")).to_be_focused()
    panel.get_by_role("button", name="Replay all bad_id").click()
    expect(panel.locator(".message").first).to_contain_text("1 landed, 2 left.")
    expect(raws).to_have_text(["<b>,1,1", "8,y,1"])
    kept = letters.with_name("replayed.jsonl").read_text()
    assert '"original": {"raw": "7,2"}' in kept
