"""The npm package, packed and installed as its users do it, on Node.js and in Chromium."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import ghostzoo
from ghostzoo.bundle.folder import Bundle
from ghostzoo.fetch.resolver import fetch
from ghostzoo.images.decode import read_image
from ghostzoo.images.transform import preprocess
from ghostzoo.serve.page_files import PACKAGE
from tests.web.conftest import Tags

pytestmark = pytest.mark.slow

_ROOT = Path(__file__).parents[2]
_PHOTO = _ROOT / "examples" / "chelsea.png"
_PEERS = _ROOT / "tests" / "hub" / "node" / "node_modules"
_README = (PACKAGE / "README.md").read_text(encoding="utf-8")


def npm(folder: Path, *words: str | Path) -> str:
    program = shutil.which("npm")
    if program is None:
        pytest.skip("npm is not installed")
    # Offline: the package brings all that it needs.
    command = [program, *map(str, words), "--offline", "--no-audit", "--no-fund"]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def project(node: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the package, from its tarball, and the libraries of 'make peers' beside it."""
    if not (PACKAGE / "ghostzoo.wasm").is_file():
        pytest.skip("the package's WebAssembly is not built; 'make wasm' builds it")
    packed, folder = tmp_path_factory.mktemp("packed"), tmp_path_factory.mktemp("project")
    npm(PACKAGE, "pack", "--pack-destination", packed)
    (tarball,) = packed.glob("ghostzoo-*.tgz")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    npm(folder, "install", tarball)
    for name in ("onnxruntime-web", "onnxruntime-node", "sharp"):
        if (_PEERS / name).is_dir():
            (folder / "node_modules" / name).symlink_to(_PEERS / name)
    (folder / "models").mkdir()
    (folder / "models" / "GhostNet_x0_5_cifar10").symlink_to(fetch().path)
    shutil.copy(_PHOTO, folder / "photo.png")
    return folder


