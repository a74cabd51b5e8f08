"""The pictures of the page in the documentation. INGEST_TEST_SCREENSHOTS=docs/images makes them anew."""

import os
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.servers import ROOT
from tests.service.conftest import Service
from tests.service.test_page import wait_for_progress, write_padded

PICTURES = (
    ("serve-light", "light", 1280, 960),
    ("serve-dark", "dark", 1280, 960),
    ("serve-phone", "dark", 360, 740),
)
_PICTURES_TO = os.environ.get("INGEST_TEST_SCREENSHOTS", "")


def test_the_pictures_in_the_documentation(request: pytest.FixtureRequest) -> None:
    """They are there, and small enough to be looked at anywhere. They are made anew if that is asked for."""
    if _PICTURES_TO:
        make_pictures(*(request.getfixturevalue(name) for name in ("page", "service", "redis_db_url", "tmp_path")))
    for name, *_ in PICTURES:
        assert 0 < (ROOT / "docs" / "images" / f"{name}.png").stat().st_size < 150_000


def make_pictures(page: Page, service: Service, redis_url: str, folder: Path) -> None:
    """A load in the middle of its course, after some others."""
    service.start(
        f'to = ["history", "recent"]\n[sinks]\nrecent = "{redis_url}?rate=2400"\nhistory = "sqlite:///history.db?rate=2000"\n'
        f'[serve]\nroots = ["{folder}"]\n'
    )
    for day, rows in ((17, 4_000), (18, 3_000), (19, 60_000)):
        write_padded(
            folder / f"clicks-2026-11-{day}.csv", rows, last="1,not-a-number,1583366400000,\n", row_bytes=2_000
        )
        run = service.submit(folder / f"clicks-2026-11-{day}.csv")
        if day < 19:
            service.until(run, "done")
    page.goto(service.url)
    page.get_by_label("Source").fill(str(folder / "clicks-2026-11-20.csv"))
    wait_for_progress(page, 70)
    page.evaluate(_WITHOUT_FOLDER, str(folder))
    for name, scheme, width, height in PICTURES:
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": height})
        page.screenshot(path=Path(_PICTURES_TO) / f"{name}.png")


# Texts and fields without this machine's folder.
_WITHOUT_FOLDER = """folder => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replace(folder, "/data");
    for (const input of document.querySelectorAll("input")) input.value = input.value.replace(folder, "/data");
}"""
