"""Nothing is removed or replaced that this package did not make."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from mm_perception.core import files
from mm_perception.core.errors import ConfigError
from mm_perception.core.files import (
    MARKER,
    OutputFolder,
    check_new_file,
    check_outputs,
    replace_file,
    write_json,
    write_new_file,
)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def fill(folder: OutputFolder, *paths: str) -> None:
    for name in paths:
        (folder.work / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.work / name).write_text("new")


def test_a_file_that_exists_is_replaced_only_when_told(tmp_path):
    path = tmp_path / "deep" / "figures.json"
    write_json(path, {"a": 1}, overwrite=False)
    with pytest.raises(ConfigError, match=r"figures\.json: exists already; .*--overwrite"):
        write_json(path, {"a": 2}, overwrite=False)
    assert json.loads(path.read_text()) == {"a": 1}
    write_json(path, {"a": float("nan"), "b": [1.5, float("inf")]}, overwrite=True)
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {"a": None, "b": [1.5, None]}
    assert names(tmp_path) == ["deep", "deep/figures.json"]


@pytest.mark.parametrize("kind", ["bag", "json", "image", "onnx", "xml"])
@pytest.mark.parametrize("content", [b"my notes", b"", b"\x00\x01"])
def test_a_file_of_another_kind_is_never_replaced(tmp_path, kind, content):
    path = tmp_path / "thing"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="so --overwrite does not replace it"):
        write_new_file(path, b"new", True, kind)
    assert path.read_bytes() == content


def test_folders_and_special_files_are_never_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for name, said in (("folder", "is a folder"), ("pipe", "pipe or socket"), ("socket", "pipe or socket")):
            with pytest.raises(ConfigError, match=said):
                write_new_file(tmp_path / name, b"{}", True, "json")
    with pytest.raises(ConfigError, match="device"):
        check_new_file(Path("/dev/null"), True, "json")
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "folder").is_dir()


def test_links_lead_to_the_file_that_counts(tmp_path):
    (tmp_path / "old.json").write_text("{}")
    (tmp_path / "link").symlink_to("old.json")
    (tmp_path / "nowhere").symlink_to("missing.json")
    with pytest.raises(ConfigError, match="exists already"):
        write_json(tmp_path / "link", 1, overwrite=False)
    write_json(tmp_path / "link", {"new": 1}, overwrite=True)
    assert (tmp_path / "link").is_symlink() and "new" in (tmp_path / "old.json").read_text()
    with pytest.raises(ConfigError, match="is a link to nothing"):
        write_json(tmp_path / "nowhere", 1, overwrite=True)
    assert not (tmp_path / "missing.json").exists()


def test_a_file_that_comes_meanwhile_stays(tmp_path, monkeypatch):
    path = tmp_path / "figures.json"
    write = files._write_synced

    def write_late(temporary, data):
        write(temporary, data)
        path.write_text("of another")

    monkeypatch.setattr(files, "_write_synced", write_late)
    with pytest.raises(ConfigError, match="exists already"):
        write_json(path, 1, overwrite=False)
    assert path.read_text() == "of another" and names(tmp_path) == ["figures.json"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, overwrite):
    """The limit of a process's files makes `write` fail in the middle, as a full disk does."""
    import subprocess
    import sys

    path = tmp_path / "figures.json"
    if overwrite:
        path.write_text('{"old": 1}')
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from mm_perception.core.files import replace_file, write_new_file\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "for write in (lambda p: write_new_file(p, b'{' * 5000, sys.argv[2] == '1', 'json'),\n"
        "              lambda p: replace_file(p, b'x' * 5000)):\n"
        "    try: write(Path(sys.argv[1]))\n"
        "    except OSError as error: print(error.errno)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(int(overwrite))], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["27", "27"], "EFBIG, twice"
    assert names(tmp_path) == (["figures.json"] if overwrite else [])
    assert not overwrite or path.read_text() == '{"old": 1}'


def test_outputs_that_are_inputs_or_each_other_are_refused(tmp_path):
    bag, folder = tmp_path / "drive.mcap", tmp_path / "drive"
    bag.write_bytes(b"bag")
    folder.mkdir()
    (folder / "drive.db3").write_bytes(b"bag")
    (tmp_path / "soft").symlink_to(bag)
    os.link(bag, tmp_path / "hard")
    (tmp_path / "way").symlink_to(tmp_path)
    for out, source in (
        (bag, bag), (tmp_path / "soft", bag), (tmp_path / "hard", bag), (bag, tmp_path / "soft"),
        (tmp_path / "way" / "drive.mcap", bag), (tmp_path / "x" / ".." / "drive.mcap", bag),
        (folder, folder / "drive.db3"), (folder / "drive.db3", folder), (tmp_path, bag),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=r"--save-bag .*: is the input"):
            check_outputs({"--save-bag": out}, [source])
    with pytest.raises(ConfigError, match=r"--markdown .*: expected another file than that of --json"):
        check_outputs({"--json": tmp_path / "a", "--markdown": tmp_path / "way" / "a"})
    check_outputs({"--json": tmp_path / "new", "--out": None}, [bag, "demo", None, tmp_path / "none"])


