"""The command line: what it shows, what it loads, how it ends, and that it is the Python API."""

import inspect
import json
import os
import re
import subprocess
import sys

import pytest

import paragone
from paragone._core import catalog
from paragone._core.lazy import resolve
from paragone.cli import app, main
from paragone.lab import api

HEAVY = ("torch", "numba", "scipy", "sklearn")


def shell(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "paragone", *words], capture_output=True, text=True, **options
    )


def call(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    shown = capsys.readouterr()
    return ended.value.code, shown.out, shown.err


def test_commands_are_the_functions_of_the_api():
    of_api = {getattr(api, name) for name in api.__all__}
    functions = {resolve(path) for path in app.COMMANDS.values()}
    assert of_api <= functions
    for job in functions - of_api:
        assert re.fullmatch(r"paragone\.lab\.\w+_jobs?", job.__module__)
    for name in paragone._FUNCTIONS:
        assert getattr(paragone, name) is getattr(api, name)


@pytest.mark.parametrize("name", list(app.COMMANDS))
def test_options_and_defaults_are_those_of_the_function(name):
    function = resolve(app.COMMANDS[name])
    told = {k: p for k, p in inspect.signature(function).parameters.items()
            if k not in app.PYTHON_ONLY}  # fmt: skip
    shown = inspect.signature(app._command(name, function)).parameters
    assert set(shown) - {"json"} == set(told)
    for key, parameter in told.items():
        assert shown[key].kind == parameter.kind
        default = shown[key].default
        assert default == parameter.default or (parameter.default == () and not default)
    documented = function.__doc__ or ""
    for key in told:
        assert re.search(rf"^ +{key}: ", documented, re.MULTILINE), (
            f"{name}: {key} is not explained"
        )


def test_help_names_every_option_of_the_protocol(capsys):
    code, out, _ = call(capsys, "compare", "--help")
    assert code == 0
    for option in (
        "data", "target", "methods", "with", "budget", "repeats", "prefer", "max-latency",
        "max-memory", "quick", "device", "threads", "seed", "out", "fresh", "engine", "dry-run",
        "tune",
    ):  # fmt: skip
        assert f"--{option}" in out
    assert "Studies: agents, alignment" in out
    assert "[default: None]" not in out
    assert "--contestants" not in out
    assert "--progress" not in out


@pytest.mark.parametrize(
    ("words", "budget"),
    [(["--help"], 30), (["list"], 6), (["show", "mamba"], 6), (["compare", "--help"], 6),
     (["memory", "llama-3.1-405b"], 6)],
)  # fmt: skip
def test_looking_around_loads_little_and_nothing_heavy(words, budget):
    """Of our own modules, what a command needs; of libraries, none that takes long."""
    code = (
        "import sys\nfrom paragone.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit as end:\n    assert not end.code\n"
        f"heavy = [n for n in {HEAVY!r} if n in sys.modules]\n"
        "assert not heavy, heavy\n"
        "own = [n for n in sys.modules if n.startswith(('paragone.lab.', 'importlib.metadata'))]\n"
        f"assert len(own) <= {budget}, own\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 200


def test_list_shows_all_and_computes_what_is_built(capsys):
    code, out, _ = call(capsys, "list")
    assert code == 0
    for method in catalog.methods():
        assert re.search(rf"^  {method.id} ", out, re.MULTILINE)
    code, out, _ = call(capsys, "list", "ensemble", "--json")
    rows = json.loads(out)
    assert {row["family"] for row in rows} == {"ensemble"}
    assert {row["id"] for row in rows} == {
        m.id for m in catalog.methods() if m.family == "ensemble"
    }


def test_a_name_that_no_file_defines_is_not_built(monkeypatch):
    from paragone.lab import listing

    assert listing.built("paragone.lab.listing:built")
    assert listing.built("paragone.ensemble:VotingClassifier")
    assert not listing.built("paragone.lab.listing:not_there")
    assert not listing.built("paragone.nowhere:X")
    monkeypatch.setattr(
        sys.modules["paragone.ensemble"], "_TARGETS", {"X": "paragone.ensemble.voting:Absent"}
    )
    assert not listing.built("paragone.ensemble:X")


def test_show_explains_and_gives_the_source(capsys):
    code, out, _ = call(capsys, "show", "gbdt", "--source")
    assert code == 0
    for words in ("Friedman (2001)", "cost", "came from", "led to", "class GradientBoosting"):
        assert words in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["compare"], "requires an argument"),
        (["compare", "nothing"], "no study 'nothing'"),
        (["compare", "ensembles", "--bogus"], "--bogus"),
        (["compare", "ensembles", "--seed", "x"], "--seed"),
        (["compare", "ensembles", "--prefer", "cheap"], "cheap"),
        (["compare", "ensembles", "--data", "none.csv", "--target", "y"], "none.csv: no such file"),
        (["compare", "ensembles", "--budget", "soon"], "--budget"),
        (["show", "gbdtt"], "did you mean gbdt"),
        (["list", "ensembl"], "did you mean ensemble"),
        (["report", "nowhere"], "no study"),
        (["nonsense"], "nonsense"),
    ],
)
def test_wrong_usage_is_one_line_and_code_two(capsys, words, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *words)
    assert code == 2
    assert told in err
    assert err.count("\n") == 1
    assert "Traceback" not in out + err


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "t.csv"
    path.write_text("x,y\n" + "".join(f"{i},{(i * 37) % 101 / 10}\n" for i in range(60)))
    return path


