"""The three programs, from their start to their end: no connection, no fork of a thread, no file that nobody named."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

# A module that Python imports at the start of every process, also of processes that a program starts.
WATCH = """
import os, sys, threading

log, allowed = os.environ["WATCH_LOG"], tuple(os.environ["WATCH_ALLOWED"].split(os.pathsep))
NETWORK = ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo",
           "socket.gethostbyname")
PROCESSES = ("os.fork", "os.forkpty", "os.exec", "os.system", "os.posix_spawn", "subprocess.Popen")
# `find_library` of ctypes and the description of the machine by PyTorch start programs of the system, the record of a
# training run starts git, and Matplotlib lists the fonts.
TOOLS = ("ldconfig", "gcc", "cc", "c++", "ld", "lscpu", "uname", "sh", "git", "fc-list")

def watch(event, arguments):
    text = ""
    if event in NETWORK:
        # urllib3 binds a port of this machine at its import, to find whether there is IPv6; nothing is sent.
        text = "" if event == "socket.bind" and arguments[1][:2] == ("::1", 0) else str(arguments)
    elif event in PROCESSES:
        tool = os.path.basename(str(arguments[0])) if arguments else ""
        if tool not in TOOLS or threading.current_thread() is not threading.main_thread():
            text = f"{arguments} in {threading.current_thread().name}"
    elif event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        path = os.path.realpath(arguments[0])
        if not path.startswith(allowed):
            text = path
    if text:
        with os.fdopen(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "a") as file:
            file.write(f"{event} {text}\\n")

watching = False
def hook(event, arguments):
    global watching
    if not watching and event in (*NETWORK, *PROCESSES, "open"):
        watching = True  # the hook opens its log
        try:
            watch(event, arguments)
        finally:
            watching = False

sys.addaudithook(hook)
"""


class Programs:
    """Programs of rsicrc in a new home folder, with a log of their deeds.

    Args:
        root: An empty folder; its sub-folder `work` is the folder for inputs and results.
    """

    def __init__(self, root: Path) -> None:
        self.work, self.home, self._log = root / "work", root / "home", root / "log"
        temporary, site = root / "temporary", root / "site"
        for folder in (self.work, self.home, temporary, site):
            folder.mkdir()
        (site / "sitecustomize.py").write_text(WATCH)
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LD_LIBRARY_PATH")}
        self._variables = {
            **kept,
            "HOME": str(self.home),
            "TMPDIR": str(temporary),
            "PYTHONPATH": os.pathsep.join([str(site), *filter(None, sys.path)]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "WATCH_LOG": str(self._log),
            "WATCH_ALLOWED": os.pathsep.join(
                map(str, (self.work, self.home / ".cache" / "rsicrc", temporary, "/dev/null", "/dev/shm", "/proc/self"))
            ),
        }
        self._temporary = temporary

    def run(self, module: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program to its end and check what it has done."""
        done = subprocess.run(
            [sys.executable, "-c", f"from {module} import main; main()", *map(str, arguments)],
            env=self._variables, cwd=self.work, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert not self._log.exists(), self._log.read_text()
        assert [path for path in self.home.iterdir() if path.name != ".cache"] == []
        assert [path for path in self.home.glob(".cache/*") if path.name != "rsicrc"] == []
        assert [path for path in self._temporary.rglob("*") if path.is_file()] == []  # PyTorch makes an empty folder
        assert re.search(r"fork|deadlock", done.stderr) is None, done.stderr
        return done

    def forget(self) -> None:
        """Remove the log."""
        self._log.unlink()


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_runtime_program(model_folder: Path, programs: Programs, backend: str) -> None:
    pytest.importorskip(backend)
    pytest.importorskip("lancedb", reason="needs rsicrc[search]")
    shutil.copytree(model_folder, programs.work / "model")
    for name in ("changed_before", "changed_after"):
        shutil.copy(Path(__file__).parents[2] / "examples" / f"{name}.png", programs.work)
    (programs.work / "pairs.csv").write_text("before,after\nchanged_before.png,changed_after.png\n")
    main, options = "rsicrc.cli.umbrella", ("--model", "model", "--backend", backend)
    programs.run(main, "caption", "changed_before.png", "changed_after.png", *options, "--heatmap", "map.png")
    programs.run(main, "index", "pairs.csv", "-o", "index", *options)
    found = programs.run(main, "search", "index", "a road", *options, "--json")
    assert "changed_after.png" in found.stdout
    programs.run(main, "doctor", "--model", "model")


@pytest.mark.slow
def test_training_program(programs: Programs) -> None:
    pytest.importorskip("open_clip", reason="needs rsicrc[train]")
    from rsicrc_train.config import TrunkConfig
    from rsicrc_train.recipes import Recipe, Training
    from tests.models import SMALL

    trunk = TrunkConfig("clip_resnet", (1, 1, 1, 1), width=4, image_size=64)
    model = replace(SMALL, trunk=trunk, d_model=32, a_dim=32, max_len=24, encoder_layers=1)
    training = Training(epochs=1, batch_size=8, captions=2, workers=0, learning_rate=1e-3)
    (programs.work / "recipe.yaml").write_text(Recipe(model, training).to_yaml())
    main = "rsicrc_train.cli"
    programs.run(main, "synth", "data", "--pairs", "40", "--splits", "train=0.8,val=0.2")
    programs.run(main, "check-data", "data", "--recipe", "recipe.yaml")
    programs.run(main, "fit", "data", "-o", "run", "--recipe", "recipe.yaml", "--device", "cpu")


@pytest.mark.slow
def test_export_program(checkpoint_file: Path, programs: Programs) -> None:
    programs.run("rsicrc_export.cli", checkpoint_file, "-o", "model")
    assert (programs.work / "model" / "manifest.json").is_file()


def test_watch_sees_connections_processes_and_files(programs: Programs) -> None:
    (programs.work / "bad.py").write_text(
        "import os, socket, subprocess, sys\n"
        "def main():\n"
        "    action = sys.argv[1]\n"
        "    if action == 'connect':\n"
        "        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 9))\n"
        "    if action == 'start':\n"
        "        subprocess.run([sys.executable, '-c', ''])\n"
        "    if action == 'fork' and os.fork() == 0:\n"
        "        os._exit(0)\n"
        "    if action == 'write':\n"
        "        open(os.path.expanduser('~/intel'), 'w').close()\n"
    )
    programs.run("bad", "nothing")
    for action, event in (("connect", "socket.connect"), ("start", "Popen"), ("fork", "os.fork"), ("write", "intel")):
        with pytest.raises(AssertionError, match=event):
            programs.run("bad", action)
        programs.forget()
