"""The page over its API, and the page in a browser."""

import json
import re
import shutil
import socket
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from transformers_vjepa.app.index import ClipIndex, LabelledCorpus
from transformers_vjepa.app.page import AppError, build_app, launch_app, page_style
from transformers_vjepa.app.panels import example_choice, mask_panel, upload_choice
from transformers_vjepa.data.file_corpus import FileCorpus

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'transformers_vjepa[app]'")


@pytest.fixture(scope="module")
def hosts() -> list[str]:
    """Hosts that were looked up while the page was built and served."""
    return []


@pytest.fixture(scope="module")
def address(models, hosts):
    look_up = socket.getaddrinfo

    def noted(host, *rest, **more):
        hosts.append(host)
        return look_up(host, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", noted)
        page = build_app(models)
        yield launch_app(page, port=None, wait=False)
        page.close(verbose=False)


@pytest.fixture
def client(address, monkeypatch):
    from gradio_client import Client

    # The client, not the page, would ask the Hub about itself.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    return lambda: Client(address, verbose=False, analytics_enabled=False)


def test_users_do_not_see_each_other(client, folder, models):
    from gradio_client import handle_file

    one, two = client(), client()
    status = one.predict(handle_file(folder / "mine.mp4"), "multiblock", 0, api_name="/look")[0]
    assert "mine.mp4" in status
    other = two.predict("multiblock", 0, api_name="/masks")
    assert other == mask_panel(models, example_choice(models, 0), strategy="multiblock", seed=0)
    own = one.predict("multiblock", 0, api_name="/masks")
    assert own == mask_panel(models, upload_choice(str(folder / "mine.mp4")), strategy="multiblock", seed=0) != other


def call(address: str, path: str) -> str:
    """The answer of the page to a forged request: to show the file of this name."""
    data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, "multiblock", 0]
    body = json.dumps({"data": data}).encode()
    request = urllib.request.Request(f"{address}gradio_api/call/look", body, {"Content-Type": "application/json"})
    event = json.loads(urllib.request.urlopen(request).read())["event_id"]
    return urllib.request.urlopen(f"{address}gradio_api/call/look/{event}", timeout=20).read().decode()


def test_files_and_urls_that_were_not_uploaded_are_refused(address, folder):
    for path in (
        "/etc/hostname",
        str(folder / "mine.mp4"),
        "http://example.invalid/a.mp4",
        "https://127.0.0.1:1/a.mp4",
    ):
        answer = call(address, path)
        assert "event: error" in answer and "Shown" not in answer
    assert "the app does not read URLs" in call(address, "http://example.invalid/clip.mp4")
    for path in ("/etc/hostname", folder / "mine.mp4", folder / "demo" / "config.json", Path(__file__)):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{address}gradio_api/file={path}")


def test_the_app_reports_and_downloads_nothing(address, hosts):
    assert {*map(str, hosts)} <= {"127.0.0.1", "localhost", "None"}
    config = json.loads(urllib.request.urlopen(f"{address}config").read())
    assert config["analytics_enabled"] is False and config["footer_links"] == [] and not config["run_history"]
    html = urllib.request.urlopen(address).read().decode()
    assert not re.search(r'<(script|link)[^>]+(src|href)="(https?:)?//', html)


def test_a_used_port_and_missing_clips_are_refused(address, models, tmp_path):
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(AppError, match=f"cannot listen on port {port} of 127.0.0.1: choose another port with --port"):
        launch_app(build_app(models), port=port, wait=False)
    gone = LabelledCorpus(FileCorpus([str(tmp_path / "gone.mp4")], labels=[0]), "old features", {})
    index = ClipIndex(gone, np.arange(1), models.index.features[:1])
    with pytest.raises(AppError, match="no clip of old features can be read: give --dataset the videos"):
        build_app(replace(models, index=index))


def test_the_page_of_an_image_model_asks_for_images(image_models):
    page = json.dumps(build_app(image_models).get_config_file()["components"], default=str)
    shown = json.loads(page)
    labels = [item["props"].get("label") for item in shown]
    assert "Choose an image" in labels and "… or upload an image" in labels
    (upload,) = (item["props"] for item in shown if item["props"].get("elem_id") == "upload")
    assert ".jpg" in upload["file_types"] and ".mp4" not in upload["file_types"]
    assert "What this I-JEPA sees" in page and "8 \\u00d7 8 tokens (height" in page and "clips" not in page


def test_the_style_has_the_colours_of_the_figures():
    style = page_style()
    assert "--vjepa: #0b6bb5;" in style and ".dark .vjepa" in style and ".vjepa .panel {" in style


# A browser ----------------------------------------------------------------------------------------------


@pytest.fixture
def browser(tmp_path):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no browser: chromium and chromedriver are not both installed")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    flags = "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
    flags += f"disable-component-update disable-sync user-data-dir={tmp_path / 'profile'} window-size=1240,1000"
    for flag in flags.split():
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(driver))
    yield found
    found.quit()


def test_in_a_browser(browser, address, folder, tmp_path):
    from selenium.webdriver.support.ui import WebDriverWait

    def text(name):
        return browser.execute_script(f"return document.querySelector('#{name}')?.innerText ?? ''")

    def count(selector):
        return browser.execute_script(f"return document.querySelectorAll('{selector}').length")

    def wait(condition):
        WebDriverWait(browser, 30, poll_frequency=0.1).until(lambda _: condition())

    def upload(name):
        wait(lambda: count("#upload input[type=file]") == 1)
        browser.find_element("css selector", "#upload input[type=file]").send_keys(str(folder / name))

    browser.get(address)
    wait(lambda: "000000.mp4" in text("status") and count("#nearest video") == 6)
    browser.find_elements("css selector", "#examples button.thumbnail-item")[1].click()
    wait(lambda: "000001.mp4" in text("status"))
    wait(lambda: count("#masks svg") == 2 and count("#surprise svg") == 2 and count("#features svg") == 1)
    assert "mean L1 error is" in text("masks") and "this clip" in text("nearest")
    before = text("masks")
    browser.find_element("css selector", "#again").click()
    wait(lambda: text("masks") != before)
    assert browser.execute_script("return document.querySelector('#seed input').value") == "1"
    wait(lambda: browser.execute_script("return document.querySelector('#clip video').readyState") >= 2)  # it plays
    assert count("img:not([alt])") == 0 and count("video:not([aria-label])") == 0
    upload("mine.mp4")
    wait(lambda: "Shown: mine.mp4" in text("status"))
    wait(lambda: count("#nearest video") == 6 and "this clip" not in text("nearest"))
    browser.find_elements("css selector", "#examples button.thumbnail-item")[2].click()
    wait(lambda: "000003.mp4" in text("status") or "000002.mp4" in text("status"))
    upload("broken.mp4")
    wait(lambda: "broken.mp4 cannot be shown" in text("status"))
    assert count("#status [role=alert]") == 1 and count("#nearest video") == 0 and count("#masks svg") == 0
    assert "Traceback" not in browser.page_source
    screenshot = tmp_path / "page.png"
    assert browser.save_screenshot(str(screenshot)) and screenshot.stat().st_size > 10_000
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    )
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [item["params"]["request"]["url"] for item in events if item["method"] == "Network.requestWillBeSent"]
    assert [
        url for url in asked if not url.startswith((address, "data:", "blob:", "chrome:", "chrome-untrusted:"))
    ] == []
