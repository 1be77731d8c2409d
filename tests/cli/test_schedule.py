"""`minigrad schedule`: what it prints is what the schedule gives."""

import json
from xml.etree import ElementTree

import pytest

from minigrad.cli.main import main
from minigrad.dist.schedule import parse
from minigrad.dist.schedules import SCHEDULES, make


def run(capsys, *words: str) -> str:
    assert main(["schedule", *words]) == 0
    return capsys.readouterr().out


def test_json(capsys):
    words = ["zb-h1", "--stages", "4", "--microbatches", "8", "--forward", "1", "--backward", "2"]
    words += ["--weight", "1", "--json"]
    figures = json.loads(run(capsys, *words))
    assert figures["makespan"] == 27
    assert figures["idle"] == [3, 3, 3, 3]
    assert figures["bubble_fraction"] == pytest.approx(3 / 27)
    assert figures["peak_activations"] == [4, 4, 4, 4]
    assert figures["actions"] == [[str(action) for action in row] for row in make("zb-h1", 4, 8).ranks]


def test_the_weight_is_a_part_of_the_backward(capsys):
    words = ["1f1b", "--stages", "4", "--microbatches", "8", "--backward", "2", "--weight", "0.5", "--json"]
    assert json.loads(run(capsys, *words))["makespan"] == 33
    words = ["zb-h1", "--stages", "1", "--microbatches", "2", "--backward", "2", "--weight", "0.5", "--json"]
    assert json.loads(run(capsys, *words))["makespan"] == 6


def test_text_is_read_back(capsys, tmp_path):
    for name in SCHEDULES:
        text = run(capsys, name, "--stages", "3", "--microbatches", "6", "--text")
        assert parse(text) == make(name, 3, 6)
    path = tmp_path / "mine.txt"
    path.write_text(str(make("gpipe", 3, 6)))
    assert json.loads(run(capsys, str(path), "--json"))["microbatches"] == 6


def test_gathering_and_reducing_take_time(capsys, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("G0 F0 F1 B0 B1 R0\n")
    out = run(capsys, str(path), "--gather", "2", "--reduce", "1", "--backward", "1")
    assert "0: G0----F0 F1 B0 B1 R0\n" in out
    assert "makespan           7\n" in out


def test_the_grid(capsys):
    out = run(capsys, *["1f1b", "--stages", "2", "--microbatches", "2"])
    assert "0: F0 F1 .  .  B0----.  B1----\n1: .  F0 B0----F1 B1----.  .\n" in out
    assert "makespan           9\n" in out
    assert "33.33% of the time" in out


def test_a_drawing(capsys, tmp_path):
    path = tmp_path / "x.svg"
    run(capsys, *["interleaved", "--stages", "2", "--microbatches", "4", "--virtual", "2", "-o"], str(path))
    root = ElementTree.parse(path).getroot()
    assert root.tag.endswith("svg")
    assert [item.name for item in tmp_path.iterdir()] == ["x.svg"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("interleaved --stages 4 --microbatches 6 --virtual 2", "6 microbatches are no multiple of 4 ranks"),
        ("2bw --stages 4 --microbatches 3", "3 microbatches are fewer than 4 stages"),
        ("1f1b --stages 4", "--stages P and --microbatches M; give both"),
        ("1f1b --stages 0 --microbatches 1", "--stages is 0; give at least 1"),
        ("2bw --stages 2 --microbatches 2 --batches 0", "--batches is 0; give at least 1"),
        ("gpipe --stages 100000000 --microbatches 1", "more than 250000 forwards"),
        (
            "terapipe --stages 2 --microbatches 1 --slices 99999999999",
            "2 stages × 99999999999 slices are more",
        ),
        ("gpipe --stages 2 --microbatches 2 --forward nan", "the forward takes nan"),
        ("gpipe --stages 2 --microbatches 2 --link 1e101", "--link is 1e+101; give a time of at most 1e100"),
        ("gpipe --stages 2 --microbatches 2 -o no/such/x.png", "ends in .svg"),
        ("gpipe --stages 2 --microbatches 2 -o docs", "'docs' is none; name a file that ends in .svg"),
        ("gpipe --stages 2 --microbatches 2 --weight 3", "longer than the whole"),
        ("gpipe --stages 2 --microbatches 2 -o no/such/x.svg", "no folder"),
        ("no-such --stages 2 --microbatches 2", "neither a schedule"),
    ],
)
def test_refusals(capsys, words, message):
    assert main(["schedule", *words.split()]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_times_may_be_as_small_as_they_like(capsys):
    words = ["1f1b", "--stages", "4", "--microbatches", "4", "--forward", "1e-13", "--backward", "2e-13"]
    figures = json.loads(run(capsys, *words, "--json"))
    assert figures["makespan"] == pytest.approx(21e-13, rel=1e-12)
    assert figures["bubble_fraction"] == pytest.approx(3 / 7)


def test_a_drawing_that_cannot_be_written_leaves_nothing(capsys, tmp_path):
    (tmp_path / "x.svg").mkdir()
    words = ["schedule", "gpipe", "--stages", "2", "--microbatches", "2", "-o"]
    assert main([*words, str(tmp_path / "x.svg")]) == 2
    (tmp_path / ".y.svg.partial").mkdir()  # in the way of what is written aside
    assert main([*words, str(tmp_path / "y.svg")]) == 2
    assert "y.svg could not be written: " in capsys.readouterr().err
    assert sorted(item.name for item in tmp_path.iterdir()) == [".y.svg.partial", "x.svg"]


def test_a_file_that_deadlocks(capsys, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("F0 B0 F1 B1\nF0 F1 B0 B1\n")
    assert main(["schedule", str(path)]) == 2
    error = capsys.readouterr().err
    assert "the schedule mine cannot run: deadlock" in error
    assert ">B0@0<" in error
    path.write_text("F0 B0\nF0 B0\n")
    assert main(["schedule", str(path), "--stages", "3"]) == 2
    assert "--stages is 3" in capsys.readouterr().err
