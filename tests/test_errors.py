"""Errors as their user meets them: a process's exit status and one sentence, the cause first."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ghostzoo
from ghostzoo._utils.hardware import MOST_THREADS_PER_CPU, has_nvidia_gpu
from ghostzoo.catalog import list_models
from ghostzoo.engines import EngineRecord, devices, engine_names
from ghostzoo.errors import GhostZooError, InputError, OptionError, nearest
from ghostzoo.fetch.store import Store

pytestmark = pytest.mark.slow

PHOTO = Path(__file__).parents[1] / "examples" / "chelsea.png"
TOO_MANY = MOST_THREADS_PER_CPU * (os.cpu_count() or 1) + 1


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    options = {"capture_output": True, "env": {**os.environ, "GHOSTZOO_ENGINE": ""}, **options}
    return subprocess.run(  # type: ignore[call-overload]
        [sys.executable, "-m", "ghostzoo", *map(str, arguments)], text=True, encoding="utf-8", timeout=120, **options
    )


def error_of(*arguments: object, status: int = 1, **options: object) -> str:
    """Run a command that must fail; return its error, which must be its only line besides those of wrong usage."""
    result = run(*arguments, **options)
    assert result.returncode == status, result.stderr
    lines = result.stderr.splitlines()
    assert [line.startswith("Error: ") for line in lines].count(True) == 1, result.stderr
    assert status == 2 or len(lines) == 1, result.stderr
    return lines[-1].removeprefix("Error: ")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--precision", "fp16"], "GhostNet_x0_5_cifar10 has no fp16 graph, only fp32; take fp32, or ask"),
        (["--precision", "float16"], "There is no precision 'float16'. Did you mean fp16?"),
        (["--engine", "ncnn"], "GhostNet_x0_5_cifar10 has no files for ncnn, only for engines that read ONNX; take"),
        (["--engine", "onnx"], "There is no engine named 'onnx'. Did you mean onnxruntime?"),
        (["--device", "cupu"], "There is no device 'cupu'. Did you mean cpu?"),
        (["--device", "coreml" if sys.platform != "darwin" else "dml"], "cannot be used: it is for "),
        (["--threads", TOO_MANY], f"threads={TOO_MANY} is too many for "),
        (["--model", "GhostNet_x1_O"], "Did you mean GhostNet_x1_0?"),
    ],
)
def test_what_cannot_be_given_has_one_cause(options: list[object], sentence: str) -> None:
    error = error_of("predict", PHOTO, *options)
    assert sentence in error
    assert "install" not in error
    assert "exporters" not in error


@pytest.mark.skipif(has_nvidia_gpu(), reason="this machine has an NVIDIA GPU")
@pytest.mark.parametrize("options", [["--device", "cuda:0"], ["--device", "cuda:0", "--engine", "onnxruntime"]])
def test_a_missing_gpu_is_named(options: list[str]) -> None:
    error = error_of("predict", PHOTO, *options)
    assert error == "Device 'cuda:0' cannot be used: no NVIDIA GPU was found on this machine. Use cpu."


@pytest.mark.parametrize(
    ("device", "found", "sentence"),
    [
        ("rocm", ["cpu"], "here. It takes a build of ONNX Runtime that has it. Or use cpu."),
        ("cuda:7", ["cpu", "cuda:0"], "There is no device 'cuda:7' on this machine; use cpu or cuda:0."),
        ("cuda", ["cpu"], "Run 'pip uninstall onnxruntime' and then 'pip install onnxruntime-gpu'. Or use cpu."),
        ("AUTO", ["cpu"], "It is for the engine openvino; name that too. Or use cpu."),
    ],
)
def test_a_device_that_is_not_found_says_what_helps(
    device: str, found: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "has_nvidia_gpu", lambda: True)
    monkeypatch.setattr(devices, "installation_conflict", lambda: None)
    monkeypatch.setattr(EngineRecord, "versions", lambda self: {"onnxruntime": "1"})
    assert str(devices.missing_device(device, found)).endswith(sentence)


@pytest.mark.parametrize(
    ("name", "known", "sentence"),
    [
        ("ghostnet-x1.0", list_models(), "Did you mean GhostNet_x1_0?"),
        ("GhostNet_xl_3", list_models(), "Did you mean GhostNet_x1_3?"),
        ("TRT", engine_names(), "Did you mean tensorrt?"),
        ("open-vino", engine_names(), "Did you mean openvino?"),
        ("resnet", ["a", "b"], "Known: a, b."),
    ],
)
def test_what_was_meant_is_found(name: str, known: list[str], sentence: str) -> None:
    assert nearest(name, known, {"trt": "tensorrt"}) == sentence


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["predict", PHOTO, "--json", "--csv"], "--json and --csv exclude each other; give one of them."),
        (["predict", PHOTO, "--top-k", "1", "--top-k", "5"], "--top-k is given 2 times; give it once."),
        (["serve", "--page", "--no-page"], "--page and --no-page exclude each other; give one of them."),
        (["serve", "--url-port", "8080"], "--url-port needs --allow-urls; give both, or neither."),
        (
            ["serve", "--no-grpc", "--grpc-port", "1"],
            "--grpc-port and --no-grpc exclude each other; leave one of them out.",
        ),
        (
            ["serve", "--no-decode-processes", "--decode-timeout", "1"],
            "--no-decode-processes exclude each other; leave one of them out.",
        ),
        (["preditc", PHOTO], "There is no command 'preditc'. Did you mean predict?"),
        (["cache", "lst"], "There is no command 'lst'. Did you mean list?"),
        (
            ["eval", "--data", "https://example.com/a.tar"],
            "begins with https://; give a path on this machine.",
        ),
        (["cache", "list", "--cache-dir", ""], "It is an empty name; give a path on this machine."),
    ],
)
def test_wrong_usage_is_named(arguments: list[object], sentence: str) -> None:
    assert error_of(*arguments, status=2).endswith(sentence)


def test_the_maintainers_commands_are_as_strict() -> None:
    words = ["quantize", "x", "--calibration", "y", "--to", "int8", "--to", "fp16"]
    command = [sys.executable, "-m", "exporters", *words]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=120)
    assert result.returncode == 2
    assert result.stderr.endswith("Error: --to is given 2 times; give it once.\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["serve", "--host", "300.1.1.1"], "Cannot listen on '300.1.1.1', which is neither an address nor a name that"),
        (["serve", "--cors-origin", "foo"], "'foo' is not an origin; write https://page.example or"),
        (["info", ""], "The model's name is empty; 'ghostzoo list' shows names."),
        (["info", "ftp://x/y"], "No model is fetched from a URL that begins with ftp://; give a name, a folder, or"),
        (["info", "https://huggingface.co/a/b"], "a URL that begins with https://; write hf://a/b."),
        (["info", "GhostNet_x1_0", "--endpoint", ""], "The Hub's endpoint must begin with http:// or https://, not ''"),
        (["cache", "list", "--cache-dir", PHOTO], f"cache_dir must be a folder, and {PHOTO} is a file."),
    ],
)
def test_what_cannot_be_used_has_a_sentence_of_its_own(arguments: list[object], sentence: str) -> None:
    assert sentence in error_of(*arguments)


def test_what_is_no_file_is_said_for_each_image() -> None:
    names = ["ftp://me:secret@example.com/a.jpg", "", f"file://{PHOTO}", "s3://bucket/*.png"]
    result = run("predict", *names, PHOTO, "--json")
    assert result.returncode == 1
    assert "secret" not in result.stdout + result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row.get("error") for row in rows] == [
        "it is a URL that begins with ftp://; give the path of a file, or an http or https URL",
        "it is an empty name; give the path of a file, or an http or https URL",
        f"it is a file: URL; give the path alone, {PHOTO}",
        "it is a URL that begins with s3://; give the path of a file, or an http or https URL",
        None,
    ]


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_stdin_is_an_image(name: str) -> None:
    """A pipe, as after ``curl``, and a file, as after ``<``."""
    expected = json.loads(run("predict", PHOTO, "--json").stdout)["predictions"]
    with PHOTO.open("rb") as file:
        from_file = run("predict", name, "--json", stdin=file)
    piped = subprocess.run(
        [sys.executable, "-m", "ghostzoo", "predict", name, "--json"], input=PHOTO.read_bytes(), capture_output=True
    )
    for output in (from_file.stdout, piped.stdout):
        assert json.loads(output) == {"image": "<stdin>", "predictions": expected}


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="this system has no /dev/fd")
def test_an_open_pipe_is_an_image() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"not an image")
    os.close(writer)
    result = run("predict", f"/dev/fd/{reader}", pass_fds=(reader,))
    os.close(reader)
    assert "it is not an image" in result.stderr


def test_a_file_is_classified_once(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(PHOTO.read_bytes())
    names = ["a.png", "./a.png", tmp_path, "*.png", tmp_path / "b.png"]
    rows = [json.loads(line) for line in run("predict", *names, "--json", cwd=tmp_path).stdout.splitlines()]
    assert [row["image"] for row in rows] == ["a.png", str(tmp_path / "b.png")]


START = """
import sys
from ghostzoo.__main__ import main

