"""The environments of this checkout, and what runs in them; ``make`` calls it.

What an environment holds is listed in ``[dependency-groups]`` of ``pyproject.toml``; pip fills it, by pip's own
settings, such as an index or a folder of wheels. After a session has failed the others still run, and the last lines
say how each ended.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nox
from filelock import FileLock  # nox needs it, too

PROJECT = nox.project.load_toml("pyproject.toml")
PROGRAMS = "Scripts" if sys.platform == "win32" else "bin"
"""Folder of an environment's programs."""
AUDIT = ["zizmor", "--offline", "--quiet", ".github"]
"""What a workflow of GitHub's should not do."""
TYPES = [["mypy", "--platform", each, "--cache-dir", f".mypy_cache/{each}"] for each in ("linux", "darwin", "win32")]
"""What a system lacks, its stubs lack."""
FOLDERS = {"runtime": ".venv", "dev": ".venv"}
"""Group of dependencies -> folder of its environment, where that is not ``.venv-`` and the group's name."""
NEEDS_OLD_PYTHON = {"export", "interop"}
"""Groups with PaddlePaddle, which has wheels for Python 3.11 and 3.12 only."""
PARALLEL = ("--numprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder")
"""Also on two cores: half of the time is waiting, for processes to start and for deadlines to pass. Files are begun in
the order of ``tests/conftest.py``."""
HUB_TESTS = (
    "tests/fetch/test_hub.py",
    "tests/fetch/test_timm.py",
    "tests/hub/test_any_hub.py",
    "tests/hub/test_loopback_hub.py",
    "tests/hub/test_publish.py",
)
LOWEST_TOOLS = ("hypothesis", "httpx", "ml_dtypes", "packaging", "pillow", "pytest", "pyyaml", "sympy", "trustme")
"""What the tests need besides the package; older versions of it do not bring all of them."""
OPENCV = ("4.13.0.90", "4.13.0.92", "4.14.0.94", "5.0.0.93")
"""Each release from the lower bound on, so that none of them decodes otherwise."""
LICENCES = "Apache;BSD;ISC;MIT;MPL;Mozilla;PSF;Python Software Foundation"
"""What the server's libraries may be under: part of the licence's name."""
ELSEWHERE = ("--ignore", "tests/exporters", "--ignore", "tests/training")

nox.options.default_venv_backend = "none"  # sessions share environments, in folders that users know
nox.options.sessions = ["lint", "test"]


def find_python(group: str) -> str | None:
    """Return an interpreter to make a group's environment with, or None where this machine has none that fits."""
    if group not in NEEDS_OLD_PYTHON or sys.version_info < (3, 13):
        return sys.executable
    for name in ("python3.12", "python3.11"):
        try:
            if subprocess.run([name, "-c", ""], capture_output=True).returncode == 0:
                return name
        except FileNotFoundError:
            continue
    return None


def make_environment(session: nox.Session, group: str) -> str:
    """Make a group's environment where it is missing or out of date, and return its interpreter."""
    base = find_python(group)
    if base is None:
        session.skip("PaddlePaddle needs Python 3.11 or 3.12, and neither was found.")
    folder = Path(FOLDERS.get(group, f".venv-{group}"))
    python = folder.absolute() / PROGRAMS / "python"
    lines = nox.project.dependency_groups(PROJECT, group)
    of_checkout = [line for line in lines if re.match(r"ghostzoo\b", line)]
    requirements = [line for line in lines if line not in of_checkout]
    wanted = set(requirements)
    for line in of_checkout:
        requirements += ["--editable", line.replace("ghostzoo", ".", 1)]
        wanted.update(PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values())
    record = folder / "installed.json"
    with FileLock(f"{folder.name}.lock"):  # 'make environments' may be at it
        have = set(json.loads(record.read_text(encoding="utf-8"))) if record.exists() else set()
        if not python.exists():
            session.run(base, "-m", "venv", "--clear", str(folder))
            have = set()
        if not wanted <= have:
            session.run(str(python), "-m", "pip", "install", "--quiet", *requirements)
            if group == "dev":
                alone = nox.project.dependency_groups(PROJECT, "without-dependencies")
                session.run(str(python), "-m", "pip", "install", "--quiet", "--no-deps", *alone)
            record.write_text(json.dumps(sorted(wanted), indent=1), encoding="utf-8")
    return str(python)


@nox.session
def runtime(session: nox.Session) -> None:
    """Make .venv with what a user of the package gets."""
    make_environment(session, "runtime")


@nox.session
def dev(session: nox.Session) -> None:
    """Make .venv with all engines and the development tools."""
    make_environment(session, "dev")


@nox.session
def environments(session: nox.Session) -> None:
    """Make what ``make test-all`` needs beside ``.venv``, in the order in which it does."""
    for group in ("wasm", "interop", "train", "export"):
        if find_python(group) is not None:
            make_environment(session, group)


