"""Folders are committed and removed as a whole, and what is committed is on the disk."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rwmdata import atomic
from rwmdata.atomic import (
    TMP_MARK,
    commit_file,
    commit_folder,
    remove_folder,
    require_room,
    set_aside,
    temporary_name,
    write_text,
)
from rwmdata.errors import RwmError
from rwmdata.machine import place


@pytest.fixture
def synced(monkeypatch):
    """Record what is synced, by name and in order."""
    names, fsync, mark = [], os.fsync, temporary_name(Path("a")).name.removesuffix("a")

    def record(handle):
        names.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")).removeprefix(mark))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", record)
    return names


def test_a_folder_appears_only_when_the_block_ends(tmp_path):
    target = tmp_path / "home" / "a"
    with commit_folder(target) as folder:
        (folder / "x").write_text("1")
        assert not target.exists()
    assert (target / "x").read_text() == "1" and [p.name for p in target.parent.iterdir()] == ["a"]


def test_everything_in_it_is_synced_before_the_rename_and_the_parent_after(tmp_path, synced):
    with commit_folder(tmp_path / "a") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "x").write_text("1")
    assert sorted(synced[:2]) == ["inner", "x"] and synced[2:] == ["a", tmp_path.name]


@pytest.mark.parametrize(
    ("fault", "raised", "message"),
    [
        (ValueError("odd"), ValueError, "odd"),
        (OSError(28, "No space"), RwmError, "Cannot write .*a: No space"),
    ],
)
def test_nothing_is_left_of_a_folder_that_could_not_be_filled(tmp_path, fault, raised, message):
    with pytest.raises(raised, match=message), commit_folder(tmp_path / "a") as folder:
        (folder / "x").write_text("1")
        raise fault
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept_unless_it_is_to_be_replaced(tmp_path):
    target = tmp_path / "a"
    target.mkdir()
    (target / "old").write_text("1")
    with pytest.raises(RwmError, match="exists already") as error, commit_folder(target, hint="--out FOLDER"):
        pass
    assert error.value.hint == "--out FOLDER" and (target / "old").exists()
    with commit_folder(target, replace=True) as folder:
        (folder / "new").write_text("1")
    assert [p.name for p in target.iterdir()] == ["new"]


class CutOff(BaseException):
    """The process is killed here."""


@pytest.fixture
def replaced(tmp_path):
    """Return a folder that holds a file, and a function that replaces it by one with another."""
    target = tmp_path / "set"
    target.mkdir()
    (target / "old").write_text("old")

    def replace():
        with commit_folder(target, replace=True) as folder:
            (folder / "new").write_text("new")

    return target, replace


@pytest.mark.parametrize("at", range(2))
def test_a_replacement_that_is_killed_at_a_rename_loses_neither_folder(replaced, monkeypatch, at):
    target, replace = replaced
    renames, really = [], Path.rename

    def rename(path, to):
        renames.append(to)
        if len(renames) > at:
            raise CutOff
        return really(path, to)

    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(atomic, "put_back", lambda path: None)  # A killed process does nothing more.
    with pytest.raises(CutOff):
        replace()
    monkeypatch.undo()
    assert [p.name for p in (target if at == 0 else atomic.aside_of(target)).iterdir()] == ["old"]
    with pytest.raises(RwmError, match="exists already"), commit_folder(target):
        pass
    assert [p.name for p in target.parent.iterdir()] == ["set"] and [p.name for p in target.iterdir()] == ["old"]
    replace()
    assert [p.name for p in target.parent.iterdir()] == ["set"] and [p.name for p in target.iterdir()] == ["new"]


def test_a_replacement_that_fails_puts_the_old_folder_back(replaced, monkeypatch):
    target, replace = replaced

    def full(temporary, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "rename_folder", full)
    with pytest.raises(RwmError, match="No space left"):
        replace()
    assert [p.name for p in target.parent.iterdir()] == ["set"] and [p.name for p in target.iterdir()] == ["old"]


def test_what_a_killed_writer_left_of_a_file_is_removed_by_the_next(tmp_path):
    mine, others = (tmp_path / f"{TMP_MARK}{pid}-{place()}-page.html" for pid in (dead_pid(), os.getpid()))
    for left in (mine, others):
        left.write_text("half")
    commit_file(tmp_path / "index.html", lambda path: path.write_text("whole"))
    assert mine.exists()
    commit_file(tmp_path / "page.html", lambda path: path.write_text("whole"))
    assert {p.name for p in tmp_path.iterdir()} == {"index.html", "page.html"}


def dead_pid():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_a_removed_folder_is_gone_for_good(tmp_path, synced):
    (tmp_path / "a").mkdir()
    remove_folder(tmp_path / "a")
    assert list(tmp_path.iterdir()) == [] and len(synced) == 1
    with pytest.raises(RwmError, match="Cannot remove .*a: No such file"):
        remove_folder(tmp_path / "a")


def test_one_process_at_a_time_builds_a_folder(tmp_path):
    with commit_folder(tmp_path / "a") as folder:
        (folder / "x").write_text("1")
        with pytest.raises(RwmError, match="a is being written by another process"), commit_folder(tmp_path / "a"):
            pass
    assert (tmp_path / "a" / "x").exists()


def test_a_folder_removed_while_it_is_built_is_not_made_anew(tmp_path):
    with pytest.raises(RwmError, match="Cannot write"), commit_folder(tmp_path / "a") as folder:
        shutil.rmtree(folder)
        write_text(folder / "inner" / "x", "1")
    assert list(tmp_path.iterdir()) == []


class LibraryError(Exception):
    """What a library makes of a full disk."""


@pytest.mark.parametrize("text", ["No space left on device (os error 28)", "x: File too large", "Disk quota exceeded"])
def test_a_full_disk_is_one_sentence_whatever_the_library_that_writes_makes_of_it(tmp_path, text):
    def write(path):
        raise LibraryError(text)

    with pytest.raises(RwmError, match=r"Cannot write .*x: (No space|File too|Disk quota)"):
        commit_file(tmp_path / "x", write)
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_a_library_is_its_own(tmp_path):
    def write(path):
        raise LibraryError("odd")

    with pytest.raises(LibraryError, match="odd"):
        commit_file(tmp_path / "x", write)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EOPNOTSUPP])
def test_room_is_asked_for_and_given_back(tmp_path, monkeypatch, number):
    require_room(tmp_path, 5000)

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    if number == errno.ENOSPC:
        with pytest.raises(OSError, match="No space left"):
            set_aside(tmp_path / "x", 5000)
        (tmp_path / "x").unlink()
    else:
        set_aside(tmp_path / "x", 5000)
        assert (tmp_path / "x").stat().st_size == 5000
        (tmp_path / "x").unlink()
    assert list(tmp_path.iterdir()) == []
