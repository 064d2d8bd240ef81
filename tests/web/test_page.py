"""The server's page in a real browser, as its user sees it."""

from __future__ import annotations

import base64
import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ghostzoo
from ghostzoo.bundle.folder import Bundle
from ghostzoo.catalog import DEFAULT_MODEL
from ghostzoo.converter import convert
from ghostzoo.fetch.resolver import fetch
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.labels import imagenet_labels
from ghostzoo.names import named
from ghostzoo.network.architecture import Architecture
from ghostzoo.serve.page_files import PAGE
from tests.fixtures.networks import random_arrays, write_weights
from tests.fixtures.serving import COMMAND, ServerProcess, running_server
from tests.web.conftest import Tags, Visit

pytestmark = pytest.mark.slow

_PHOTO = Path(__file__).parents[2] / "examples" / "chelsea.png"
_KEY = "a-key-that-only-this-test-knows"

_PASTE = """bytes => {
  const data = new DataTransfer();
  data.items.add(new File([Uint8Array.from(atob(bytes), c => c.charCodeAt(0))], "pasted.png", {type: "image/png"}));
  document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
}"""
_DROP = _PASTE.replace('ClipboardEvent("paste", {clipboardData: data', 'DragEvent("drop", {dataTransfer: data')


_PLACES = [(10, 10), (225, 240), (110, 60), (320, 60)]
_PIXELS = f"""() => {{
  const canvas = document.querySelector("#map");
  const colour = ([x, y]) => [...canvas.getContext("2d").getImageData(x, y, 1, 1).data].slice(0, 3);
  return {{ size: [canvas.width, canvas.height], colours: {[list(each) for each in _PLACES]}.map(colour) }};
}}"""


@pytest.fixture(scope="module")
def server(chromium: Any, runtime: None, tags: Tags, imagenet: Bundle) -> Iterator[ServerProcess]:
    pytest.importorskip("fastapi")
    models = (DEFAULT_MODEL, imagenet.path, tags.bundle.path)
    with running_server(*(f"--model={model}" for model in models), "--no-grpc") as process:
        yield process


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A narrow network with ImageNet's classes."""
    folder = tmp_path_factory.mktemp("imagenet")
    weights = write_weights(folder / "narrow.pdparams", random_arrays(Architecture.of(0.25, 1000)))
    return convert(weights, folder / "narrow", name="narrow", preprocessing=Preprocessing(72, 64))


def test_server_and_browser_agree_and_nothing_else_is_asked(visit: Visit, server: ServerProcess) -> None:
    visit.open(server.http)
    visit.page.check("#in-browser")
    visit.choose(_PHOTO)
    ours, browser = visit.answers(2)
    verdict = visit.page.wait_for_selector("#verdict").inner_text()
    assert "agree" in verdict
    assert len(ours["labels"]) == 5
    assert browser["labels"] == ours["labels"]
    assert browser["scores"] == pytest.approx(ours["scores"], abs=0.11)  # percent, shown with one decimal
    assert "inference" in ours["line"]
    assert "decode" in browser["line"]
    assert visit.problems == visit.refused == []
    assert all(request.startswith((server.http, "blob:")) for request in visit.requests)


@pytest.mark.parametrize("gesture", [_PASTE, _DROP], ids=["paste", "drop"])
def test_a_picture_is_pasted_or_dropped(visit: Visit, server: ServerProcess, gesture: str) -> None:
    visit.open(server.http)
    visit.page.evaluate(gesture, base64.b64encode(_PHOTO.read_bytes()).decode())
    (answer,) = visit.answers()
    assert len(answer["labels"]) == 5
    assert visit.page.inner_text("#picture-name") == "pasted.png"


def test_a_picture_is_taken(visit: Visit, server: ServerProcess) -> None:
    visit.open(server.http)
    visit.page.click("#take")
    visit.page.wait_for_function("() => document.querySelector('#viewfinder').videoWidth > 0")
    visit.page.click("#shoot")
    (answer,) = visit.answers()
    assert len(answer["labels"]) == 5


