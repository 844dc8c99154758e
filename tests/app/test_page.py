"""The app: numbers behind its pictures, the page over its API, and the page in a browser."""

import json
import re
import shutil
import socket
import sys
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from studies import write_models
from torch.nn.functional import layer_norm
from videos import write_video

from transformers_vjepa import VJEPAConfig, VJEPAForVideoClassification, VJEPAVideoProcessor
from transformers_vjepa.app.analysis import (
    ClipError,
    draw_features,
    draw_mask_errors,
    encode_video,
    explained_variance,
    read_clip_of,
    strategies,
    top_classes,
)
from transformers_vjepa.app.index import ClipIndex, LabelledCorpus, Neighbour, open_labelled, votes
from transformers_vjepa.app.page import AppError, MissingAppError, build_app, launch_app
from transformers_vjepa.app.panels import Classifier, clip_panels, example_choice, mask_panel, upload_choice
from transformers_vjepa.commands import app as command
from transformers_vjepa.commands import extract_features
from transformers_vjepa.data.corpora import FileCorpus
from transformers_vjepa.data.synthetic import CorpusConfig, build_corpus
from transformers_vjepa.models.vjepa.decoding import probe_video
from transformers_vjepa.pretraining.masking import Masks

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'transformers_vjepa[app]'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model, and the built-in corpus beside it, as the demo leaves them."""
    root = tmp_path_factory.mktemp("app")
    write_models(root)
    shutil.move(root / "runs" / "vjepa-seed0", root / "demo")
    build_corpus(root / "synthetic", config=CorpusConfig(num_train=1, num_test=16), num_processes=1)
    write_video(root / "mine.mp4", level=90, num_frames=20)
    write_video(root / "short.mp4", level=90, num_frames=3)
    (root / "broken.mp4").write_bytes(b"no video" * 100)
    return root


@pytest.fixture(scope="module")
def models(folder):
    return command.load(["--model", str(folder / "demo"), "--use_cpu", "true"])[1]


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
        yield launch_app(page, port=None, wait=False, announce=lambda text: None)
        page.close(verbose=False)


@pytest.fixture
def clip(models):
    choice = example_choice(models, 0)
    return read_clip_of(choice.corpus, choice.index, crop_size=32, sampling=models.looker.sampling)


# Numbers ------------------------------------------------------------------------------------------------


def test_prediction_errors_by_hand(models, clip):
    looker = models.looker
    model, config = looker.model, looker.config
    context, target = torch.tensor([[0, 5, 9, 20]]), torch.tensor([[1, 2, 33]])
    found = looker.mask_errors(clip, Masks([context], [target]))
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = ((clip / 255 - mean) / std)[None]
    with torch.no_grad():
        wanted = layer_norm(model.vjepa(pixels).last_hidden_state, (config.hidden_size,))[0, target[0]]
        patches, grid = model.context_encoder.embeddings.patchify(pixels)
        seen = model.context_encoder(patches, grid, context).last_hidden_state
        predicted = model.vjepa.predictor(seen, context, target, grid).last_hidden_state[0]
    errors = found.tokens.flatten()
    torch.testing.assert_close(errors[target[0]], (predicted - wanted).abs().mean(-1), atol=1e-5, rtol=1e-4)
    assert int(errors.isfinite().sum()) == 3 and found.tokens.shape == (1, *config.grid_size)
    torch.testing.assert_close(found.means, (predicted - wanted).abs().mean()[None], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.guess, wanted.abs().mean()[None], atol=1e-5, rtol=1e-4)


def test_context_stays_as_it_is_in_the_map_of_errors(models, clip):
    looker = models.looker
    everything = torch.arange(64)[None]
    masks = Masks([everything[:, :32]], [everything[:, 32:]])  # two time steps each
    [image] = draw_mask_errors(clip, looker.mask_errors(clip, masks), config=looker.config).axes[0].get_images()
    shown = np.asarray(image.get_array())[..., :3]
    step = shown.shape[1] // 4
    first = clip[0].permute(1, 2, 0).numpy()
    factor = shown.shape[0] // 32
    assert np.array_equal(shown[::factor, : 32 * factor : factor], first)
    third = clip[4].permute(1, 2, 0).numpy()
    assert not np.array_equal(shown[::factor, 2 * step : 2 * step + 32 * factor : factor], third)


def test_surprise_and_features_are_those_of_the_model(models, clip):
    looker = models.looker
    with torch.no_grad():
        expected = looker.model.surprise(looker.pixels(clip))[0]
        features = looker.model.vjepa(looker.pixels(clip)).last_hidden_state
    torch.testing.assert_close(looker.surprise(clip), expected, equal_nan=True)
    tokens = looker.tokens(clip)
    assert tokens.shape == (1, 4, 16, 24)
    torch.testing.assert_close(tokens.flatten(1, 2), features)


def test_principal_components_by_hand(models, clip):
    torch.manual_seed(0)
    tokens = torch.zeros(1, 4, 16, 24)
    tokens[..., :3] = torch.randn(1, 4, 16, 3)
    assert explained_variance(tokens) == pytest.approx(1, abs=1e-5)
    values = torch.randn(64, 24)
    variances = torch.from_numpy(np.linalg.eigvalsh(np.cov(values.numpy().T)))
    share = explained_variance(values.view(1, 4, 16, 24))
    assert share == pytest.approx(float(variances[-3:].sum() / variances.sum()), abs=1e-4)
    rows = draw_features(clip, tokens, config=models.looker.config).axes
    assert len(rows) == 2 and rows[1].get_images()[0].get_array().shape[2] == 4


def test_the_nearest_clip_of_a_clip_is_itself(models):
    index = models.index
    assert len(index) == 16 and index.spread(4) == [0, 5, 10, 15] and index.spread(99) == list(range(16))
    for place in (0, 7, 15):
        choice = example_choice(models, place)
        clip = read_clip_of(choice.corpus, choice.index, crop_size=32, sampling=models.looker.sampling)
        found = index.nearest(index.query(models.looker.tokens(clip)), number=5)
        assert found[0].place == place and found[0].is_same and found[0].score == pytest.approx(1, abs=1e-4)
        assert [neighbour.is_same for neighbour in found[1:]] == [False] * 4
        assert sorted((neighbour.score for neighbour in found), reverse=True) == [item.score for item in found]


def test_scores_by_hand():
    data = LabelledCorpus(FileCorpus("abc", labels=[0, 1, 1]), "letters", {})
    index = ClipIndex(data, np.arange(3), torch.tensor([[0.0, 0.0], [2.0, 2.0], [4.0, 1.0]]))
    values = index.features.numpy()
    standardised = (values - values.mean(0)) / values.std(0, ddof=1)
    query = (np.array([3.0, 3.0]) - values.mean(0)) / values.std(0, ddof=1)
    cosines = standardised @ query / np.linalg.norm(standardised, axis=1) / np.linalg.norm(query)
    found = index.nearest(torch.tensor([[3.0, 3.0]]), number=9)
    assert [item.place for item in found] == np.argsort(-cosines).tolist()
    assert [item.score for item in found] == pytest.approx(np.sort(cosines)[::-1].tolist(), abs=1e-5)


def test_the_clip_itself_has_no_vote():
    data = LabelledCorpus(FileCorpus("abcd", labels=[0] * 4), "letters", {"kind": ["x", "y", "y", ""]})
    index = ClipIndex(data, np.arange(4), torch.zeros(4, 2))
    near = [Neighbour(0, 1.0, True), Neighbour(1, 0.9, False), Neighbour(3, 0.8, False), Neighbour(2, 0.7, False)]
    assert votes(index, near, number=3) == {"kind": [("y", 2)]}
    assert votes(index, near, number=1) == {"kind": [("y", 1)]}


def test_features_are_written_once(folder, models, monkeypatch):
    monkeypatch.setattr(models.looker.model.vjepa, "get_vision_features", lambda pixels: pytest.fail("encoded again"))
    data = open_labelled(str(folder / "synthetic"), max_clips=2000)
    place = folder / "demo" / "app_cache"
    settings = {"processor": models.looker.processor, "sampling": models.looker.sampling, "folder": place}
    again = command.build_index(models.looker.model.vjepa, data, **settings)
    assert torch.equal(again.features, models.index.features) and len(list(place.iterdir())) == 1


def test_a_folder_of_features_gives_the_same_index(folder, models):
    argv = [str(folder / "synthetic" / "test"), "--model", str(folder / "demo"), "--use_cpu", "true"]
    for kind in ("time_means", "tokens", "mean"):
        place = folder / kind
        extract_features.run([*argv, "--kind", kind, "--dtype", "float32", "--output_dir", str(place)])
        model = ["--model", str(folder / "demo"), "--use_cpu", "true"]
        index = command.load([*model, "--dataset", str(place), "--max_clips", "8"])[1].index
        assert len(index) == 8 and index.name(0) == "000000.mp4" and index.labels(0) == {}
        expected = models.index.features[[0, 2, 4, 6, 9, 11, 13, 15]]
        if kind == "mean":
            expected = expected.unflatten(1, (4, -1)).mean(dim=1)
        torch.testing.assert_close(index.features, expected, atol=1e-5, rtol=1e-4)
    settings = json.loads((place / "settings.json").read_text())
    settings["settings"]["num_segments"] = 2
    (place / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(SystemExit, match="error: the features in .* differ .* in num_segments: give --dataset"):
        command.load([*model, "--dataset", str(place)])


def test_top_classes_are_the_softmax_of_the_logits(models, clip):
    torch.manual_seed(0)
    classifier = VJEPAForVideoClassification(VJEPAConfig(**tiny(), num_labels=7)).eval()
    found = top_classes(classifier, clip, processor=models.looker.processor, number=5)
    with torch.no_grad():
        shares = classifier(models.looker.pixels(clip)).logits[0].softmax(-1)
    assert [share for _, share in found] == pytest.approx(shares.sort(descending=True).values[:5].tolist())
    assert found[0][0] == f"LABEL_{int(shares.argmax())}"


def tiny() -> dict:
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 24}
    return {"crop_size": 32, "patch_size": 8, "frames_per_clip": 8, **layers}


def test_the_video_of_a_clip_plays(clip, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(encode_video(clip, side=100))
    info = probe_video(path)
    assert (info.num_frames, info.width, info.height) == (8, 96, 96)
    path.write_bytes(encode_video(clip[:, :, :31, :31], side=90))
    assert probe_video(path).width == 31 * 4  # enlarged by a whole number, to an even side


def test_only_masks_that_fit_are_offered():
    assert strategies(VJEPAConfig(**tiny())) == ["multiblock", "random_tube", "causal_multiblock_6"]
    assert strategies(VJEPAConfig(crop_size=64, patch_size=8, frames_per_clip=1, tubelet_size=1)) == [
        "image_multiblock"
    ]


# Panels -------------------------------------------------------------------------------------------------


def test_panels_of_an_example(models):
    panels = clip_panels(models, example_choice(models, 3))
    assert "000003.mp4" in panels.status and 'role="status"' in panels.status and "motion" in panels.status
    assert panels.clip.count("<video") == 1 and "8 frames of 32 × 32 pixels, one frame in 2" in panels.clip
    assert panels.classes == ""
    assert panels.surprise.count("<svg") == 2 and panels.features.count("<svg") == 1
    assert panels.nearest.count("<video") == 6 and panels.nearest.count("this clip") == 1
    assert "not a classifier's probabilities" in panels.nearest
    figures = re.findall("<figure[^>]*>", "".join(panels))
    assert figures and all('aria-label="' in figure for figure in figures)
    assert not re.search(r'(src|href)="(https?:)?//', "".join(panels))


def test_masks_follow_strategy_and_seed(models):
    choice = example_choice(models, 3)
    first, again, other = (mask_panel(models, choice, strategy="multiblock", seed=seed) for seed in (0, 0, 1))
    assert first == again != other and first.count("<svg") == 2
    masks = models.looker.masks("multiblock", seed=0)
    clip = read_clip_of(choice.corpus, choice.index, crop_size=32, sampling=models.looker.sampling)
    means = models.looker.mask_errors(clip, masks).means.tolist()
    assert f"<b>{means[0]:.3f} and {means[1]:.3f}</b>" in first
    assert mask_panel(models, choice, strategy="random_tube", seed=0).count("mask 1") == 2
    for seed in (None, -1, 0.5, 2**31):
        panel = mask_panel(models, choice, strategy="multiblock", seed=seed)
        assert "The seed must be a whole number from 0 to 2,147,483,647" in panel
    assert "image_multiblock" not in mask_panel(models, choice, strategy="image_multiblock", seed=0)


def test_broken_files_give_a_message_without_a_path(models, folder):
    for name, reason in (("broken.mp4", "FFmpeg"), ("short.mp4", "3 frames"), ("gone.mp4", "no such file")):
        panels = clip_panels(models, upload_choice(str(folder / name)))
        assert (
            'role="alert"' in panels.status
            and reason in panels.status
            and f"{name} cannot be shown: " in panels.status
        )
        assert panels[1:] == ("",) * 5 and str(folder) not in panels.status
        assert mask_panel(models, upload_choice(str(folder / name)), strategy="multiblock", seed=0) == ""
    with pytest.raises(ClipError):
        read_clip_of(
            FileCorpus([str(folder / "gone.mp4")], labels=[-1]), 0, crop_size=32, sampling=models.looker.sampling
        )


def test_names_cannot_inject_html(models, folder):
    path = folder / "<img src=x onerror=alert(1)>{{x}}${y}.mp4"
    shutil.copy(folder / "mine.mp4", path)
    panels = clip_panels(models, upload_choice(str(path)))
    text = "".join(panels)
    assert "&lt;img" in panels.status and "<img" not in text and "{{" not in panels.status and "${" not in text


def test_classes_with_a_classifier(models, folder):
    config = VJEPAConfig(**tiny(), id2label={0: "up & down", 1: "left"}, label2id={"up & down": 0, "left": 1})
    VJEPAForVideoClassification(config).save_pretrained(folder / "probe")
    VJEPAVideoProcessor(crop_size=32, num_frames=8, frame_step=2).save_pretrained(folder / "probe")
    argv = ["--model", str(folder / "demo"), "--use_cpu", "true", "--classifier", str(folder / "probe")]
    shown = command.load(argv)[1]
    assert isinstance(shown.classifier, Classifier)
    panel = clip_panels(shown, upload_choice(str(folder / "mine.mp4"))).classes
    assert panel.count("<meter") == 2 and "up &amp; down" in panel and "classifier probe" in panel


# The command --------------------------------------------------------------------------------------------


def test_what_is_missing_is_said_in_one_line(folder, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"error: .*nowhere holds no model .*: run vjepa demo first, or name the"):
        command.load(["--model", str(tmp_path / "nowhere")])
    model = ["--model", str(folder / "demo"), "--use_cpu", "true"]
    with pytest.raises(SystemExit, match=r"error: .*none is no file or folder here: give a folder of videos"):
        command.load([*model, "--dataset", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match=r"error: .*none holds no classifier .*: train one with vjepa train_class"):
        command.load([*model, "--classifier", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match=r"error: --port 70000 must lie in \[1, 65535\]"):
        command.load([*model, "--port", "70000"])
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit, match=r"error: the app needs gradio, .*: pip install 'transformers_vjepa\[app\]'"):
        command.load(model)
    with pytest.raises(MissingAppError):
        build_app(None)


def test_without_a_corpus_a_small_one_is_rendered(folder, tmp_path, monkeypatch):
    shutil.copytree(folder / "demo", tmp_path / "demo", ignore=shutil.ignore_patterns("app_cache"))
    looker = command.load_looker(command.AppArguments(model=str(tmp_path / "demo")), torch.device("cpu"))
    rendered = []
    monkeypatch.setattr(
        "transformers_vjepa.data.synthetic.build_corpus",
        lambda root, config: rendered.append((root, config)) or folder / "synthetic",
    )
    data = command.find_clips(command.AppArguments(model=str(tmp_path / "demo")), looker)
    assert len(data.corpus) == 16
    [(root, config)] = rendered
    assert root == tmp_path / "demo" / "app_cache" / "corpus" and config.num_test == 80 and config.num_frames == 20


# The page -----------------------------------------------------------------------------------------------


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
    """What the page answers to a request that no browser of ours sends: look at the file of this name."""
    data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, "multiblock", 0]
    body = json.dumps({"data": data}).encode()
    request = urllib.request.Request(f"{address}gradio_api/call/look", body, {"Content-Type": "application/json"})
    event = json.loads(urllib.request.urlopen(request).read())["event_id"]
    return urllib.request.urlopen(f"{address}gradio_api/call/look/{event}", timeout=20).read().decode()


def test_files_and_addresses_that_were_not_uploaded_are_refused(address, folder):
    for path in (
        "/etc/hostname",
        str(folder / "mine.mp4"),
        "http://example.invalid/a.mp4",
        "https://127.0.0.1:1/a.mp4",
    ):
        answer = call(address, path)
        assert "event: error" in answer and "Shown" not in answer
    assert "addresses are not read" in call(address, "http://example.invalid/clip.mp4")
    for path in ("/etc/hostname", folder / "mine.mp4", folder / "demo" / "config.json", Path(__file__)):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{address}gradio_api/file={path}")


def test_nothing_is_reported_and_nothing_fetched(address, hosts):
    assert {*map(str, hosts)} <= {"127.0.0.1", "localhost", "None"}
    config = json.loads(urllib.request.urlopen(f"{address}config").read())
    assert config["analytics_enabled"] is False and config["footer_links"] == [] and not config["run_history"]
    html = urllib.request.urlopen(address).read().decode()
    assert not re.search(r'<(script|link)[^>]+(src|href)="(https?:)?//', html)


def test_a_port_that_is_taken_and_clips_that_are_gone(address, models, tmp_path):
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(AppError, match=f"port {port} of 127.0.0.1 cannot be listened on: choose another one with"):
        launch_app(build_app(models), port=port, wait=False)
    gone = LabelledCorpus(FileCorpus([str(tmp_path / "gone.mp4")], labels=[0]), "old features", {})
    index = ClipIndex(gone, np.arange(1), models.index.features[:1])
    with pytest.raises(AppError, match="not one clip of old features can be read here: give --dataset the videos"):
        build_app(replace(models, index=index))


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
    assert "misses them by" in text("masks") and "this clip" in text("nearest")
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
    picture = tmp_path / "page.png"
    assert browser.save_screenshot(str(picture)) and picture.stat().st_size > 10_000
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    )
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [item["params"]["request"]["url"] for item in events if item["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith((address, "data:", "blob:", "chrome:"))] == []
