"""The pages in headless Chromium: nothing fails, pictures are seen, tables sort, a phone scrolls one way only."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess

import pytest

from reports.page.compare import build_comparison
from reports.page.report import build_report

CHROMIUM = next(filter(None, map(shutil.which, (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser",
                                                "google-chrome"))), None)  # fmt: skip
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
]
WATCH = """<script>
window.faults = [];
for (const kind of ["error", "securitypolicyviolation", "unhandledrejection"])
  addEventListener(kind, (e) => faults.push(kind + " " + (e.message || e.blockedURI || e.reason || "")), true);
console.error = console.warn = (...words) => faults.push(words.join(" "));
</script>"""
PROBE = """<script>
addEventListener("load", () => {
  const column = (table, k) => Array.from(table.tBodies[0].rows, (row) => row.cells[k].dataset.sort);
  const tables = Array.from(document.querySelectorAll("table.sortable"), (table) => {
    const heads = Array.from(table.querySelectorAll("th button"));
    return heads.map((head, k) => {
      head.click(); const up = column(table, k); head.click();
      return {name: head.textContent, up: up, down: column(table, k), said: head.parentElement.ariaSort};
    });
  });
  document.querySelectorAll("details").forEach((each) => { each.open = true; });
  const root = document.documentElement;
  const wide = Array.from(document.querySelectorAll("body *")).filter((e) => !e.closest(".scroll")
    && e.getBoundingClientRect().right > innerWidth + 0.5).map((e) => e.tagName + "." + e.className);
  const found = {width: innerWidth, needed: root.scrollWidth, wide: wide, faults: faults, tables: tables,
    dark: matchMedia("(prefers-color-scheme: dark)").matches, ground: getComputedStyle(document.body).backgroundColor,
    pictures: Array.from(document.images, (i) => [i.alt, i.naturalWidth, i.getBoundingClientRect().width])};
  parent.postMessage(JSON.stringify(found), "*");
});
</script>"""
FRAME = """<!doctype html><script>
addEventListener("message", (e) => { document.getElementById("probe").textContent = e.data; });
</script><pre id="probe"></pre><iframe src="probed.html" style="border: 0; width: {width}px; height: 900px"></iframe>"""
"""A window is never narrower than 500 pixels; a frame is as narrow as one likes."""


def look(page, tmp_path, width=1280, *flags):
    """Open a page and return what the probe found."""
    text = page.read_text().replace("<head>", "<head>" + WATCH, 1).replace("</body>", PROBE + "</body>", 1)
    (tmp_path / "probed.html").write_text(text)
    (tmp_path / "frame.html").write_text(FRAME.replace("{width}", str(width)))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
               f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000", "--virtual-time-budget=10000",
               *flags, "--dump-dom", f"file://{tmp_path / 'frame.html'}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    said = re.search(r'<pre id="probe">(.+?)</pre>', done.stdout, re.DOTALL)
    assert said, done.stderr[-2000:]
    return json.loads(html.unescape(said[1]))


@pytest.fixture(scope="module")
def pages(report_home, tmp_path_factory):
    home, runs = report_home
    folder = tmp_path_factory.mktemp("pages")
    build_report(home, [runs["policy"].id], folder / "report.html")
    build_comparison(home, runs["model"].id, runs["other"].id, folder / "compare.html")
    return folder


@pytest.mark.parametrize(("name", "pictures"), [("report", 4), ("compare", 3)])
def test_a_phone_sees_everything_without_scrolling_sideways(pages, tmp_path, name, pictures):
    found = look(pages / f"{name}.html", tmp_path, 390)
    assert found["width"] == 390 and found["needed"] <= 390 and found["wide"] == []
    assert found["faults"] == []
    assert len(found["pictures"]) == pictures
    assert all(natural > 0 and 0 < shown <= 390 for _, natural, shown in found["pictures"])


def test_a_desktop_in_dark_mode_sorts_tables(pages, tmp_path):
    found = look(pages / "report.html", tmp_path, 1280, "--blink-settings=preferredColorScheme=0")
    assert found["faults"] == [] and found["needed"] <= found["width"]
    assert found["dark"] and found["ground"] != look(pages / "report.html", tmp_path)["ground"]
    columns = [column for table in found["tables"] for column in table]
    assert len(found["tables"]) >= 5 and {column["said"] for column in columns} == {"descending"}
    for column in columns:
        for order, turned in ((column["up"], False), (column["down"], True)):
            there = [key for key in order if key]
            assert order == there + [""] * (len(order) - len(there))
            if all(re.fullmatch(r"-?[\d.]+(e-?\d+)?", key) for key in there):
                assert [float(k) for k in there] == sorted(map(float, there), reverse=turned)
    turned = [c for c in columns if c["name"] == "Here" and c["up"] != c["down"]]
    assert turned and all(sorted(c["up"]) == sorted(c["down"]) for c in columns)
