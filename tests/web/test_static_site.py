"""The static site in a real browser: no server computes anything."""

from __future__ import annotations

import base64
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import ghostzoo
from exporters.web.site import write_site
from ghostzoo.bundle.folder import Bundle
from ghostzoo.errors import InputError
from ghostzoo.fetch.resolver import fetch
from ghostzoo.parity import EXACT_TOLERANCE
from ghostzoo.serve.page_files import RUNTIMES, runtimes
from tests.fitting.conftest import write_picture
from tests.fixtures.calibrated import calibrated_copy
from tests.fixtures.serving import running_server
from tests.web.conftest import Tags, Visit, file_server

pytestmark = pytest.mark.slow

_PHOTO = Path(__file__).parents[2] / "examples" / "chelsea.png"


def test_the_browser_answers_as_the_package_does(visit: Visit, site_url: str) -> None:
    visit.open(site_url)
    visit.choose(_PHOTO)
    (answer,) = visit.answers()
    with ghostzoo.load(engine="onnxruntime", threads=1) as classifier:
        expected = classifier(_PHOTO)
    assert answer["labels"] == [prediction.label for prediction in expected]
    assert answer["scores"] == pytest.approx([100 * prediction.score for prediction in expected], abs=0.06)
    assert visit.problems == visit.refused == []
    assert all(request.startswith((site_url, "blob:")) for request in visit.requests)


_CLASSIFY = """async ([folder, picture, runtimes]) => {
  const file = await (await fetch(`data:image/png;base64,${picture}`)).blob();
  const worker = new Worker("worker.js", {type: "module"});
  return new Promise((resolve) => {
    worker.onmessage = ({data}) => resolve(data);
    worker.postMessage({id: 0, task: "classify", folder: new URL(folder, location).href, file, headers: {}, runtimes});
  });
}"""


def test_timm_s_models_score_as_in_the_package(visit: Visit, site_url: str, relatives: list[Bundle]) -> None:
    visit.open(site_url)
    picture = base64.b64encode(_PHOTO.read_bytes()).decode()
    for bundle in relatives:
        found = visit.page.evaluate(_CLASSIFY, [f"models/{bundle.name}/", picture, list(runtimes())])
        with ghostzoo.load(bundle.path, engine="onnxruntime", threads=1) as classifier:
            expected = classifier(_PHOTO)
        assert [each["label"] for each in found["answer"]["predictions"]] == [each.label for each in expected]
        scores = [each["score"] for each in found["answer"]["predictions"]]
        assert scores == pytest.approx([each.score for each in expected], abs=1e-5)


_ASK = """async (picture) => {
  const { askBrowser, askServer, hasServer, listModels } = await import(new URL("backends.js", location));
  const file = await (await fetch(`data:image/png;base64,${picture}`)).blob();
  const model = (await listModels())[0];
  const answers = [await askBrowser(model, file)];
  if (hasServer) answers.push(await askServer(model, model.engines[0], file));
  return answers.map(({ predictions }) => predictions);
}"""


def test_a_calibrated_model_scores_as_in_the_package(visit: Visit, runtime: None, tmp_path: Path) -> None:
    bundle = calibrated_copy(tmp_path / "calibrated")
    write_site(tmp_path / "site", [bundle])
    picture = base64.b64encode(_PHOTO.read_bytes()).decode()
    with ghostzoo.load(bundle.path, engine="onnxruntime", threads=1) as classifier:
        expected = [each.score for each in classifier(_PHOTO)]
        plain = [each.score for each in classifier(_PHOTO, calibrated=False)]
    assert expected[0] - plain[0] > 0.01
    with file_server(tmp_path / "site") as site, running_server(f"--model={bundle.path}", "--no-grpc") as server:
        for url in (site, server.http):
            visit.open(url)
            for predictions in visit.page.evaluate(_ASK, picture):
                assert [each["score"] for each in predictions] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", RUNTIMES)