def test_a_text_file_is_one_clear_sentence(visit: Visit, server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    visit.open(server.http)
    visit.choose(tmp_path / "notes.txt")
    (answer,) = visit.answers()
    assert answer["labels"] == []
    assert "image" in answer["line"]


def test_many_files_become_a_table_and_a_csv_file(visit: Visit, server: ServerProcess, tmp_path: Path) -> None:
    names = ["a.png", 'odd "name", x.png', "notes.txt", "b.png"]
    for name in names:
        (tmp_path / name).write_bytes(b"no picture" if name == "notes.txt" else _PHOTO.read_bytes())
    visit.open(server.http)
    visit.choose(*(tmp_path / name for name in names))
    visit.page.wait_for_selector("#save:enabled")
    assert "4 of 4, 1 without an answer" in visit.page.inner_text("#progress-text")
    with visit.page.expect_download() as download:
        visit.page.click("#save")
    rows = list(csv.DictReader(Path(download.value.path()).read_text(encoding="utf-8").splitlines()))
    assert [row["image"] for row in rows if row["rank"] in ("1", "")] == names
    assert [row["image"] for row in rows if row["error"]] == ["notes.txt"]
    assert len(rows) == 3 * 5 + 1
    best = [float(row["score"]) for row in rows if row["rank"] == "1"]
    assert all(0 < score <= 1 for score in best)
    thumbnails = "#rows .thumbnail img"
    visit.page.wait_for_function(
        f"() => [...document.querySelectorAll('{thumbnails}')].filter(each => each.naturalWidth > 0).length === 3"
    )
    cells = visit.page.query_selector_all("#rows tr")
    assert [cell.query_selector("img") is not None for cell in cells] == [name != "notes.txt" for name in names]


def test_the_page_works_from_the_keyboard(visit: Visit, server: ServerProcess) -> None:
    visit.open(server.http)
    # Noted in the page itself: a chooser of the system's own that opens too early is never seen by the driver.
    visit.page.evaluate(
        "() => document.querySelector('#files').addEventListener('click', event => {"
        " event.preventDefault(); document.body.dataset.asked = 'yes'; })"
    )
    visit.page.locator("#choose").press("Enter")
    visit.page.wait_for_selector("body[data-asked=yes]")
    visit.choose(_PHOTO)
    (answer,) = visit.answers()
    assert len(answer["labels"]) == 5


def test_a_server_with_a_key_is_asked_with_it(visit: Visit, runtime: None, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    (tmp_path / "key").write_text(_KEY)
    with running_server("--model", DEFAULT_MODEL, "--no-grpc", "--api-key-file", str(tmp_path / "key")) as server:
        visit.page.goto(server.http)
        visit.page.wait_for_selector("#key", state="visible")
        visit.page.fill("#key", _KEY)
        visit.page.keyboard.press("Tab")
        visit.page.wait_for_selector("#model option", state="attached")
        visit.page.check("#in-browser")
        visit.choose(_PHOTO)
        visit.answers(2)
        assert "agree" in visit.page.wait_for_selector("#verdict").inner_text()


def test_it_lists_the_classes_that_the_model_knows(visit: Visit, server: ServerProcess) -> None:
    visit.open(server.http)
    visit.page.wait_for_selector("#class-list li")
    with ghostzoo.load(engine="onnxruntime") as classifier:
        expected = [label.label for label in classifier.bundle.labels]
    assert visit.page.locator("#class-list li").all_inner_texts() == expected
    assert visit.page.inner_text("#classes-title") == "The 10 classes that it knows"
    assert not visit.page.is_visible("#class-search")

    visit.page.select_option("#model", "narrow")
    visit.page.get_by_text("The 1,000 classes that it knows").click()
    visit.page.fill("#class-search", "tabby")
    visit.page.wait_for_function("() => document.querySelectorAll('#class-list li').length === 1")
    assert visit.page.inner_text("#class-list li") == "tabby, tabby cat"
    visit.page.fill("#class-search", "")
    visit.page.wait_for_function("() => document.querySelectorAll('#class-list li').length === 1000")
    labels = [label.label for label in imagenet_labels()]
    assert visit.page.locator("#class-list li").all_inner_texts() == labels


def test_names_are_chosen_change_what_is_shown_and_stay(visit: Visit, server: ServerProcess, tmp_path: Path) -> None:
    visit.open(server.http)
    visit.page.check("#in-browser")
    visit.choose(_PHOTO)
    ours, _ = visit.answers(2)
    visit.page.select_option("#names", "zh")
    chinese = [each.label for each in named(fetch(DEFAULT_MODEL).labels, "zh")]
    visit.page.wait_for_function("() => document.querySelector('#class-list li').textContent === '飞机'")
    assert visit.page.locator("#class-list li").all_inner_texts() == chinese
    own = [each.label for each in fetch(DEFAULT_MODEL).labels]
    expected = [chinese[own.index(label)] for label in ours["labels"]]
    assert [each["labels"] for each in visit.answers(2)] == [expected, expected]
    assert ours["scores"] == visit.answers(2)[0]["scores"]

    visit.open(server.http)  # the choice is kept
    visit.page.select_option("#model", "narrow")
    visit.page.get_by_text("The 1,000 classes that it knows").click()
    visit.page.fill("#class-search", "起重机")
    visit.page.wait_for_function("() => document.querySelectorAll('#class-list li').length === 1")
    visit.page.select_option("#names", "en")
    visit.page.fill("#class-search", "crane")
    visit.page.wait_for_function("() => document.querySelectorAll('#class-list li').length === 2")
    assert visit.page.locator("#class-list li").all_inner_texts() == ["crane (bird)", "crane (machine)"]

    (tmp_path / "a.png").write_bytes(_PHOTO.read_bytes())
    visit.choose(_PHOTO, tmp_path / "a.png")
    visit.page.wait_for_selector("#save:enabled")
    visit.page.select_option("#names", "zh")
    zh = {each.label for each in named(imagenet_labels(), "zh")}
    visit.page.wait_for_function("() => /[\u4e00-\u9fff]/.test(document.querySelector('#rows .label').textContent)")
    assert set(visit.page.locator("#rows .label").all_inner_texts()) <= zh
    with visit.page.expect_download() as download:
        visit.page.click("#save")
    rows = list(csv.DictReader(Path(download.value.path()).read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 10
    assert {row["label"] for row in rows} <= zh
    visit.page.select_option("#model", "tags")
    visit.page.wait_for_selector("#names-choice", state="hidden")
    assert visit.problems == visit.refused == []


def test_the_server_s_language_does_not_reach_the_page(chromium: Any, server: ServerProcess) -> None:
    context = chromium.new_context(locale="zh-CN")
    visit = Visit(context.new_page())
    visit.open(server.http)
    assert visit.page.input_value("#names") == "zh"
    visit.page.select_option("#names", "own")
    visit.choose(_PHOTO)
    (answer,) = visit.answers()
    assert answer["labels"][0] == "cat"
    context.close()


def test_a_sample_picture_is_classified_by_a_click(visit: Visit, server: ServerProcess) -> None:
    visit.open(server.http)
    visit.page.wait_for_selector(".unknown:visible")
    samples = visit.page.locator(".sample").all_inner_texts()
    assert [text.split("\n") for text in samples] == [
        ["cat"],
        ["cup of coffee", "not one of its classes"],
        ["rocket", "not one of its classes"],
    ]
    visit.page.check("#in-browser")
    for position, name in enumerate(("cat.jpg", "coffee.jpg", "rocket.jpg")):
        visit.page.locator(".sample").nth(position).click()
        visit.page.get_by_text(name, exact=True).wait_for()
        ours, browser = visit.answers(2)
        assert "agree" in visit.page.wait_for_selector("#verdict").inner_text()
        with ghostzoo.load(engine="onnxruntime") as classifier:
            expected = classifier(PAGE / "samples" / name)
        assert ours["labels"] == browser["labels"] == [each.label for each in expected]
    visit.page.select_option("#model", "narrow")
    visit.page.wait_for_selector(".unknown:visible", state="hidden")  # of all of them
    assert visit.problems == visit.refused == []


def test_it_fits_a_telephone(visit: Visit, server: ServerProcess, tmp_path: Path) -> None:
    visit.page.set_viewport_size({"width": 390, "height": 844})
    visit.open(server.http)
    visit.page.wait_for_selector("#class-list li")
    assert visit.overflow() == []
    visit.page.check("#in-browser")
    visit.page.locator(".sample").first.click()
    visit.page.wait_for_selector("#verdict")
    assert visit.overflow() == []
    visit.page.wait_for_function("() => document.querySelector('#picture').getBoundingClientRect().top < 400")
    visit.page.select_option("#model", "narrow")
    visit.page.get_by_text("The 1,000 classes that it knows").click()
    visit.page.wait_for_selector("#class-list li")
    names = ["a-long-name-without-a-space-as-cameras-and-people-make-them-" + 10 * "x" + ".png", "b.png", "notes.txt"]
    for name in names:
        (tmp_path / name).write_bytes(b"no picture" if name == "notes.txt" else _PHOTO.read_bytes())
    visit.choose(*(tmp_path / name for name in names))
    visit.page.wait_for_selector("#save:enabled")
    assert visit.overflow() == []


def test_a_multi_label_model_names_all_or_none(visit: Visit, server: ServerProcess, tags: Tags) -> None:
    visit.open(server.http)
    visit.page.select_option("#model", "tags")
    visit.page.check("#in-browser")
    visit.choose(tags.some)
    for answer in visit.answers(2):
        assert answer["labels"] == [each.label for each in tags.expected]
        assert answer["scores"] == pytest.approx([100 * each.score for each in tags.expected], abs=0.06)
    assert "agree" in visit.page.wait_for_selector("#verdict").inner_text()

    visit.choose(tags.none)
    visit.page.get_by_text(tags.none.name).wait_for()
    assert [answer["labels"] for answer in visit.answers(2)] == [[], []]
    assert visit.page.locator(".nothing").all_inner_texts() == ["Here no class reaches 50 %."] * 2
    assert "agree" in visit.page.wait_for_selector("#verdict").inner_text()

    visit.choose(tags.some, tags.none)
    visit.page.wait_for_selector("#save:enabled")
    shown = visit.page.locator("#rows .label").all_inner_texts()
    assert shown == [tags.expected[0].label, "no class reaches 50 %"]
    with visit.page.expect_download() as download:
        visit.page.click("#save")
    rows = list(csv.DictReader(Path(download.value.path()).read_text(encoding="utf-8").splitlines()))
    assert [row["label"] for row in rows] == [*(each.label for each in tags.expected), ""]
    assert visit.problems == visit.refused == []


@pytest.fixture(scope="module")
def without_runtime(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of a package without what runs models in a browser."""
    pytest.importorskip("fastapi")
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(
        PAGE.parents[1], folder / "ghostzoo", ignore=shutil.ignore_patterns("vendor", "*.wasm", "__pycache__")
    )
    # -P, or the working folder's package would be taken.
    with running_server("--no-grpc", env={"PYTHONPATH": str(folder)}, program=("-P", *COMMAND)) as process:
        yield process


def test_without_a_runtime_it_says_how_to_get_one(visit: Visit, without_runtime: ServerProcess) -> None:
    visit.open(without_runtime.http)
    words = visit.page.inner_text("#obstacle")
    assert "cannot also run in this browser. Neither ghostzoo-native nor onnxruntime-web" in words
    assert "make web" in words
    assert visit.page.is_disabled("#in-browser")
    visit.choose(_PHOTO)
    (answer,) = visit.answers()
    assert answer["labels"][0] == "cat"
    assert visit.problems == visit.refused == []
    assert not any("vendor" in request or request.endswith(".wasm") for request in visit.requests)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("delete window.WebAssembly", "WebAssembly is missing or switched off"),
        ("WebAssembly.validate = () => false", "no SIMD"),
        ("delete window.OffscreenCanvas", "cannot decode pictures"),
        ("window.Worker = class { terminate() {} }", "starts no module workers"),
    ],
)
def test_a_browser_that_cannot_is_told_why(visit: Visit, server: ServerProcess, damage: str, words: str) -> None:
    visit.page.add_init_script(damage)
    visit.open(server.http)
    assert words in visit.page.inner_text("#obstacle")
    assert visit.page.is_disabled("#in-browser")
    visit.choose(_PHOTO)
    (answer,) = visit.answers()
    assert answer["labels"][0] == "cat"
    assert visit.problems == visit.refused == []


def test_it_shows_why(visit: Visit, server: ServerProcess) -> None:
    visit.open(server.http)
    visit.choose(_PHOTO)
    visit.answers()
    visit.page.click("#why")
    visit.page.wait_for_selector("#map", state="visible")
    assert visit.page.inner_text("#why-text").startswith(
        "Red places speak for cat rather than automobile, blue ones against"
    )
    drawn = visit.page.evaluate(_PIXELS)
    with ghostzoo.load(engine="onnxruntime", threads=1) as classifier:
        best, other = (each.index for each in classifier(_PHOTO)[:2])
        expected = classifier.explain(_PHOTO, best, other).overlay(_PHOTO)
    assert drawn["size"] == [expected.shape[1], expected.shape[0]]
    for (x, y), colour in zip(_PLACES, drawn["colours"], strict=True):
        assert colour == pytest.approx(expected[y, x].tolist(), abs=40), (x, y)  # browsers smooth otherwise
    visit.page.click("#why")
    visit.page.wait_for_selector("#picture", state="visible")
    assert visit.problems == visit.refused == []
