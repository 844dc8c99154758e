"""The report of an invented study with tiny models: its numbers, its figures, and how a browser shows it."""

import html
import json
import re
import shutil
import subprocess
from functools import partial

import pytest

pytest.importorskip("matplotlib")

from studies import write_study  # noqa: E402

from transformers_vjepa.analysis.read_outs import fit_probe  # noqa: E402
from transformers_vjepa.study import plan, views  # noqa: E402
from transformers_vjepa.study.kinds import IMAGES  # noqa: E402
from transformers_vjepa.study.report import write_report  # noqa: E402
from transformers_vjepa.study.results import StudyResults  # noqa: E402

# The page in frames of both widths: what sticks out, and which images do not load.
_PROBE = """<!DOCTYPE html><body><pre id="found"></pre>
<iframe src="report.html" style="width: 1200px; height: 900px"></iframe>
<iframe src="report.html" style="width: 420px; height: 900px"></iframe>
<script>
async function look(frame) {
  const page = frame.contentDocument, width = page.documentElement.clientWidth;
  const box = element => element.getBoundingClientRect();
  const outside = element => box(element).right > width + 1 || box(element).left < -1;
  const scrolls = element => element.closest(".scroll, .wide");
  const loads = await Promise.all([...page.querySelectorAll("image, img")].map(image => new Promise(done => {
    const copy = new Image();
    copy.onload = () => done(copy.naturalWidth > 0);
    copy.onerror = () => done(false);
    copy.src = image.getAttribute("src") || image.getAttribute("href") || image.getAttribute("xlink:href");
  })));
  const texts = [...page.querySelectorAll("figure text")];
  const heights = texts.map(text => box(text).height).filter(height => height > 0);
  return {
    width, scroll: page.documentElement.scrollWidth,
    loaded: loads.filter(done => done).length, broken: loads.filter(done => !done).length,
    figures: page.querySelectorAll("figure svg").length,
    outside: [...page.querySelectorAll("main *, header *")].filter(element => !scrolls(element) && outside(element))
      .map(element => element.tagName + " " + element.textContent.trim().slice(0, 40)),
    smallest: Math.min(...heights),
  };
}
window.onload = async () => {
  const found = [];
  for (const frame of document.querySelectorAll("iframe")) found.push(await look(frame));
  document.getElementById("found").textContent = JSON.stringify(found);
};
</script></body>"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return fast_report(write_study(tmp_path_factory.mktemp("study")))


@pytest.fixture(scope="module")
def image_report(tmp_path_factory):
    return fast_report(write_study(tmp_path_factory.mktemp("image_study"), kind=IMAGES))


def fast_report(folder):
    with pytest.MonkeyPatch.context() as patch:  # the fewest steps and clips that give a figure
        patch.setattr(views, "_DECODER_STEPS", 3)
        patch.setattr(views, "_ERROR_CLIPS", 20)
        patch.setattr(plan, "SURPRISE_PAIRS", 4)
        patch.setattr(views, "fit_probe", partial(fit_probe, steps=2))
        return write_report(folder)


def test_every_section_has_figures_and_each_of_them_is_a_png_too(report):
    page = report.read_text()
    sections = re.findall(r'<section id="([^"]+)">(.*?)</section>', page, re.DOTALL)
    assert [name for name, _ in sections] == [
        *("learnt", "masks", "pooling", "labels", "steps", "training", "expectations"),
        *("mask-pictures", "features", "attention", "neighbours", "errors", "decoded", "confusions", "surprise"),
    ]
    for name, text in sections:
        assert "<figure" in text and "<table>" in text and '<p class="reading">' in text, name
        assert 'class="missing"' not in text, name
    pngs = list((report.parent / "report_pictures").glob("*.png"))
    assert len(pngs) == page.count("<figure")
    assert not list(report.parent.glob(".*.unfinished"))


def test_the_report_of_images_shows_images(image_report):
    page = html.unescape(image_report.read_text())
    sections = dict(re.findall(r'<section id="([^"]+)">(.*?)</section>', page, re.DOTALL))
    assert list(sections) == [
        *("learnt", "masks", "blocks", "pooling", "labels", "steps", "training", "expectations"),
        *("mask-pictures", "features", "attention", "neighbours", "errors", "decoded", "confusions"),
    ]
    for name, text in sections.items():
        assert "<figure" in text and "<table>" in text, name
    texts = re.sub(r"<svg.*?</svg>|<style.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)
    assert re.findall(r"V-JEPA|\bclips?\b|\bframes?\b|\bvideos?\b|time step|[Mm]otion", texts) == []
    assert "What I-JEPA learns in 8 minutes without labels" in texts and "ImageNet" in sections["masks"]
    assert "Appearance, mean-pooled probe: multi-block 4" in texts  # the main read-outs are ridge and mean
    # One sheet: six images, each with three encoders.
    assert sections["features"].count("<figure") == 1 and sections["features"].count("<image") == 5 * 4
    assert len(list((image_report.parent / "report_pictures").glob("*.png"))) == page.count("<figure")


def test_page_needs_nothing_but_itself(report):
    page = report.read_text()
    assert report.stat().st_size < 6e6
    assert "<script" not in page and "@import" not in page
    links = set(re.findall(r'(?:src|href)="([^"#]{1,30})', page))
    assert all(link.startswith("data:") for link in links), links
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert str(report.parent) not in page


def test_numbers_are_those_of_the_study(report):
    page = html.unescape(report.read_text()).replace("\N{NO-BREAK SPACE}", " ")
    rows = [
        row
        for row in json.loads((report.parent / "study.json").read_text())["rows"]
        if (row["arm"], row["task"], row["read_out"], row["labels"], row["step"])
        == ("vjepa", "motion", "ridge", 200, 300)
    ]
    assert len(rows) == 3
    mean = sum(row["accuracy"] for row in rows) / 3
    assert f'<h3>Motion, ridge</h3><div class="value">{mean:.1f} %</div>' in page
    assert f"Motion, ridge regression: V-JEPA {mean:.1f} %, untrained " in page
    assert "What V-JEPA learns in 8 minutes without labels" in page
    assert "Some <CPU> & more" in page
    contrasts = StudyResults(report.parent).contrasts
    met = sum(item["low"] > 0 for item in contrasts)
    assert f"<b>{met} of {len(contrasts)}</b> expectations of the paper met" in page


def test_a_study_without_models_and_with_few_numbers_says_what_is_missing(tmp_path):
    study = write_study(tmp_path, with_models=False)
    data = json.loads((study / "study.json").read_text())
    kept = [row for row in data["rows"] if row["arm"] == "vjepa" and row["labels"] == 200 and row["step"] == 300]
    kept = [row for row in kept if row["task"] == "motion" and row["read_out"] == "ridge"]
    settings = data["settings"] | {"classes": {"motion": data["settings"]["classes"]["motion"]}}
    (study / "study.json").write_text(json.dumps({"settings": settings, "rows": kept}))
    page = write_report(study, output=tmp_path / "elsewhere" / "page.html").read_text()
    assert page.count("<figure") == 1  # the one accuracy
    assert (tmp_path / "elsewhere" / "page_pictures" / "learnt-motion-ridge.png").is_file()
    missing = re.findall(r'<p class="missing">Not shown: (.*?)</p>', page)
    assert len(missing) == 7
    assert "study.json has no contrast." in missing
    assert "study.json names no existing folder with a model of V-JEPA." in missing


def test_without_the_clips_the_numbers_are_shown(tmp_path):
    study = write_study(tmp_path, with_models=False)
    models = tmp_path / "runs" / "vjepa-seed0"
    models.mkdir(parents=True)
    (models / "config.json").write_text("{}")
    data = json.loads((study / "study.json").read_text())
    data["rows"] = [row for row in data["rows"] if row["read_out"] == "mean"]
    (study / "study.json").write_text(
        json.dumps({"settings": data["settings"], "rows": data["rows"], "runs": data["runs"]})
    )
    assert "has no clips.pt, the file with the clips of the study." in write_report(study).read_text()


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="run vjepa study"):
        write_report(tmp_path)


def test_a_browser_shows_all_of_it_at_two_widths(report, tmp_path):
    browser = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if browser is None:
        pytest.skip("no chromium on the PATH to show the page in")
    probe = report.with_name("probe.html")
    probe.write_text(_PROBE)
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
    found = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", *quiet),
            *("--allow-file-access-from-files", f"--user-data-dir={tmp_path}", "--virtual-time-budget=20000"),
            *("--window-size=1700,1000", "--dump-dom", probe.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    ).stdout
    wide, narrow = json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', found)[1]))
    figures = report.read_text().count("<figure")
    for frame in (wide, narrow):
        assert frame["outside"] == []
        assert frame["scroll"] <= frame["width"]
        assert frame["broken"] == 0 and frame["loaded"] > 50 and frame["figures"] == figures
    assert wide["width"] > 1100 and narrow["width"] <= 420
    assert wide["smallest"] > 9 and narrow["smallest"] > 7.5  # pixels of a line of text
