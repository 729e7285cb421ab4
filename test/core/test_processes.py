"""Subprocesses end with their parent, and at once when it is told to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from mm_perception.core import processes
from mm_perception.core.errors import EngineError
from mm_perception.core.processes import EndedError, allow_children, check_not_ended, child, end_children
from mm_perception.core.scratch import _start_of as start_of
from mm_perception.engines.tensorrt.apart import run_apart
from mm_perception.engines.tensorrt.build import BuildJob
from mm_perception.engines.tensorrt.settings import BuildSettings

FOREVER = "import threading; threading.Event().wait()"


@pytest.fixture(autouse=True)
def children_may_run() -> Iterator[None]:
    yield
    allow_children()


def wait_for(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_alive(pid: int) -> bool:
    return start_of(pid) is not None


def killed_parent(code: str, count: int, *arguments: str) -> list[int]:
    """Runs code that prints the ids of its children, kills it, and returns those ids."""
    line = [sys.executable, "-c", code, *arguments]
    parent = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = sorted({int(parent.stdout.readline()) for _ in range(count)})
    assert len(pids) == count and all(is_alive(pid) for pid in pids)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    return pids


def test_rendering_processes_die_with_their_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\n"
        "from mm_perception.sim.workers import prepare_nothing, worker_pool\n"
        "def name(place):\n"
        "    open(place, 'w').close()\n"
        "    while len(os.listdir(os.path.dirname(place))) < 2: time.sleep(0.01)\n"
        "    return os.getpid()\n"
        "if __name__ == '__main__':\n"
        "    import sys\n"
        "    with worker_pool(2, prepare_nothing) as pool:\n"
        "        jobs = [pool.submit(name, f'{sys.argv[1]}/{i}') for i in range(2)]\n"
        "        for one in jobs: print(one.result(), flush=True)\n"
        "        sys.stdin.read()\n"
    )
    (tmp_path / "there").mkdir()
    line = [sys.executable, str(script), str(tmp_path / "there")]
    parent = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = {int(parent.stdout.readline()) for _ in range(2)}
    assert len(pids) == 2 and all(map(is_alive, pids))
    parent.kill()
    parent.communicate()
    assert wait_for(lambda: not any(map(is_alive, pids)), 5.0)


def test_a_builder_dies_with_its_parent_whatever_it_is_in():
    """It does not even read its standard input."""
    builder = (
        "import os, threading\n"
        "from mm_perception.core.processes import die_with_parent\n"
        "die_with_parent(int(os.environ['PARENT']))\n"
        "print(os.getpid(), flush=True)\n"
        "threading.Event().wait()"
    )
    code = (
        "import os, sys\n"
        "from mm_perception.core.processes import child\n"
        "os.environ['PARENT'] = str(os.getpid())\n"
        "with child([sys.executable, '-c', sys.argv[1]]) as one: one.wait()\n"
    )
    (pid,) = killed_parent(code, 1, builder)
    assert wait_for(lambda: not is_alive(pid), 2.0)


def test_a_process_whose_parent_has_died_before_it_looks_ends():
    code = f"from mm_perception.core.processes import die_with_parent; die_with_parent({os.getpid() + 1}); {FOREVER}"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 3


def test_a_build_ends_at_once_when_told(tmp_path):
    """As with SIGTERM in the middle of a build that hears nothing."""
    builder = tmp_path / "builder"
    builder.write_text(
        f"#!{sys.executable}\nimport json\nprint(json.dumps({{'progress': 'half'}}), flush=True)\n{FOREVER}\n"
    )
    builder.chmod(0o755)
    job = BuildJob(tmp_path / "m.onnx", tmp_path / "m.engine", "tensorrt", BuildSettings())
    begun, failures = threading.Event(), []

    def build() -> None:
        try:
            run_apart("build", job, lambda text: begun.set(), interpreter=str(builder))
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    assert begun.wait(30.0)
    told_s = time.monotonic()
    assert end_children() == 1
    thread.join(2.0)
    assert not thread.is_alive() and time.monotonic() - told_s < 2.0
    (failure,) = failures
    assert isinstance(failure, EndedError) and not isinstance(failure, EngineError), "no other engine is to be tried"
    with pytest.raises(EndedError):
        run_apart("build", job, print, interpreter=str(builder))
    assert not processes._children.running


def test_children_end_with_their_block():
    with child([sys.executable, "-c", FOREVER]) as process:
        assert is_alive(process.pid)
    assert process.returncode == -signal.SIGKILL and end_children() == 0
    with pytest.raises(EndedError):
        check_not_ended()
    allow_children()
    check_not_ended()


def test_a_process_ends_in_time_wherever_it_is(tmp_path):
    code = (
        "import sys, threading\n"
        "from mm_perception.core.processes import child, end_within\n"
        f"with child([sys.executable, '-c', '{FOREVER}']) as one:\n"
        "    print(one.pid, flush=True)\n"
        "    sys.stdin.readline()\n"
        "    end_within(0.2, 7)\n"
        "    threading.Event().wait()\n"
    )
    line = [sys.executable, "-c", code]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdin is not None
    pid = int(process.stdout.readline())
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.wait(5.0) == 7
    process.communicate()
    assert wait_for(lambda: not is_alive(pid), 2.0)