def test_a_folder_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "a" / "report"
    with OutputFolder(path, "replay", overwrite=False) as folder:
        fill(folder, "report.md", "overlays/1.png")
        assert not path.exists()
    assert names(path) == [MARKER, "overlays", "overlays/1.png", "report.md"]
    assert names(tmp_path / "a") == ["report", *(f"report/{name}" for name in names(path))]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_no_command_made_is_refused(tmp_path, overwrite):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years")
    (tmp_path / "file").write_text("a file")
    for name in ("thesis", "file"):
        with pytest.raises(ConfigError, match=r"no command made|got a file"):
            OutputFolder(tmp_path / name, "demo", overwrite, renew=True)
    assert names(tmp_path) == ["file", "thesis", "thesis/chapter.tex"]


@pytest.mark.parametrize(
    "marker", ["{", "[]", '{"made_by": "x", "files": ["../file"]}', '{"made_by": "x", "files": 3}']
)
def test_a_marker_that_no_command_wrote_counts_for_nothing(tmp_path, marker):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MARKER).write_text(marker)
    (tmp_path / "file").write_text("outside")
    with pytest.raises(ConfigError, match="no command made"):
        OutputFolder(tmp_path / "out", "demo", overwrite=True)
    assert (tmp_path / "file").read_text() == "outside"


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    with OutputFolder(tmp_path / "out", "demo", overwrite=False) as folder:
        fill(folder, "report.md")
    assert names(tmp_path / "out") == [MARKER, "report.md"]


def test_a_renewed_folder_keeps_what_no_command_made(tmp_path):
    out = tmp_path / "out"
    with OutputFolder(out, "demo", overwrite=False) as folder:
        fill(folder, "report.md", "overlays/1.png", "overlays/2.png", "old/3.png")
    (out / "notes.txt").write_text("mine")
    (out / "overlays" / "mine.png").write_text("mine")
    with pytest.raises(ConfigError, match="exists already, from mm-perception demo"):
        OutputFolder(out, "replay", overwrite=False, renew=True)
    with OutputFolder(out, "demo", overwrite=False, renew=True) as folder:
        fill(folder, "report.md", "overlays/2.png", "overlays/4.png")
    kept = ["notes.txt", "overlays", "overlays/2.png", "overlays/4.png", "overlays/mine.png", "report.md"]
    assert names(out) == [MARKER, *kept] and names(tmp_path)[0] == "out"
    with OutputFolder(out, "replay", overwrite=True) as folder:
        fill(folder, "report.json")
    assert names(out) == [MARKER, "notes.txt", "overlays", "overlays/mine.png", "report.json"]
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("taken", ["notes.txt", "overlays/1.png", "overlays"])
def test_a_new_file_does_not_take_the_place_of_anothers(tmp_path, taken):
    out = tmp_path / "out"
    with OutputFolder(out, "demo", overwrite=False) as folder:
        fill(folder, "report.md")
    (out / taken).parent.mkdir(exist_ok=True)
    (out / taken).write_text("mine")
    before = names(out)
    with pytest.raises(ConfigError, match="was not made by this command"), OutputFolder(out, "demo", True) as folder:
        fill(folder, "report.md", "notes.txt", "overlays/1.png")
    assert names(out) == before and (out / taken).read_text() == "mine"
    assert names(tmp_path) == ["out", *(f"out/{name}" for name in before)]


def test_links_within_a_folder_are_not_followed(tmp_path):
    out, album = tmp_path / "out", tmp_path / "album"
    with OutputFolder(out, "demo", overwrite=False) as folder:
        fill(folder, "overlays/1.png")
    album.mkdir()
    (album / "1.png").write_text("mine")
    (out / "overlays" / "1.png").unlink()
    (out / "overlays").rmdir()
    (out / "overlays").symlink_to(album)
    with pytest.raises(ConfigError, match="was not made"), OutputFolder(out, "demo", True) as folder:
        fill(folder, "overlays/1.png")
    with pytest.raises(ConfigError, match="was not made"), OutputFolder(out, "demo", True) as folder:
        fill(folder, "report.md")
    assert (album / "1.png").read_text() == "mine"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_folder(tmp_path, error):
    out = tmp_path / "out"
    with OutputFolder(out, "demo", overwrite=False) as folder:
        fill(folder, "report.md")
    (out / "report.md").write_text("old")
    with pytest.raises(type(error)), OutputFolder(out, "demo", True) as folder:
        fill(folder, "report.md")
        raise error
    assert (out / "report.md").read_text() == "old" and names(tmp_path) == ["out", f"out/{MARKER}", "out/report.md"]


def test_own_files_are_replaced_whole(tmp_path):
    replace_file(tmp_path / "a", b"one")
    replace_file(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two" and names(tmp_path) == ["a"]
