"""The page in headless Chromium: it loads, the robots move when the slider does, and nothing is logged as an error."""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image

from reports.visualize.browser import BrowserView, with_mark
from reports.visualize.recording import Recording
from reports.visualize.scene import make_scene
from rwmdata.errors import RwmError
from rwmmodel.ensemble import DynamicsEnsemble, EnsembleConfig

CHROMIUM = next(filter(None, map(shutil.which, (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser",
                                                "google-chrome"))), None)  # fmt: skip


CHARTS = """Object.values(window.__viserTestpoints.uplots).map(({chart, createCount}) => ({
    made: createCount, mark: chart.data[0][chart.data.at(-1).indexOf(1)] ?? null}))"""
"""Of the page's charts: how often each was made, and at what time its mark stands."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def page(robot, schema):
    """A robot that walks forward at 1 m/s and lifts a knee, with a twin; skipped without viser."""
    pytest.importorskip("viser")
    torch.manual_seed(0)
    rows = np.zeros((1, 60, 66), np.float32)
    rows[0, :, 0], rows[0, :, schema.group("projected_gravity").stop - 1] = 1.0, -1.0
    rows[0, :, schema.group("joint_pos").start + 8] = np.linspace(0, 1, 60)
    rows[0, :, schema.group("foot_contact")] = 1
    begins = np.arange(60)[None] == 0
    config = EnsembleConfig(hidden=8, head_hidden=8, members=2, history=4, state_dim=45, action_dim=12, contact_dim=8)
    model = DynamicsEnsemble(config).eval()
    recording = Recording(rows, np.tile(np.float32([1, 0, 0]), (1, 60, 1)), begins, schema, 0.02)
    view = BrowserView(make_scene("a robot", robot, recording, model), model, port=free_port())
    yield view
    view.close()


def test_bodies_follow_the_step_and_twins_are_imagined_anew(page):
    base = page.bodies["real"][0]
    page.show(0)
    assert not page.bodies["twin"][0].visible
    before = base.position.copy()
    page.show(50)
    assert base.position[0] - before[0] == pytest.approx(1.0, abs=1e-3) and page.bodies["twin"][0].visible
    assert page.scene.twin.since[0, 50] == 47
    page.resynchronise(10)
    assert page.scene.twin.since[0, 50] == 7 and "0.14 s after synchronising" in page.text.content


def test_the_mark_is_a_vertical_line_at_the_shown_step():
    time_s, speed, mark = with_mark(np.array([[0.0, 0.1, 0.2], [5.0, 6.0, 7.0]]), 1)
    assert time_s.tolist() == [0, 0.1, 0.1, 0.1, 0.2] and speed.tolist() == [5, 6, 6, 6, 7]
    assert mark.tolist() == [0, 0, 1, 0, 0]


def marked_times(page):
    """Return at which times the charts' marks stand."""
    return [chart.data[0][chart.data[-1] == 1].tolist() for chart in page.charts]


def test_the_curves_mark_the_shown_step_and_stay_the_same_charts(page):
    charts = page.charts
    page.show(50)
    assert marked_times(page) == [[1.0]] * 3 and page.charts is charts
    page.show(0)  # The twin does not exist yet, and the curves begin with it.
    assert marked_times(page) == [[]] * 3


def test_marks_move_now_and_then_while_it_plays_and_at_once_when_it_stops(page, monkeypatch):
    page.show(50)
    monkeypatch.setattr("reports.visualize.browser.MARK_EVERY_S", 1e9)
    page.playing.value = True
    page.show(51)
    assert marked_times(page) == [[1.0]] * 3
    page.playing.value = False
    page.show(51)
    assert marked_times(page) == [[1.02]] * 3


def test_a_taken_port_is_named(page):
    port = page.server.get_port()
    with pytest.raises(RwmError, match=f"Port {port} of 127.0.0.1 cannot be opened"):
        BrowserView(page.scene, page.model, port=port)


class Tab:
    """A page of a running Chromium, spoken to by the DevTools protocol."""

    def __init__(self, address):
        from websockets.sync.client import connect

        self.socket, self.numbers, self.faults = connect(address, max_size=None), itertools.count(1), []
        for domain in ("Runtime", "Log", "Page"):
            self.ask(f"{domain}.enable")

    def ask(self, method, **params):
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            said = json.loads(self.socket.recv(timeout=60))
            about = said.get("params", {})
            if said.get("method") == "Runtime.exceptionThrown" or about.get("type") == "error":
                self.faults.append(about)
            if about.get("entry", {}).get("level") == "error":
                self.faults.append(about["entry"])
            if said.get("id") == number:
                return said["result"]

    def value(self, expression):
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value", "")

    def text(self):
        return self.value("document.body.innerText")

    def wait_for(self, words, seconds=60):
        end = time.monotonic() + seconds
        while words not in self.text():
            assert time.monotonic() < end, (words, self.text(), self.faults)
            time.sleep(0.3)

    def picture(self):
        data = self.ask("Page.captureScreenshot", format="png")["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
def test_robots_move_in_chromium_when_the_slider_does(page, tmp_path):
    profile = tmp_path / "profile"
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run",
               "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--window-size=1300,1000",
               "--remote-debugging-port=0", f"--user-data-dir={profile}", page.url]  # fmt: skip
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while not (profile / "DevToolsActivePort").exists():
            assert time.monotonic() < end
            time.sleep(0.2)
        port = (profile / "DevToolsActivePort").read_text().split()[0]
        tabs = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json"))
        tab = Tab(next(t["webSocketDebuggerUrl"] for t in tabs if t["type"] == "page"))
        tab.wait_for("step 0 of 59")
        time.sleep(3)
        first, drawn = tab.picture(), tab.value(CHARTS)
        focus = "document.querySelector('[role=slider]').focus()"
        tab.ask("Runtime.evaluate", expression=focus)
        key = {"key": "End", "code": "End", "windowsVirtualKeyCode": 35}
        tab.ask("Input.dispatchKeyEvent", type="keyDown", **key)
        tab.ask("Input.dispatchKeyEvent", type="keyUp", **key)
        tab.wait_for("step 59 of 59")
        time.sleep(2)
        second, drawn_later = tab.picture(), tab.value(CHARTS)
        if folder := os.environ.get("RWM_SCREENSHOTS"):
            for name, picture in (("first", first), ("second", second)):
                Image.fromarray(picture.astype(np.uint8)).save(f"{folder}/{name}.png")
        left = slice(None), slice(0, 700)
        assert (np.abs(first[left] - second[left]).max(axis=2) > 40).mean() > 0.01
        red = (second[left][..., 0] > 110) & (second[left][..., 1] < 60)
        assert red.sum() > 200
        assert page.step == 59 and tab.faults == []
        # The mark went from nowhere to the last step, in the same charts.
        assert [chart["mark"] for chart in drawn] == [None] * 3
        assert [chart["mark"] for chart in drawn_later] == [pytest.approx(1.18)] * 3
        assert [chart["made"] for chart in drawn] == [chart["made"] for chart in drawn_later]
    finally:
        browser.terminate()
        browser.wait(20)
