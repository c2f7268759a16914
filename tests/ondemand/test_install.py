"""The installer: what it writes, and that it loses nothing."""

import pytest


def test_fresh_installation_fills_in_the_folders(cluster):
    result = cluster.install("--project", cluster.project, "--image", cluster.image, "--modules", "A/1 B/2")
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"installed: {cluster.installed}\n"
    assert cluster.installed.stat().st_mode & 0o777 == 0o755
    # bash itself reads the settings back; the project's folder has a space in its name
    show = 'printf "%s\\n" "$LLMHW_PROJECT" "$LLMHW_COURSE" "$LLMHW_IMAGE" "${LLMHW_MODULES[@]}"'
    shown = cluster.run("bash", "-c", f'source <(grep ^LLMHW_ "$0"); {show}', cluster.installed)
    assert shown.stdout.splitlines() == [str(cluster.project), str(cluster.course), str(cluster.image), "A/1", "B/2"]
    template = (cluster.course / "ondemand/llmhw.sh").read_text().splitlines()
    written = cluster.installed.read_text().splitlines()
    changed = [old for old, new in zip(template, written, strict=True) if old != new]
    assert len(changed) == 4
    assert all(line.startswith("LLMHW_") for line in changed)


def test_relative_paths_become_absolute(cluster):
    assert cluster.install("--project", "..", "--image", "../llmhw.sif").returncode == 0
    assert cluster.run("bash", cluster.installed, "run", "true").returncode == 0
    assert str(cluster.image) in cluster.called("apptainer")[0]


def test_second_run_changes_nothing_and_says_so(cluster):
    cluster.install("--project", cluster.project)
    before = cluster.installed.stat()
    result = cluster.install("--project", cluster.project)
    assert (result.returncode, result.stdout) == (0, f"unchanged: {cluster.installed}\n")
    after = cluster.installed.stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    assert [file.name for file in cluster.installed.parent.iterdir()] == ["llmhw.sh"]


def test_own_edits_are_kept_each_time(cluster):
    cluster.install("--project", cluster.project)
    for edit in ("first edit", "second edit"):
        cluster.installed.write_text(edit)
        result = cluster.install("--project", cluster.project)
        assert result.returncode == 0
        assert f"kept what was there: {cluster.installed}.bak" in result.stdout
        assert cluster.installed.read_text() != edit
    backups = {file.read_text() for file in cluster.installed.parent.iterdir() if ".bak" in file.name}
    assert backups == {"first edit", "second edit"}
    assert [file.name for file in cluster.installed.parent.glob("*.sh")] == ["llmhw.sh"], "the menu lists each *.sh"


def test_dry_run_touches_nothing(cluster):
    result = cluster.install("--project", cluster.project, "--dry-run")
    assert (result.returncode, result.stdout) == (0, f"would write: {cluster.installed}\n")
    assert list(cluster.home.iterdir()) == []
    cluster.installed.parent.mkdir(parents=True)
    cluster.installed.write_text("own")
    assert "would keep" in cluster.install("--project", cluster.project, "--dry-run").stdout
    assert cluster.installed.read_text() == "own"


def test_says_what_is_still_missing(cluster):
    cluster.image.unlink()
    (cluster.course / ".venv").unlink()
    assert "apptainer build" in cluster.install("--project", cluster.project, "--image", cluster.image).stdout
    assert "make setup" in cluster.install("--project", cluster.project).stdout


def test_the_next_command_is_one_for_a_shell_wherever_the_course_lies(cluster):
    (cluster.course / ".venv").unlink()
    cluster.course = cluster.course.rename(cluster.course.with_name('it\'s "my" $course'))
    image = cluster.course / "an 'image'.sif"
    for options, program, shown in (((), "make", "setup"), (("--image", image), "apptainer", str(image))):
        said = cluster.install("--project", cluster.project, *options)
        command = next(line for line in said.stdout.splitlines() if line.startswith("next: ")).removeprefix("next: ")
        shell = f'{program}() {{ pwd; printf "%s\\n" "$@"; }}; {command}'
        seen = cluster.run("bash", "-c", shell).stdout.splitlines()
        assert seen[0] == str(cluster.course)
        assert shown in seen


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--project is missing"),
        (["--project"], "--project needs a value"),
        (["--project", ".", "--modules", ""], "--modules needs a value"),
        (["--project", ".", "--imgae", "x"], "unknown argument: --imgae"),
    ],
)
def test_bad_arguments_give_the_usage(cluster, arguments, message):
    result = cluster.install(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith(f"install: {message}\nusage: ")
    assert not cluster.installed.exists()


def test_missing_project_folder(cluster):
    result = cluster.install("--project", cluster.project / "typo")
    assert (result.returncode, result.stderr) == (1, f"install: no project folder {cluster.project}/typo\n")


def test_path_that_no_container_can_bind(cluster):
    result = cluster.install("--project", cluster.project, "--image", "a:b.sif")
    assert result.returncode == 1
    assert "colon or a comma" in result.stderr


def test_menu_folder_that_cannot_be_made(cluster):
    (cluster.home / "portal").write_text("a file is in the way")
    result = cluster.install("--project", cluster.project)
    assert result.returncode == 1
    assert f"install: cannot make the folder {cluster.home}/portal/jupyter" in result.stderr
    assert "installed" not in result.stdout


def test_what_the_shell_exports_does_not_change_what_is_installed(cluster, tmp_path):
    """CDPATH sends `cd` elsewhere and makes it print; an exported function takes its place altogether."""
    cluster.install("--project", cluster.project)
    expected = cluster.installed.read_text()
    (tmp_path / "decoy" / "ondemand").mkdir(parents=True)
    functions = {f"BASH_FUNC_{name}%%": f"() {{ builtin {name} /; }}" for name in ("cd", "printf", "pwd", "read", "[")}
    functions |= {f"BASH_FUNC_{name}%%": "() { echo /; }" for name in ("dirname", "realpath", "mktemp", "cmp", "chmod")}
    for name, value in {"CDPATH": str(tmp_path / "decoy"), **functions}.items():
        cluster.installed.unlink()
        result = cluster.run("env", f"{name}={value}", "bash", "ondemand/install.sh", "--project", cluster.project)
        assert result.returncode == 0, result.stderr
        assert cluster.installed.read_text() == expected


@pytest.mark.parametrize("home", [["-u", "HOME"], ["HOME="]])
def test_without_a_home_it_says_so_in_a_line(cluster, home):
    script = cluster.course / "ondemand" / "install.sh"
    result = cluster.run("env", *home, "bash", script, "--project", cluster.project)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("install: HOME is not set")
    assert result.stderr.count("\n") == 1