def compare(table, out, *more, methods="baseline,sklearn_decision_tree"):
    return shell(
        "compare", "ensembles", "--data", str(table), "--target", "y", "--methods", methods,
        "--repeats", "1", "--threads", "1", "--out", str(out), *more,
    )  # fmt: skip


def test_a_study_in_the_shell_and_what_follows_from_it(table, tmp_path):
    done = compare(table, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "sklearn decision tree" in done.stdout
    assert "regression of 'y'" in done.stderr
    assert "\x1b[" not in done.stdout
    assert shell("report", str(tmp_path / "run"), "--format", "md").returncode == 0
    assert "no verdict changed" in shell("diff", *[str(tmp_path / "run")] * 2).stdout
    made = shell("export", str(tmp_path / "run"), str(tmp_path / "winner"))
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "winner" / "predict.py").exists()


def test_a_failing_contestant_ends_with_one_and_nothing_finished_with_three(table, tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("class Bad:\n    def fit(self, X, y):\n        raise RuntimeError('no')\n")
    some = compare(table, tmp_path / "a", "--with", f"{bad}:Bad")
    assert some.returncode == 1, some.stderr
    assert "RuntimeError: no" in some.stdout
    code = (
        "from paragone.cli import main; import paragone.lab.guests as g\n"
        "g.pick = lambda known, names: []\n"
        f"main(['compare', 'ensembles', '--data', {str(table)!r}, '--target', 'y', '--methods', "
        f"'none', '--with', '{bad}:Bad', '--repeats', '1', '--out', {str(tmp_path / 'b')!r}])\n"
    )
    none = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert none.returncode == 3, none.stderr


def test_an_interrupt_ends_with_130(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "_present", interrupted)
    code, _, err = call(capsys, "doctor")
    assert code == 130
    assert "goes on" in err


def test_a_reader_that_leaves_early_is_no_error():
    reader = subprocess.Popen(
        [sys.executable, "-m", "paragone", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    reader.stdout.close()
    error = reader.stderr.read()
    reader.stderr.close()
    assert reader.wait() == 0
    assert b"Traceback" not in error


def test_without_the_lab_extra_one_line_says_what_to_install(tmp_path):
    (tmp_path / "cyclopts.py").write_text("raise ModuleNotFoundError('x', name='cyclopts')\n")
    done = shell("list", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    assert "pip install 'paragone[lab]'" in done.stderr
    assert "Traceback" not in done.stderr
