import importlib.util
import re
import subprocess
import sys

import pytest

from tspo.cli import COMMANDS, main

COMMAND = [sys.executable, "-c", "import sys; from tspo.cli import main; sys.exit(main())"]
NAMES = [command.__name__.rpartition(".")[2].replace("_", "-") for command in COMMANDS]
RUN_NAMES = ["train", "warmup", "evaluate", "benchmark"]

MINIMAL = "model: some/model\noutput_dir: out\ndata: {train: [train.jsonl], corpus: corpus.jsonl}\n"


def run(*arguments, **options):
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, **options)


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    return str(path)


def one_line(capsys):
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("tspo: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_the_commands_of_a_run_are_there():
    assert {*RUN_NAMES, "credit"} <= set(NAMES)


def test_help_names_all_commands():
    result = run("--help")
    assert (result.returncode, result.stderr) == (0, "")
    commands = result.stdout.split("commands:")[1]
    for name in NAMES:
        assert re.search(rf"\n    {name}\s", commands)


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in NAMES)])
def test_help_imports_nothing_heavy(arguments):
    probe = (
        "import sys\nfrom tspo.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as exit:\n    print(exit.code, file=sys.stderr)\n"
        "heavy = ('torch', 'transformers', 'accelerate', 'numpy', 'pydantic', 'yaml')\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", probe, *arguments], capture_output=True, text=True, timeout=60)
    assert result.stderr == "0\n[]\n"


@pytest.mark.parametrize("name", NAMES)
def test_each_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([name, "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: tspo {name} ")
    assert all(len(line) <= 120 for line in text.splitlines())
    if name in (*RUN_NAMES, "credit"):  # what takes arguments shows how
        assert f"  tspo {name} " in text.split("example")[1]


@pytest.mark.parametrize("name", RUN_NAMES)
def test_a_config_that_is_not_there(name, tmp_path, capsys):
    assert main([name, str(tmp_path / "none.yaml")]) == 2
    message = one_line(capsys)
    assert str(tmp_path / "none.yaml") in message
    assert "No such file" in message


@pytest.mark.parametrize("name", RUN_NAMES)
def test_an_unknown_key(name, config_file, capsys):
    assert main([name, config_file, "training.stepz=3"]) == 2
    message = one_line(capsys)
    assert "unknown key 'training.stepz'; did you mean 'training.steps'?" in message


@pytest.mark.parametrize("name", RUN_NAMES)
@pytest.mark.parametrize("override", ["training.steps=0", "nonsense", "credit.algorithm=dpo"])
def test_a_bad_override(name, override, config_file, capsys):
    assert main([name, config_file, override]) == 2
    assert override.split("=")[0] in one_line(capsys)


@pytest.mark.parametrize("name", RUN_NAMES)
def test_a_bad_config_needs_no_torch(name, config_file):
    probe = (
        "import sys; from tspo.cli import main; code = main(sys.argv[1:]);"
        "print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules]); sys.exit(code)"
    )
    result = subprocess.run(
        [sys.executable, "-c", probe, name, config_file, "sed=1"], capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stdout) == (2, "[]\n")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", RUN_NAMES)
@pytest.mark.parametrize("missing", ["torch", "peft"])
def test_without_the_libraries_it_is_said_how_to_get_them(name, missing, config_file, capsys, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find_spec(name))
    if find_spec(missing) is None and missing == "peft":
        pytest.skip("torch is missing too, and is named first")
    assert main([name, config_file]) == 2
    assert f"needs {missing}; pip install 'tspo[train]'" in one_line(capsys)


@pytest.mark.parametrize(
    "arguments", [["report"], ["compare"], ["train", "x.yaml", "--nonsense"], ["warmup", "x.yaml", "--resume"]]
)
def test_bad_usage_exits_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: tspo" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "meant"), [("tran", "train"), ("evalute", "evaluate"), ("compare-evaluation", "compare-evaluations")]
)
def test_a_mistyped_command_is_told_what_it_may_be(typed, meant, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([typed])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.endswith(f"; did you mean {meant}?\n")


@pytest.mark.parametrize(
    ("engine", "said"), [("trl", "--engine trl: is named tspo now"), ("deepspeed", "there are tspo and verl")]
)
def test_engines_that_there_are_not(engine, said, config_file, capsys):
    assert main(["train", config_file, "--engine", engine]) == 2
    assert said in one_line(capsys)


def test_keys_of_older_versions_have_a_line_each(config_file, capsys):
    assert main(["train", config_file, "training.trl={num_iterations: 2, top_k: 5}", "training.trl.nonsense=1"]) == 2
    error, *more = capsys.readouterr().err.splitlines()
    assert error.startswith(f"tspo: error: {config_file}: training.trl.num_iterations: is training.epochs now;")
    assert more == [
        f"{config_file}: training.trl.top_k: is rollout.sampling.top_k now",
        f"{config_file}: training.trl.nonsense: is not a setting; tspo settings lists those there are",
    ]


def test_data_that_is_not_there_is_one_line(config_file, tmp_path, capsys):
    pytest.importorskip("peft")
    assert main(["warmup", config_file, "warmup.epochs=1"]) == 2
    assert str(tmp_path / "train.jsonl") in one_line(capsys)
    assert not (tmp_path / "out").exists()
