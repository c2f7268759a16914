"""The report's page: everything escaped, nothing loaded, seen in a browser at two widths, light and dark."""

import re
import shutil
from html.parser import HTMLParser

import pytest

from llmhw_helpers.course.report import Compared, MachineReport
from llmhw_helpers.course.report_page import page, save_page, section
from llmhw_helpers.files import NotSaved

EVIL = '<script>alert("x")</script>&"\''
ENTRIES = (
    Compared("00_your_machine", "a row", "s", 1e-3, 1.05e-3, 2e-3, "memory"),
    Compared("00_your_machine", "another", "B", 1e9, 64e9),
    Compared("02_training", "not yet", "", 3.0),
)


class Pieces(HTMLParser):
    """Tags, what they load, and the text of the page."""

    def __init__(self):
        super().__init__()
        self.tags, self.loads, self.text, self.rows, self.inside = [], [], "", [], False

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self.inside:
            self.rows[-1][-1] += data


def read(html):
    pieces = Pieces()
    pieces.feed(html)
    return pieces


def test_it_shows_each_entry_with_its_ratio():
    rows = read(page(MachineReport("a machine", ENTRIES))).rows
    assert ["a row", "2 ms", "1 ms", "1.05 ms", "1.05 ✓", "", "memory"] in rows
    assert ["another", "", "1 GB", "64 GB", "64", "", ""] in rows
    assert any(row[:5] == ["not yet", "", "3", "", ""] for row in rows)


def test_dots_stay_on_the_scale():
    found = section(MachineReport("a machine", ENTRIES))
    assert [float(at) for at in re.findall(r"left: ([\d.]+)%\"", found)] == [50.9, 100.0]


def test_it_names_what_is_missing_and_what_it_rests_on():
    text = read(section(MachineReport("a machine", ENTRIES, (("memory, read", "20 GB/s"),)))).text
    assert "No figures of: 01_autodiff, 03_attention" in text
    assert "memory, read 20 GB/s" in text


def test_no_class_is_one_that_icon_fonts_take():
    """Of the book's theme: a figure in such a class is shown as an empty box."""
    classes = set(re.findall(r'class="(\w+)', section(MachineReport("a machine", ENTRIES))))
    assert classes >= {"near", "off"}
    assert not classes & {"fa", "far", "fas", "fab", "fal"}


def test_names_are_text_whatever_they_hold():
    entry = Compared(EVIL, EVIL, "s", 1.0, 2.0, None, EVIL)
    html = page(MachineReport(EVIL, (entry,), ((EVIL, EVIL),)), EVIL)
    pieces = read(html)
    assert "script" not in pieces.tags
    assert "<script" not in html
    assert pieces.text.count(EVIL) >= 6


def test_it_loads_nothing():
    html = page(MachineReport("a machine", ENTRIES))
    assert read(html).loads == []
    assert "url(" not in html
    assert "http" not in html
    assert "@import" not in html


def test_it_is_written_whole(tmp_path):
    report = MachineReport("a machine", ENTRIES)
    path = save_page(report, tmp_path / "new" / "report.html")
    assert path.read_text(encoding="utf-8") == page(report)
    with pytest.raises(NotSaved, match="report not saved"):
        save_page(report, path / "below_a_file.html")


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable(tmp_path, width, scheme):
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium here")
    path = save_page(MachineReport("a machine", ENTRIES), tmp_path / "report.html")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab.goto(path.as_uri())
        assert tab.evaluate("document.scrollingElement.scrollWidth") <= width + 1
        ink, paper = tab.evaluate(
            "[getComputedStyle(document.querySelector('td')).color, getComputedStyle(document.body).backgroundColor]"
        )
        browser.close()
    dark, light = (min, max) if scheme == "light" else (max, min)
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
    assert dark(brightness) == brightness[0]
    assert light(brightness) - 0 == brightness[1]
    assert abs(brightness[0] - brightness[1]) > 450