class Started:
    "Says so once the command runs; an interrupt before it is Python's own."

    def find_spec(self, name, path=None, target=None):
        if name == "ghostzoo.cli":
            sys.meta_path.remove(self)
            print("started", flush=True)

sys.meta_path.insert(0, Started())
main()
"""


@pytest.fixture(scope="module")
def many_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of more photographs than many CPUs read within seconds."""
    path = tmp_path_factory.mktemp("many") / "list.txt"
    path.write_text(f"{PHOTO} 0\n" * 100_000, encoding="utf-8")
    return path


@pytest.mark.skipif(os.name == "nt", reason="signals are a POSIX facility")
@pytest.mark.parametrize(
    "arguments",
    [["predict", "-"], ["bench", "--seconds", "60"], ["pull", "owner/name"], ["eval", "--data", "{many_photos}"]],
)
@pytest.mark.parametrize("seconds", [0, 0.5, 2.5])
def test_an_interrupt_is_one_line_and_status_130(arguments: list[str], seconds: float, many_photos: Path) -> None:
    words = [word.format(many_photos=many_photos) for word in arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", START, *words], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == b"Interrupted."
    assert b"Traceback" not in stderr
    assert b"Aborted" not in stderr


@pytest.mark.skipif(os.name == "nt", reason="it is written for a POSIX shell")
@pytest.mark.parametrize("redirection", [">&-", "| true", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize("words", ["list", "predict {photo} --json", "--help", "info GhostNet_x1_0"])
def test_a_closed_stream_is_no_error(redirection: str, words: str) -> None:
    command = f"{sys.executable} -m ghostzoo {words.format(photo=PHOTO)} {redirection}"
    result = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0
    assert [line for line in result.stderr.splitlines() if not line.startswith("Using the bundled")] == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["bench", "--help"], ["cache", "--help"], ["list"]])
def test_a_full_disk_is_one_line_for_every_output(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        result = run(*arguments, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert result.returncode == 1
    cannot = "The output cannot be written: " if "--help" in arguments or "--version" in arguments else ""
    assert result.stderr == f"Error: {cannot}No space left on device.\n"


def test_a_weight_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    for name in ("some.pdparams", "ghostzoo.json", "other.bin"):
        (tmp_path / "w" / name).write_bytes(b"")
    error = error_of("info", "w/some.pdparams", cwd=tmp_path)
    assert error.startswith("w/some.pdparams is a weight file, and a model is the folder of a bundle; make one with ")
    assert "'ghostzoo convert --weights w/some.pdparams --model NAME --out FOLDER'" in error
    error = error_of("info", "w/ghostzoo.json", cwd=tmp_path)
    assert error == "w/ghostzoo.json is one file of a bundle; give its folder, w."
    assert error_of("info", "w/other.bin", cwd=tmp_path).startswith("w/other.bin is a file, and a model is the folder")


_PLACES = ("GHOSTZOO_CACHE", "GHOSTZOO_WEIGHTS_URL")
NO_HOME = """
import os, pwd, sys
pwd.getpwuid = lambda uid: (_ for _ in ()).throw(KeyError(uid))
from ghostzoo.cli import main
main()
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows asks for a home folder in another way")
def test_without_a_home_folder_only_the_cache_is_missing() -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("HOME", *_PLACES)}
    environment |= {"GHOSTZOO_ENGINE": ""}

    def command(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", NO_HOME, *map(str, arguments)]
        return subprocess.run(words, capture_output=True, text=True, env=environment, timeout=120)

    result = command("predict", PHOTO, "--json")
    assert (result.returncode, json.loads(result.stdout)["predictions"][0]["label"]) == (0, "cat")
    for arguments in (["cache", "list"], ["pull", "GhostNet_x1_0"]):
        result = command(*arguments)
        assert result.returncode == 1
        assert result.stderr.startswith("Error: There is no home folder to keep models in; name a folder with ")
        assert result.stderr.count("\n") == 1
    result = command("cache", "list", "--cache-dir", "~/models")
    assert result.stderr.startswith("Error: cache_dir is ~/models, and there is no such home folder")


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.EROFS, "name another folder"), (errno.ENOSPC, "free some space there, or name another folder")],
)
def test_a_cache_that_cannot_be_written_says_why(number: int, advice: str, tmp_path: Path) -> None:
    error = Store(tmp_path / "models").unwritable(OSError(number, os.strerror(number)))
    reason = f"{tmp_path / 'models'} cannot be written ({os.strerror(number)}); {advice} with --cache-dir,"
    assert str(error).startswith(reason)


def test_a_cache_in_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    environment = {key: value for key, value in os.environ.items() if key not in _PLACES}
    environment["GHOSTZOO_CACHE"] = str(tmp_path / "file")
    error = error_of("pull", "GhostNet_x1_0", env=environment)
    assert error.startswith(f"{tmp_path / 'file'} is a file, so no models can be kept in it; name another folder")


@pytest.mark.parametrize(
    "options",
    [
        {"model": 5},
        {"model": b"x"},
        {"limits": 5},
        {"engine": []},
        {"precision": 5},
        {"engine_options": 5},
        {"revision": 5},
        {"cache_dir": 5},
        {"offline": "yes"},
        {"endpoint": 5},
        {"token": 5},
        {"progress": 5},
        {"model": "x" * 5000},
        {"threads": TOO_MANY},
    ],
)
def test_an_argument_of_a_wrong_kind_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(GhostZooError) as caught:
        ghostzoo.load(**options)
    assert repr(next(iter(options.values())))[:20] in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda: ghostzoo.get_model([]),  # type: ignore[arg-type]
        lambda: ghostzoo.list_models(5),  # type: ignore[arg-type]
        lambda: ghostzoo.Bundle.open(5),  # type: ignore[arg-type]
        lambda: ghostzoo.convert(5, "out", name="x"),  # type: ignore[arg-type]
        lambda: ghostzoo.Preprocessing(crop_size="224"),  # type: ignore[arg-type]
    ],
)
def test_other_calls_refuse_a_wrong_kind_too(call: Callable[[], object]) -> None:
    with pytest.raises(GhostZooError):
        call()


def test_a_call_with_several_images_says_predict() -> None:
    with ghostzoo.load(engine="onnxruntime", threads=1) as clf:
        for images in ([PHOTO, PHOTO], PHOTO.parent, str(PHOTO.parent / "*.png")):
            with pytest.raises(InputError, match=r"a call takes one; use predict\(\) for several\."):
                clf(images)
        with pytest.raises(InputError, match="int is neither an image nor several"):
            clf(5)
        with pytest.raises(OptionError, match=r"workers=.* is too many"):
            clf.predict(PHOTO, workers=TOO_MANY)
