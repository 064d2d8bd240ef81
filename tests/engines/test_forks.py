"""A process that forks while its other threads work: the child answers, or says why it cannot, and it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from ghostzoo.bundle.folder import Bundle
from ghostzoo.engines.base import Engine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system"),
]

SECONDS = 60
"""Children take less than one; on a machine where many tests run, some more."""
CHILDREN = 5

WORKING = """
import faulthandler, os, random, signal, sys, threading, time
import ghostzoo

faulthandler.register(signal.SIGALRM, chain=True)  # says where this process or a child hangs, and ends it
signal.alarm(int(sys.argv[6]) * (int(sys.argv[5]) + 1))
engine, model, small, large = sys.argv[1:5]
clf = ghostzoo.load(model, engine=engine)
expected = [p.index for p in clf(large)]

def call():
    while True:
        clf(large)

def predict():
    while True:
        list(clf.predict([large, small] * 4, batch_size=2))

def load():
    while True:
        with ghostzoo.load(model, engine=engine) as another:
            another(small)

def child():
    signal.alarm(int(sys.argv[6]))
    try:
        assert [p.index for p in clf(large)] == expected
        assert [[p.index for p in top] for top in clf.predict([large] * 4, batch_size=2)] == [expected] * 4
        print("answered", flush=True)
    except ghostzoo.EngineUnavailableError as error:
        print("refused:", error, flush=True)
    clf.close()
    sys.exit(7)

for work in (call, predict, load):
    threading.Thread(target=work, daemon=True).start()
random.seed(0)
for _ in range(int(sys.argv[5])):
    time.sleep(random.uniform(0.01, 0.2))
    pid = os.fork()
    if not pid:
        child()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 7, status
assert [p.index for p in clf(large)] == expected
print("all ended", flush=True)
os._exit(0)
"""


def test_children_of_busy_processes_end(engine_type: type[Engine], engine_bundle: Bundle, tmp_path: Path) -> None:
    """Large pictures, so that OpenCV too has its threads at work when the process forks."""
    pictures = []
    for name, size in (("small", (80, 90, 3)), ("large", (1500, 2000, 3))):
        pixels = np.random.default_rng(0).integers(0, 256, size, np.uint8)
        pictures.append(str(tmp_path / f"{name}.bmp"))
        cv2.imwrite(pictures[-1], pixels)
    command = [sys.executable, "-W", "ignore", "-c", WORKING, engine_type.name, str(engine_bundle.path), *pictures]
    result = subprocess.run(
        [*command, str(CHILDREN), str(SECONDS)], capture_output=True, text=True, timeout=SECONDS * (CHILDREN + 2)
    )
    # While a thread loads an MNN model, what is written to stdout goes to stderr.
    lines = [*result.stdout.splitlines(), *result.stderr.splitlines()]
    assert result.returncode == 0, lines
    assert "all ended" in lines
    children = [line for line in lines if line.startswith(("answered", "refused"))]
    assert len(children) == CHILDREN
    if engine_type.opens_after_fork:
        assert set(children) == {"answered"}
    else:
        (refusal,) = set(children)
        assert "cannot be used in a fork" in refusal
        assert refusal.count(". ") == 0


LOADING = """
import faulthandler, os, signal, sys, threading, time
from ghostzoo.bundle.folder import Bundle
from ghostzoo.engines import engine_class
from ghostzoo.engines.base import EngineOptions
faulthandler.register(signal.SIGALRM, chain=True)  # says where it hangs, and ends it
signal.alarm(240)
kind, bundle = engine_class(sys.argv[1]), Bundle.open(sys.argv[2])

def load():
    for _ in range(8):
        kind.load(bundle, EngineOptions()).close()

before = os.fstat(1)
threads = [threading.Thread(target=load) for _ in range(4)]
for thread in threads:
    thread.start()
children = []
while any(thread.is_alive() for thread in threads):
    child = os.fork()
    if not child:
        os._exit(0 if os.path.samestat(os.fstat(1), before) else 9)
    children.append(child)
    time.sleep(0.05)
assert os.path.samestat(os.fstat(1), before), "stdout is another file now"
assert all(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 for child in children), "a child has another stdout"
print("the same", len(children))
"""


def test_loading_leaves_stdout_as_it_is(engine_type: type[Engine], engine_bundle: Bundle) -> None:
    """Also for threads that load at the same time, and for children that are forked meanwhile."""
    command = [sys.executable, "-W", "ignore", "-c", LOADING, engine_type.name, str(engine_bundle.path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stdout[:9]) == (0, "the same "), result.stderr


LOGGING = """
import faulthandler, os, signal, threading, time
from ghostzoo._utils.locks import opening
import concurrent.futures.thread, logging

faulthandler.register(signal.SIGALRM, chain=True)  # says where it hangs, and ends it
signal.alarm(60)

def open_and_log():
    with opening:
        holds.set()
        time.sleep(0.5)
        logging.getLogger("of an engine").isEnabledFor(logging.INFO)

holds = threading.Event()
thread = threading.Thread(target=open_and_log)
thread.start()
holds.wait()
child = os.fork()
if not child:
    os._exit(7)
thread.join()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


def test_a_fork_waits_for_a_thread_that_opens_an_engine_and_logs() -> None:
    result = subprocess.run([sys.executable, "-c", LOGGING], capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
