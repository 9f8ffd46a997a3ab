"""The report page in a browser: filters, and responses with markup."""

import shutil

import pytest

from mgm.eval.report.html_page import report_page
from tests.eval.report.test_report import HOSTILE, score_of

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt-get install chromium"),
]
EXAMPLES = (
    ("1", "signs", 0.0, "stop", 5.0), ("2", "signs", 1.0, "length", 9.0),
    ("3", "menus", 0.0, "stop", None), ("4", HOSTILE, 0.0, "stop", None),
)  # fmt: skip


@pytest.fixture
def page(tmp_path):
    """The page of four responses; fails on script errors and on requests."""
    examples = [
        {
            "id": name, "category": category, "credit": credit, "finish_reason": finish,
            "text_size": size, "question": "What?", "answer": HOSTILE, "target": "x",
            "parsed": "" if name == "3" else None, "thumbnails": [],
        }
        for name, category, credit, finish, size in EXAMPLES
    ]  # fmt: skip
    row = dict.fromkeys(("score", "questions", "protocol", "published", "notes"), HOSTILE)
    file = tmp_path / "report.html"
    details = {"examples": examples}
    file.write_text(report_page(HOSTILE, [], [row], [(score_of([]), details)]))
    faults: list[str] = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        opened = browser.new_page()
        opened.on("pageerror", lambda error: faults.append(str(error)))
        opened.on("dialog", lambda dialog: (faults.append("alert"), dialog.dismiss()))
        opened.on("request", lambda one: one.url.startswith("file:") or faults.append(one.url))
        opened.goto(file.as_uri())
        opened.locator("section.examples summary").click()
        yield opened
        browser.close()
    assert faults == []


def shown(page) -> list[str]:
    ids = page.locator(".example:visible dd:last-child").all_inner_texts()
    assert page.locator(".shown").inner_text() == str(len(ids))
    return ids


def test_filters_of_examples(page):
    assert shown(page) == ["1", "2", "3", "4"]
    for name, value, ids in (
        ("result", "wrong", ["1", "3", "4"]), ("result", "right", ["2"]),
        ("result", "unparsed", ["3"]), ("result", "cut", ["2"]),
        ("category", "signs", ["1", "2"]), ("size", "8 to 11 pixels", ["2"]),
    ):  # fmt: skip
        page.select_option(f"[name={name}]", value)
        assert shown(page) == ids, (name, value)
        page.select_option(f"[name={name}]", "")
    page.select_option("[name=category]", index=1)  # the one with markup
    assert shown(page) == ["4"]
    page.select_option("[name=category]", "")
    page.fill("[name=search]", "MENUS")
    assert shown(page) == ["3"]


def test_markup_in_responses_is_escaped(page):
    assert page.locator("h1").inner_text() == HOSTILE
    answers = page.locator(".example dd:nth-of-type(2)").all_inner_texts()
    assert all(HOSTILE in answer for answer in answers)
    assert page.locator("script").count() == 1
