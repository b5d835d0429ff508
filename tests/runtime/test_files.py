"""Atomic replacement of files, and the file names in its errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rsicrc.files import compiled_folder, replacing, user_cache


def test_successful_block_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_failed_block_leaves_only_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def replace() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        replace()
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


def test_errors_name_the_target_file(tmp_path: Path) -> None:
    path = tmp_path / "no" / "a.txt"
    with pytest.raises(FileNotFoundError) as caught, replacing(path) as temporary:
        temporary.write_text("new")
    assert caught.value.filename == str(path)


def test_errors_of_other_files_keep_their_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere"), replacing(tmp_path / "a.txt"):
        (tmp_path / "elsewhere").read_text()


def test_symbolic_link_stays_a_link(tmp_path: Path) -> None:
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "real.txt")
    with replacing(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_user_cache_follows_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/one")
    monkeypatch.delenv("RSICRC_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert user_cache() == Path("/home/one/.cache/rsicrc")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert user_cache() == Path("/var/cache/rsicrc")
    monkeypatch.setenv("RSICRC_CACHE", "/fast/cache")
    assert user_cache() == Path("/fast/cache")


def test_user_without_a_name_and_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    pwd = pytest.importorskip("pwd")
    for variable in ("HOME", "RSICRC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    assert user_cache() is None
    assert compiled_folder("00ff", "library", "1.0", "CPU", {}) is None


def test_compiled_folder_depends_on_each_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSICRC_CACHE", "/cache")
    arguments: tuple[Any, ...] = ("00ff", "openvino", "2026.4", "CPU", {"threads": 1})
    others = ("00fe", "tensorrt", "2026.5", "GPU: a/b", {"threads": 2})
    changed = [(*arguments[:number], other, *arguments[number + 1 :]) for number, other in enumerate(others)]
    folders = [compiled_folder(*each) for each in (arguments, *changed)]
    assert len(set(folders)) == len(folders)
    assert all(folder is not None and len(folder.parts) == 5 for folder in folders)
    assert compiled_folder(*arguments) == folders[0]
