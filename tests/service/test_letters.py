"""Dead letters by the API: those of a code, or one, as it is or with another row; and what a kill does to that."""

from pathlib import Path
from typing import Any

import pytest

from ingest_service.pipeline import dead_letter
from ingest_service.sinks.testing.rows import FIRST_MS, interaction, key_of
from tests.helpers import HEADER, sqlite_rows
from tests.service.conftest import Answer, Service

CONFIG = 'to = ["lite"]\n[sinks]\nlite = "sqlite:///lite.db{options}"\n[serve]\nroots = ["."]\n'
BAD = ["x,1,1", "1,2", f"3,y,{FIRST_MS}", "1,2,never"]
GOOD = [interaction(1 + i, 10 + i) for i in range(6)]


@pytest.fixture
def stream(service: Service, tmp_path: Path) -> str:
    """A file with four bad rows, loaded; the stream of their letters."""
    rows = [f"{1 + i},{10 + i},{FIRST_MS}" for i in range(6)]
    (tmp_path / "clicks.csv").write_text("\n".join([HEADER, *rows, *BAD, ""]))
    service.start(CONFIG.format(options=""))
    done = service.until(service.submit("clicks.csv"), "done", "failed")
    name: str = done["report"]["sources"][0]["stream"]
    return name


def letters(service: Service, stream: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.get(f"/v1/dead-letters/{stream}")["letters"]
    return found


def replay(service: Service, stream: str, **choice: Any) -> Answer:
    return service.ask("POST", f"/v1/dead-letters/{stream}/replay", choice or None)


def ended(service: Service, answer: Answer) -> dict[str, Any]:
    assert answer.status in (200, 201), answer
    return service.until(answer.content, "done", "failed")


def test_those_of_a_code_or_one_are_tried(service: Service, stream: str) -> None:
    """None lands as it is; each choice is a run of its own."""
    found = letters(service, stream)
    assert len({letter["id"] for letter in found}) == 4
    for choice, n in (({"code": "bad_id"}, 2), ({"letter": found[1]["id"]}, 1), ({"code": "none"}, 0), ({}, 4)):
        done = ended(service, replay(service, stream, **choice))
        assert (done["state"], done["report"]) == ("done", {"letters": n, "landed": 0, "left": n, "other": 0})
    assert [letter["raw"] for letter in letters(service, stream)] == BAD


def test_one_is_edited_and_replayed(service: Service, stream: str, tmp_path: Path) -> None:
    """Stored under the new row, gone from the letters, noted with what it was; runs do not show the row."""
    chosen = letters(service, stream)[2]["id"]
    row = f"100,7,{FIRST_MS}"
    done = ended(service, replay(service, stream, letter=chosen, raw=row))
    assert (done["state"], done["report"]["landed"]) == ("done", 1)
    assert row not in str(done) and row not in service.log
    assert [letter["raw"] for letter in letters(service, stream)] == [BAD[0], BAD[1], BAD[3]]
    assert sqlite_rows(tmp_path / "lite.db").keys() == {key_of(one) for one in [*GOOD, interaction(100, 7)]}
    for again in (replay(service, stream, letter=chosen, raw=row), service.ask("POST", f"/v1/runs/{done['id']}/retry")):
        assert again.status in (201, 202)
        assert service.until(again.content, "done", "failed")["state"] == "done"
    other = ended(service, replay(service, stream, letter=chosen, raw=f"101,7,{FIRST_MS}"))
    assert (other["state"], other["exit_code"]) == ("failed", 66)
    assert len(sqlite_rows(tmp_path / "lite.db")) == len(GOOD) + 1


@pytest.mark.parametrize("raw", ["1,2,3,4", "", "-1", "--code=x", "1,2\n3,4", "\x00", "\u202e" * 100, "x" * 60_000])
def test_a_new_row_that_is_refused_changes_nothing(service: Service, stream: str, raw: str, tmp_path: Path) -> None:
    """Its run has failed and says why; whatever it looks like it is a row, and no option."""
    before = (tmp_path / ".ingest" / stream / dead_letter.FILE_NAME).read_bytes()
    done = ended(service, replay(service, stream, letter=letters(service, stream)[0]["id"], raw=raw))
    assert (done["state"], done["exit_code"]) == ("failed", 2)
    assert done["reason"].startswith("The new text is refused (")
    assert (tmp_path / ".ingest" / stream / dead_letter.FILE_NAME).read_bytes() == before
    assert len(sqlite_rows(tmp_path / "lite.db")) == len(GOOD)


def test_a_choice_must_make_sense(service: Service, stream: str) -> None:
    """422 with a sentence, 413 for what is too long, 404 for another stream; no run is queued."""
    chosen = letters(service, stream)[0]["id"]
    n_runs = len(service.get("/v1/runs")["runs"])
    for choice in (
        {"letter": chosen, "code": "bad_id"},
        {"raw": "1,2,3"},
        {"letter": "../x"},
        {"letter": chosen.upper() + "Z"},
        {"letter": chosen, "raw": 5},
        {"letter": chosen, "raw": "\ud800"},
        {"code": ""},
        {"text": "1"},
    ):
        answer = replay(service, stream, **choice)
        assert answer.status == 422 and answer.content["detail"].endswith("."), choice
    assert replay(service, stream, letter=chosen, raw="x" * (64 << 10)).status == 413
    assert replay(service, "none", code="bad_id").status == 404
    assert len(service.get("/v1/runs")["runs"]) == n_runs


def test_two_new_rows_for_one_letter_do_not_meet(service: Service, stream: str, tmp_path: Path) -> None:
    """While one waits, another is refused (503), as is a replay of all; the same is that run, others are free."""
    first, second = (letter["id"] for letter in letters(service, stream)[:2])
    failed = ended(service, replay(service, stream, letter=first, raw="1"))
    service.stop()
    rows = "".join(f"7,{i},{FIRST_MS}\n" for i in range(5_000))
    (tmp_path / "clicks.csv").write_text((tmp_path / "clicks.csv").read_text() + rows)
    service.start(CONFIG.format(options="?rate=100"))
    load = service.submit("clicks.csv")
    service.until(load, "running")  # a replay of the source waits for its end
    waiting = replay(service, stream, letter=first, raw=f"100,7,{FIRST_MS}")
    assert waiting.status == 201
    assert replay(service, stream, letter=first, raw=f"100,7,{FIRST_MS}").content["id"] == waiting.content["id"]
    for choice in ({"letter": first, "raw": "1"}, {"letter": first}, {"code": "wrong_arity"}, {}):
        answer = replay(service, stream, **choice)
        assert answer.status == 503 and f"Run {waiting.content['id']} tries" in answer.content["detail"]
    assert service.ask("POST", f"/v1/runs/{failed['id']}/retry").status == 503
    assert replay(service, stream, letter=second, raw=f"102,7,{FIRST_MS}").status == 201
    service.ask("POST", f"/v1/runs/{load['id']}/cancel")
    assert ended(service, waiting)["report"]["landed"] == 1


def test_a_letter_that_was_broken_cannot_be_chosen(service: Service, stream: str, tmp_path: Path) -> None:
    """It is shown without an id; a line that is none at all is told (503)."""
    path = tmp_path / ".ingest" / stream / dead_letter.FILE_NAME
    with path.open("a") as file:
        file.write('{"raw": 5}\n')
    assert [bool(letter["id"]) for letter in letters(service, stream)] == [True, True, True, True, False]
    with path.open("a") as file:
        file.write("[]\n")
    assert service.ask("GET", f"/v1/dead-letters/{stream}").status == 503


@pytest.mark.fault(86)
@pytest.mark.parametrize("when", ["queued", "running"])
def test_an_edit_survives_the_service(service: Service, stream: str, tmp_path: Path, when: str) -> None:
    """Killed before its run or while it is at work: the next start ends it, once, and nothing is lost."""
    row = f"100,7,{FIRST_MS}"
    chosen = letters(service, stream)[1]["id"]
    queued: list[Answer] = []
    if when == "queued":
        queued.append(replay(service, stream, letter=chosen, raw=row))
    else:
        for run in service.watch_all(lambda: queued.append(replay(service, stream, letter=chosen, raw=row))):
            if run["state"] == "running":
                break
    service.kill()
    service.start()
    done = ended(service, Answer(200, {}, service.get(f"/v1/runs/{queued[0].content['id']}")))
    assert done["state"] == "done"
    assert [letter["raw"] for letter in letters(service, stream)] == [BAD[0], *BAD[2:]]
    assert sqlite_rows(tmp_path / "lite.db").keys() == {key_of(one) for one in [*GOOD, interaction(100, 7)]}
    kept = dead_letter.read(tmp_path / ".ingest" / stream / dead_letter.REPLAYED_NAME)
    assert {(one["raw"], one["original"]["raw"], one["code"]) for one in kept} == {(row, BAD[1], "wrong_arity")}