@nox.session
def release(session: nox.Session) -> None:
    """Make .venv-release, with the tools that lock and list versions and build the package."""
    make_environment(session, "release")


@nox.session
def native(session: nox.Session) -> None:
    """Build the native engine, test it, and install it into .venv."""
    python = make_environment(session, "dev")
    programs = Path(python).parent
    if shutil.which("c++") is None:
        session.skip("No C++ compiler was found, so the native engine is not built and its tests are skipped.")
    sources = sorted(path for path in Path("native").rglob("*") if path.is_file() and "build" not in path.parts)
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    record = programs.parent / "native.txt"
    if record.exists() and record.read_text(encoding="utf-8") == digest:
        return
    build = Path("native/build").absolute()
    wanted = ("BUILD_TESTS", "BUILD_PROGRAMS", "DECODERS")
    settings = [f"build-dir={build}", *(f"cmake.define.GHOSTZOO_{name}=ON" for name in wanted)]
    options = [word for setting in settings for word in ("-C", setting)]
    session.run(python, "-m", "pip", "install", "--quiet", "--no-build-isolation", *options, "./native/python")
    session.run(str(programs / "ctest"), "--test-dir", str(build), "--output-on-failure")
    record.write_text(digest, encoding="utf-8")


@nox.session
def wasm(session: nox.Session) -> None:
    """Build the native library as WebAssembly, for the web page and the npm package, with zig as the compiler."""
    programs = Path(make_environment(session, "wasm")).parent
    build, package = Path("native/build/wasm"), Path("ghostzoo/serve/page/ghostzoo")
    cmake, env = str(programs / "cmake"), {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    off = ("BUILD_SHARED_LIBS", *(f"GHOSTZOO_{name}" for name in ("DECODERS", "BUILD_PROGRAMS", "BUILD_TESTS")))
    options = ["-DZIG_TARGET=wasm32-wasi", *(f"-D{name}=OFF" for name in off)]
    toolchain = str(Path("native/cmake/zig.cmake").absolute())
    session.run(cmake, "-S", "native", "-B", str(build), "-G", "Ninja", "--toolchain", toolchain, *options, env=env)
    session.run(cmake, "--build", str(build), "--target", "ghostzoo-module", env=env)
    shutil.copy(build / "ghostzoo.wasm", package)
    # What zig links into it: its C library, and LLVM's C++ library, whose licence asks for no copy.
    (zig,) = programs.parent.glob("lib/*/site-packages/ziglang/lib")
    shutil.copy(zig / "libc/wasi/LICENSE-MIT", package / "wasi-libc-LICENSE.txt")


@nox.session
def lint(session: nox.Session) -> None:
    """ruff, mypy, the layers of imports, and what the workflows may do."""
    programs = Path(make_environment(session, "dev")).parent
    commands = (["ruff", "check", "."], ["ruff", "format", "--check", "."], *TYPES, ["lint-imports", "--no-cache"])
    for words in (*commands, AUDIT):
        session.run(str(programs / words[0]), *words[1:])


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation as a site, in site/. Fails on a broken link, an unknown name, and a page that is not listed."""
    python = make_environment(session, "docs")
    # The site's tool announces its own end on every run; https://zensical.org reads the same mkdocs.yml.
    session.run(python, "-m", "mkdocs", "build", "--strict", *session.posargs, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def pictures(session: nox.Session) -> None:
    """The pictures of the documentation, and what its notebook shows; or some, by their names."""
    python = make_environment(session, "pictures")
    session.run(python, "docs/images/make.py", *session.posargs)


@nox.session
def test(session: nox.Session) -> None:
    """The tests of the package with the light extras."""
    python = make_environment(session, "dev")
    session.run(python, "-m", "pytest", "tests", *ELSEWHERE, *PARALLEL, "-m", "not extra", *session.posargs)


@nox.session
def extra(session: nox.Session) -> None:
    """The slowest tests of the package."""
    python = make_environment(session, "dev")
    session.run(python, "-m", "pytest", "tests", *ELSEWHERE, *PARALLEL, "-m", "extra", *session.posargs)


@nox.session
def interop(session: nox.Session) -> None:
    """The server and published models with other projects' clients and libraries."""
    python, other = make_environment(session, "dev"), make_environment(session, "interop")
    names = {"GHOSTZOO_CLIENTS_PYTHON": other, "GHOSTZOO_OPTIMUM_PYTHON": other}
    files = ["tests/serve/test_clients.py", "tests/hub/test_optimum.py", "tests/test_triton.py"]
    files.append("tests/examples/test_kubernetes.py")
    session.run(python, "-m", "pytest", *files, *PARALLEL, env=names)


@nox.session
def examples(session: nox.Session) -> None:
    """The examples, with the libraries that they are for."""
    python = make_environment(session, "examples")
    session.run(python, "-m", "pytest", "tests/examples", "-p", "no:celery", *session.posargs)


@nox.session
def clusters(session: nox.Session) -> None:
    """Batch work with a bucket, and on clusters of Ray and Spark, on this machine; Spark's tests need Java."""
    python = make_environment(session, "clusters")
    session.run(python, "-m", "pytest", "tests/bulk", *session.posargs)


@nox.session
def hub1(session: nox.Session) -> None:
    """Fetching and publishing with the older line of the Hub's client."""
    python = make_environment(session, "train")
    session.run(python, "-m", "pytest", *HUB_TESTS, *PARALLEL)


@nox.session
def training(session: nox.Session) -> None:
    """The tests of training, with PyTorch."""
    names = {} if find_python("export") is None else {"GHOSTZOO_PADDLE_PYTHON": make_environment(session, "export")}
    python = make_environment(session, "train")
    session.run(python, "-m", "pytest", "tests/training", *PARALLEL, env=names)


@nox.session
def exporters(session: nox.Session) -> None:
    """The tests of the exporter and of Paddle's engine, with PaddlePaddle."""
    python = make_environment(session, "export")
    names = {
        "GHOSTZOO_RUNTIME_PYTHON": make_environment(session, "dev"),
        "GHOSTZOO_PADDLE2_PYTHON": make_environment(session, "interop"),
    }
    engine = ("tests/engines/test_contract.py", "tests/engines/test_multi_label.py")
    parts = ["tests/exporters", *engine, "-k", "exporters or paddle"]
    session.run(python, "-m", "pytest", *parts, *PARALLEL, env=names)


@nox.session
def timm(session: nox.Session) -> None:
    """The tests that hold graphs and training against timm's own networks."""
    python = make_environment(session, "timm")
    session.run(python, "-m", "pytest", "tests/timm", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """How much of the package its tests run, in their own and in their child processes."""
    python = make_environment(session, "dev")
    tool = [python, "-m", "coverage"]
    session.run(*tool, "erase")
    session.run(*tool, "run", "-m", "pytest", "tests", *ELSEWHERE, *PARALLEL, success_codes=[0, 1])
    session.run(*tool, "combine", "--quiet")
    session.run(*tool, "report", "--skip-covered", "--sort", "cover")


def make_other(session: nox.Session, folder: str) -> tuple[list[str], str]:
    """Make an empty environment; return uv's command to install into it, and its interpreter."""
    uv = str(Path(make_environment(session, "release")).with_name("uv"))
    python = str(Path(folder).absolute() / PROGRAMS / "python")
    session.run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder)
    return [uv, "pip", "install", "--quiet", "--python", python], python


@nox.session
def lowest(session: nox.Session) -> None:
    """The quick tests with the lowest versions of direct dependencies that ``pyproject.toml`` allows."""
    install, python = make_other(session, ".venv-lowest")
    session.run(*install, "--resolution", "lowest-direct", "--editable", ".[mnn,ncnn,openvino,plots,serve]")
    session.run(*install, *LOWEST_TOOLS)
    session.run(*install, "--no-deps", *nox.project.dependency_groups(PROJECT, "without-dependencies"))
    # Publishing is for maintainers, with the clients of the Hub that .venv and .venv-train have.
    left_out = (*ELSEWHERE, "--ignore", "tests/hub")
    session.run(python, "-m", "pytest", "tests", *left_out, "-m", "not slow", *session.posargs)


@nox.session
def opencv(session: nox.Session) -> None:
    """The tests of images with each OpenCV since the lower bound."""
    install, python = make_other(session, ".venv-opencv")
    for version in OPENCV:
        session.run(*install, "--editable", ".", f"opencv-python-headless=={version}", *LOWEST_TOOLS)
        session.run(python, "-m", "pytest", "tests/images", "tests/test_original.py", *session.posargs)


@nox.session
def audit(session: nox.Session) -> None:
    """Known vulnerabilities and the licences of what the container installs."""
    tools = Path(make_environment(session, "release")).parent
    locks = ("--requirement", "requirements.lock", "--requirement", "requirements-build.lock")
    session.run(str(tools / "pip-audit"), "--disable-pip", "--require-hashes", *locks)
    install, python = make_other(session, ".venv-locked")
    session.run(*install, "--require-hashes", "--requirement", "requirements.lock")
    licences = (str(tools / "pip-licenses"), "--python", python, "--from", "mixed", "--with-urls")
    session.run(*licences, "--partial-match", "--allow-only", LICENCES)


@nox.session
def bench_peers(session: nox.Session) -> None:
    """What benchmarks/ compares with: environments and models, made once."""
    python = make_environment(session, "dev")
    make_environment(session, "export")
    make_environment(session, "timm")
    session.run(python, "benchmarks/prepare.py")
