"""Results find a place whatever the account: no home folder, none to write to, settings that no shell has read."""

import os
import tempfile
from pathlib import Path

import pytest

from llmhw_helpers.llm.checkpoints import ModelNotFound, find_model
from llmhw_helpers.measure.machine import home
from llmhw_helpers.measure.records import Record


@pytest.fixture(autouse=True)
def account(tmp_path, monkeypatch):
    """One whose home is `tmp_path / "home"`, whose working folder is empty, and whose temporary files are their own."""
    for name in ("LLMHW_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("home", "work", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "work")
    yield
    assert list((tmp_path / "work").iterdir()) == []


@pytest.fixture
def unlisted(monkeypatch):
    """The account has no entry in passwd."""

    def unknown(_):
        raise KeyError("uid not found")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.delenv("HOME")


def spare(tmp_path) -> Path:
    return tmp_path / "temporary" / f"llmhw-{os.getuid()}"


def kept(folder) -> bool:
    Record(folder / "r.json").update(lambda record: record.update(x=1))
    return Record(folder / "r.json").read() == {"x": 1}


def test_results_are_kept_in_the_users_own_folder_without_a_word(tmp_path, capsys):
    assert tmp_path / "home" in home().parents
    assert kept(home())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("named", "meant"),
    [
        ("~/a course", "home/a course"),
        ("$HOME/kurs für alle", "home/kurs für alle"),
        ("${LLMHW_BASE}", "elsewhere"),
        (" ", "home/.local/share/llmhw"),
        ("../beside", "beside"),
        ('"../beside"', "beside"),
    ],
)
def test_a_folder_may_be_named_as_in_a_shell(tmp_path, monkeypatch, capsys, named, meant):
    monkeypatch.setenv("LLMHW_BASE", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home/.local/share"))  # the same on every system
    monkeypatch.setenv("LLMHW_HOME", named)
    assert home() == tmp_path / meant
    assert kept(home())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("home_is", [None, ""])
def test_without_a_home_they_are_kept_among_the_temporary_files_and_it_is_said_once(
    tmp_path, monkeypatch, capsys, unlisted, home_is
):
    if home_is is not None:
        monkeypatch.setenv("HOME", home_is)
    assert home() == home() == spare(tmp_path)
    assert kept(home())
    assert spare(tmp_path).stat().st_mode & 0o777 == 0o700
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert f"kept in {spare(tmp_path)}, which may not last: this account has no home folder. LLMHW_HOME=" in said


@pytest.mark.parametrize("named", ["~/x", "$NOWHERE/x"])
def test_what_stands_for_no_folder_is_never_taken_for_a_name(tmp_path, monkeypatch, capsys, unlisted, named):
    monkeypatch.setenv("LLMHW_HOME", named)
    assert home() == spare(tmp_path)
    assert f"{named} cannot be written" in capsys.readouterr().out


@pytest.mark.parametrize("setting", ["HOME", "LLMHW_HOME", "XDG_DATA_HOME"])
def test_a_place_that_cannot_be_written_is_replaced_and_named(tmp_path, monkeypatch, capsys, setting):
    (tmp_path / "file").write_text("where a folder should be; this also stops root, unlike permissions")
    monkeypatch.setenv(setting, str(tmp_path / "file" / "x"))
    assert home() == spare(tmp_path)
    assert kept(home())
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert str(tmp_path / "file" / "x") in said


def test_a_relative_data_folder_is_ignored(monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", "data")
    assert home().is_absolute()


@pytest.mark.parametrize("temporary", ["work", "gone", "another account's"])
def test_without_any_place_they_live_in_the_kernel_and_it_is_said(tmp_path, monkeypatch, capsys, unlisted, temporary):
    """Never in the working folder, and never in a folder that somebody else has made."""
    if temporary == "another account's":
        monkeypatch.setattr(os, "getuid", lambda: 987654)  # the folder that is made belongs to whoever runs this
    else:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / temporary))
    record = Record(home() / f"{tmp_path.name}.json")  # a name of its own: a kernel keeps, and says, by file
    assert record.update(lambda record: record.update(x=1)) == {"x": 1}
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert said.startswith("Not saved, kept in this kernel only")


def test_a_model_in_the_home_of_an_account_without_one_is_not_found(monkeypatch, unlisted):
    monkeypatch.setenv("LLMHW_MODEL", "~/model.gguf")
    with pytest.raises(ModelNotFound, match="LLMHW_MODEL names ~/model.gguf, which does not exist"):
        find_model()