def run(node: str, project: Path, code: str, *arguments: str | Path) -> str:
    script = project / "script.mjs"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run([node, script, *map(str, arguments)], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def snippet(word: str) -> str:
    """The README's block of code that has the word."""
    (found,) = [block for block in re.findall(r"```js\n(.*?)```", _README, re.DOTALL) if word in block]
    return found


def needs(project: Path, *names: str) -> None:
    if missing := [name for name in names if not (project / "node_modules" / name).exists()]:
        pytest.skip(f"{', '.join(missing)} is not installed; 'make peers' brings it")


_ANSWERS = """
import { readFile, writeFile } from "node:fs/promises";
import * as ghostzoo from "ghostzoo";
const [folder, file, width, height, library] = process.argv.slice(2);
const engine = library === "native" ? ghostzoo.native : ghostzoo.onnxRuntime(await import(library));
const model = await ghostzoo.load(folder, { engine });
const picture = { data: new Uint8Array(await readFile(file)), width: Number(width), height: Number(height) };
await writeFile(`${file}.pixels`, await model.preprocess(picture));
const answer = { classes: await model.classify(picture), embedding: [...await model.embed(picture)] };
if (library !== "native") answer.why = await model.explain(picture, 3, { engine, against: 5 });
console.log(JSON.stringify(answer));
"""


def answers(node: str, project: Path, bundle: Bundle, photo: Path, library: str) -> dict[str, Any]:
    image = cv2.cvtColor(cv2.imread(str(photo)), cv2.COLOR_BGR2RGBA)
    (project / "photo.rgba").write_bytes(image.tobytes())
    height, width = image.shape[:2]
    printed = run(node, project, _ANSWERS, bundle.path, "photo.rgba", str(width), str(height), library)
    found: dict[str, Any] = json.loads(printed)
    return found


@pytest.mark.parametrize("library", ["native", "onnxruntime-web", "onnxruntime-node"])
def test_it_answers_as_python_on_node(node: str, project: Path, tags: Tags, library: str) -> None:
    if library != "native":
        needs(project, library)
    for bundle, photo in ((fetch(), _PHOTO), (tags.bundle, tags.some)):
        found = answers(node, project, bundle, photo, library)
        with ghostzoo.load(bundle.path, engine="onnxruntime", threads=1) as classifier:
            expected, why = classifier(photo), classifier.explain(photo, 3, against=5)
            embedding = classifier.embed([photo])[0]
        pixels = preprocess(read_image(photo), bundle.preprocessing)
        assert np.array_equal(np.fromfile(project / "photo.rgba.pixels", np.float32), pixels.ravel())
        assert [each["label"] for each in found["classes"]] == [each.label for each in expected]
        assert [each["score"] for each in found["classes"]] == pytest.approx(
            [each.score for each in expected], abs=1e-5
        )
        np.testing.assert_allclose(found["embedding"], embedding, rtol=1e-4, atol=1e-5)
        if library != "native":
            np.testing.assert_allclose(found["why"]["map"], why.map, rtol=1e-3, atol=1e-5)


def test_the_code_of_its_readme_runs_on_node(node: str, project: Path) -> None:
    needs(project, "sharp", "onnxruntime-web")
    with ghostzoo.load(engine="onnxruntime", threads=1) as classifier:
        expected = classifier(_PHOTO, top_k=3)
    printed = run(node, project, snippet("sharp"))
    assert printed == "".join(f"{each.label} {each.score:.3f}\n" for each in expected)
    assert run(node, project, snippet("onnxRuntime") + "\nconsole.log(model.labels[3].label);") == "cat\n"


def test_its_types_are_those_of_its_code(node: str, project: Path) -> None:
    compiler = _PEERS / "typescript" / "bin" / "tsc"
    if not compiler.is_file():
        pytest.skip("TypeScript is not installed; 'make peers' brings it")
    browser = snippet("fileInput").replace("fileInput", "(document.createElement('input') as any)")
    (project / "use.ts").write_text(
        browser + "const [{ label }] = await model.classify(new Blob());\n// @ts-expect-error: it is a string\n"
        "const index: number = label;\nexport { best, index };\n",
        encoding="utf-8",
    )
    options = ["--noEmit", "--strict", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom", "--types"]
    done = subprocess.run([node, compiler, *options, "", "use.ts"], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    types = (PACKAGE / "index.d.ts").read_text(encoding="utf-8")
    declared = set(re.findall(r"^export (?:function|const) (\w+)", types, re.MULTILINE))
    exported = run(node, project, "import * as all from 'ghostzoo';\nconsole.log(Object.keys(all).join(' '));")
    assert declared == set(exported.split())


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("load('nowhere')", "nowhere"),
        ("(await load('models/GhostNet_x0_5_cifar10')).classify({data: [1], width: 2, height: 2})", "no RGBA"),
        ("(await load('models/GhostNet_x0_5_cifar10')).classify(new Blob())", "nothing here decodes pictures"),
        ("native(new Uint8Array(9))", "graph ends in the middle"),
    ],
)
def test_what_it_cannot_do_is_one_sentence(node: str, project: Path, code: str, words: str) -> None:
    script = (
        "import { load, native } from 'ghostzoo';\ntry { await (%s); } catch (error) { console.log(error.message); }"
    )
    printed = run(node, project, script % code)
    assert words in printed
    assert printed.count("\n") == 1


def test_it_is_of_the_python_package_s_version() -> None:
    facts = json.loads((PACKAGE / "package.json").read_text(encoding="utf-8"))
    assert facts["version"] == ghostzoo.__version__
    assert (PACKAGE / "LICENSE").read_bytes() == (_ROOT / "LICENSE").read_bytes()


def test_it_works_in_a_browser_without_a_bundler(visit: Any, project: Path, site_url: str) -> None:
    """The site has the package's files in its folder ``ghostzoo``; here they are used without the page."""
    visit.open(site_url)
    found = visit.page.evaluate(
        "async () => { const { load } = await import('./ghostzoo/index.js');"
        " const model = await load('models/GhostNet_x0_5_cifar10');"
        " return model.classify(await (await fetch('samples/cat.jpg')).blob(), { topK: 2 }); }"
    )
    with ghostzoo.load(engine="onnxruntime", threads=1) as classifier:
        expected = classifier(PACKAGE.parent / "samples" / "cat.jpg", top_k=2)
    assert [(each["index"], each["label"]) for each in found] == [(each.index, each.label) for each in expected]
    assert [each["score"] for each in found] == pytest.approx([each.score for each in expected], abs=0.01)
