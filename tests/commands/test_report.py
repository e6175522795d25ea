import subprocess
import sys

from tspo.cli import main


def test_the_report_is_written_and_its_place_printed(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("model: some/model\n")
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"
    assert "some/model" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_folder_without_a_run_is_one_line(tmp_path, capsys):
    folder = tmp_path / "none"
    assert main(["report", str(folder)]) == 2
    assert capsys.readouterr().err == f"tspo: error: {folder}: is not a folder; name the output_dir of a run\n"


def test_it_needs_no_torch(tmp_path):
    (tmp_path / "config.yaml").write_text("model: some/model\n")
    probe = (
        "import sys; from tspo.cli import main; main(sys.argv[1:]);"
        "print([m for m in ('torch', 'transformers', 'trl') if m in sys.modules])"
    )
    command = [sys.executable, "-c", probe, "report", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.stdout.endswith("[]\n")