def test_each_runtime_answers_alone(visit: Visit, site_url: str, name: str, tags: Tags) -> None:
    if name not in runtimes():
        pytest.skip(f"{name} is not here; 'make web' brings it")
    visit.open(f"{site_url}?runtime={name}")
    visit.page.select_option("#model", "tags")
    visit.choose(tags.some)
    (answer,) = visit.answers()
    assert answer["title"] == f"{name} in this browser"
    assert answer["labels"] == [each.label for each in tags.expected]
    assert answer["scores"] == pytest.approx([100 * each.score for each in tags.expected], abs=0.06)
    fetched = [request for request in visit.requests if "/vendor/" in request or request.endswith(".wasm")]
    assert fetched
    assert all(("ghostzoo.wasm" in request) == (name == "ghostzoo-native") for request in fetched)
    assert visit.problems == visit.refused == []


@pytest.mark.parametrize("model", ["GhostNet_x0_5_cifar10", "tags"])
def test_a_damaged_model_is_one_sentence_for_each_runtime(visit: Visit, site_url: str, model: str) -> None:
    def damage(route: Any) -> None:
        content = route.fetch().body()
        route.fulfill(body=content[: len(content) // 2] if model == "tags" else b"no graph at all")

    visit.page.route("**/model.onnx", damage)
    visit.open(site_url)
    visit.page.select_option("#model", model)
    visit.choose(_PHOTO)
    (answer,) = visit.answers()
    assert answer["labels"] == []
    for runtime in runtimes():
        assert f"{runtime} cannot run the model in this browser (" in answer["line"]
    assert "unreachable" not in answer["line"]


def test_where_one_runtime_is_damaged_the_other_answers(visit: Visit, site_url: str) -> None:
    if len(runtimes()) < 2:
        pytest.skip(f"only {' '.join(runtimes())} is here; 'make web' brings both")
    visit.page.route("**/ghostzoo.wasm", lambda route: route.fulfill(body=b"no module"))
    visit.open(site_url)
    visit.choose(_PHOTO)
    (answer,) = visit.answers()
    assert answer["title"] == "onnxruntime-web in this browser"
    assert answer["labels"][0] == "cat"


def test_it_offers_the_same_as_the_server(visit: Visit, site_url: str, tags: Tags) -> None:
    visit.page.set_viewport_size({"width": 390, "height": 844})
    visit.open(site_url)
    visit.page.wait_for_selector("#class-list li")
    assert visit.page.locator("#class-list li").count() == 10
    visit.page.locator(".sample").first.click()
    (answer,) = visit.answers()
    assert answer["labels"][0] == "cat"
    assert visit.overflow() == []
    visit.page.select_option("#model", "tags")
    visit.page.get_by_text("The 7 classes that it knows").wait_for()
    visit.choose(tags.some, tags.none)
    visit.page.wait_for_selector("#save:enabled")
    shown = visit.page.locator("#rows .label").all_inner_texts()
    assert shown == [tags.expected[0].label, "no class reaches 50 %"]
    visit.choose(tags.some)
    (answer,) = visit.answers()
    assert answer["labels"] == [each.label for each in tags.expected]
    assert visit.problems == visit.refused == []


def test_a_browser_that_cannot_is_told_why(visit: Visit, site_url: str) -> None:
    visit.page.add_init_script("delete window.WebAssembly")
    visit.page.goto(site_url)
    visit.page.wait_for_selector("#notice", state="visible")
    assert visit.page.inner_text("#notice").startswith("The models cannot run here. WebAssembly is missing")
    assert not visit.page.is_visible("#pictures")
    assert visit.problems == visit.refused == []


def test_opened_as_a_file_it_says_what_it_needs(visit: Visit, runtime: None, tmp_path: Path) -> None:
    write_site(tmp_path / "site", [fetch()])
    visit.page.goto((tmp_path / "site" / "index.html").as_uri())
    visit.page.wait_for_selector("#notice", state="visible")
    assert "opened as a file it cannot work" in visit.page.inner_text("#notice")


def test_transparent_pixels_keep_their_colour(visit: Visit, site_url: str, tmp_path: Path) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (90, 120, 4), dtype=np.uint8)
    rgba = cv2.GaussianBlur(rgba, (9, 9), 0)
    rgba[:, :60, 3] = 40
    file = tmp_path / "glass.png"
    cv2.imwrite(str(file), rgba)
    visit.open(site_url)
    visit.choose(file)
    (answer,) = visit.answers()
    with ghostzoo.load(engine="onnxruntime", threads=1) as classifier:
        expected = classifier(file)
    assert answer["scores"] == pytest.approx([100 * prediction.score for prediction in expected], abs=0.06)


def test_a_text_file_is_one_clear_sentence(visit: Visit, site_url: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    visit.open(site_url)
    visit.choose(tmp_path / "notes.txt")
    (answer,) = visit.answers()
    assert answer["labels"] == []
    assert "cannot decode it" in answer["line"]


def test_a_site_replaces_nothing_else(tmp_path: Path, tiny_bundle: Bundle) -> None:
    out = tmp_path / "site"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"exists and is not such a site|make web"):
        write_site(out, [fetch()], overwrite=True)
    assert (out / "thesis.txt").read_text() == "mine"


def test_it_shows_why_without_a_server(visit: Visit, site_url: str) -> None:
    visit.open(site_url)
    visit.choose(_PHOTO)
    visit.answers()
    visit.page.click("#why")
    visit.page.wait_for_selector("#map", state="visible")
    assert "cat rather than automobile" in visit.page.inner_text("#why-text")
    assert visit.problems == visit.refused == []
    assert all(request.startswith((site_url, "blob:")) for request in visit.requests)


def test_it_is_taught_and_what_it_learnt_is_downloaded(visit: Visit, site_url: str, tmp_path: Path) -> None:
    for colour in ("red", "blue"):
        for seed in range(5):
            write_picture(tmp_path / colour / f"{seed}.png", colour, seed)
    visit.open(site_url)
    visit.page.get_by_text("Teach it classes of your own").click()
    for place, colour in enumerate(("red", "blue")):
        row = visit.page.locator("#taught li").nth(place)
        row.locator("input[type=text]").fill(colour)
        row.locator("input[type=file]").set_input_files(sorted((tmp_path / colour).iterdir()))
        row.get_by_text("5 pictures").wait_for()
        visit.page.wait_for_function("() => !document.querySelector('#teach-state').textContent.includes('Looking')")
    visit.page.wait_for_selector("#save-model:enabled")
    assert "Of 10 pictures, 10 (100 %) are recognised" in visit.page.inner_text("#teach-state")
    write_picture(tmp_path / "new.png", "blue", 77)
    visit.page.set_input_files("#try-file", tmp_path / "new.png")
    visit.page.wait_for_selector("#trial-bars li")
    assert visit.page.locator("#trial-bars .label").first.inner_text() == "blue"

    visit.page.click("#try-live")
    visit.page.wait_for_function("() => document.querySelector('#live').videoWidth > 0")
    visit.page.click("#try-live")
    assert not visit.page.is_visible("#live")

    with visit.page.expect_download() as download:
        visit.page.click("#save-model")
    with zipfile.ZipFile(download.value.path()) as archive:
        archive.extractall(tmp_path)
    with ghostzoo.load(tmp_path / "mine", engine="onnxruntime", threads=1) as classifier:
        assert classifier.self_check().within(EXACT_TOLERANCE)
        assert classifier(tmp_path / "new.png")[0].label == "blue"

    visit.page.locator("#taught .strip img").first.click()
    visit.page.get_by_text("4 pictures").wait_for()
    (tmp_path / "notes.png").write_text("no picture")
    visit.page.locator("#taught li").first.locator("input[type=file]").set_input_files(tmp_path / "notes.png")
    visit.page.get_by_text("1 of 1 cannot be read. notes.png").wait_for()
    visit.page.locator("#taught .remove").first.click()
    visit.page.get_by_text("It takes at least two classes.").wait_for()
    assert visit.page.is_disabled("#save-model")
    visit.page.set_viewport_size({"width": 390, "height": 844})
    assert visit.overflow() == []
    assert visit.problems == visit.refused == []
    assert all(request.startswith((site_url, "blob:")) for request in visit.requests)
