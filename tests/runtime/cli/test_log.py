"""Messages of the commands on stderr: the log, the automatic choice, and colors."""

from __future__ import annotations

import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rsicrc.cli.log import log_to_stderr, show_all, show_information
from tests.runtime.conftest import Command

LOGGER = logging.getLogger("rsicrc")
COLOR = re.compile(rb"\x1b\[[\d;]*m")


def test_library_is_silent_without_a_handler() -> None:
    code = "import logging, rsicrc; logging.getLogger('rsicrc').warning('unheard')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_warnings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with log_to_stderr():
        LOGGER.info("chosen")
        LOGGER.warning("two\nlines of %s", "text")
    LOGGER.warning("after the block")
    assert capsys.readouterr() == ("", "rsicrc: warning: two lines of text\n")


def test_verbose_log_has_all_levels(capsys: pytest.CaptureFixture[str]) -> None:
    levels = logging.getLogger().level, LOGGER.level
    with log_to_stderr():
        show_all()
        LOGGER.debug("detail")
        logging.getLogger("rsicrc.train").info("step")
    assert capsys.readouterr().err == "rsicrc: debug: detail\nrsicrc: step\n"
    assert (logging.getLogger().level, LOGGER.level) == levels


def test_information_of_one_part_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    part = logging.getLogger("rsicrc.part")
    with log_to_stderr():
        show_information("rsicrc.part")
        part.info("step")
        part.debug("detail")
        LOGGER.info("chosen")
    part.info("after the block")
    assert capsys.readouterr().err == "rsicrc: step\n"
    assert part.level == logging.NOTSET


def test_verbose_command_shows_the_choice(rsicrc_run: Command, model_folder: Path, pictures: Path) -> None:
    pair = pictures / "1a.png", pictures / "1b.png"
    quiet = rsicrc_run("caption", *pair, "--model", model_folder)
    verbose = rsicrc_run("caption", *pair, "--model", model_folder, "-v")
    group = rsicrc_run("-v", "caption", *pair, "--model", model_folder)
    assert verbose.out == quiet.out == group.out
    assert verbose.err == group.err
    assert f"rsicrc: {model_folder}: fp32, " in verbose.err
    assert LOGGER.level == logging.NOTSET


def test_explicit_choice_is_not_repeated(rsicrc_run: Command, model_folder: Path, pictures: Path) -> None:
    pair = pictures / "1a.png", pictures / "1b.png"
    explicit = ("--device", "cpu", "--backend", "onnxruntime")
    ended = rsicrc_run("caption", *pair, "--model", model_folder, *explicit)
    assert (ended.code, ended.err) == (0, "")
    ended = rsicrc_run("caption", *pair, "--model", model_folder, "--device", "cpu", "--threads", 1)
    assert re.fullmatch(r"rsicrc: \w+ on cpu, fp32, 1 thread\n", ended.err)


BAR = """
from rsicrc.cli.console import progress
with progress(3, "work") as advance:
    advance(2, note="half way")
"""


@pytest.mark.parametrize(
    "command", [["-m", "rsicrc", "doctor"], ["-c", BAR], ["-m", "rsicrc", "--help"]], ids=["doctor", "bar", "help"]
)
def test_no_color_is_respected(command: list[str], model_folder: Path) -> None:
    def shown(**environment: str) -> bytes:
        leader, follower = pty.openpty()
        inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
        variables = {**inherited, "TERM": "xterm-256color", "RSICRC_MODEL": str(model_folder), **environment}
        with os.fdopen(follower, "wb") as terminal:
            done = subprocess.run([sys.executable, *command], stdout=terminal, stderr=terminal, env=variables)
        output = b""
        try:
            while piece := os.read(leader, 100_000):
                output += piece
        except OSError:  # the end of a terminal on Linux
            pass
        os.close(leader)
        assert done.returncode == 0
        return output

    assert not COLOR.search(shown(NO_COLOR="1"))
    if "--help" not in command:
        assert COLOR.search(shown())
        assert COLOR.search(shown(NO_COLOR=""))
