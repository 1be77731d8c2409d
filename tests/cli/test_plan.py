"""`minigrad plan`: its tables, its JSON, its drawing, and what it refuses."""

import json
import re
from xml.etree import ElementTree

import pytest

from minigrad.cli.main import main

GPT = "layers=2,width=16,heads=2,context=8,vocabulary=20,batch=4"


def report(capsys, *words: str) -> dict:
    assert main(["plan", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_figure_of_the_zero_paper_is_printed(capsys) -> None:
    assert main(["plan", "--parameters", "7.5e9", "--ranks", "64", "--memory", "32e9"]) == 0
    out = capsys.readouterr().out
    assert "7.5 billion parameters on 64 ranks, adamw, mixed precision" in out
    for printed in ("120 GB", "31.4 GB", "16.6 GB", "1.88 GB", "7.64 billion", "14.4 billion", "128 billion"):
        assert printed in out
    assert "momentum 8" in out


def test_json_holds_what_the_tables_show(capsys) -> None:
    found = report(capsys, "--parameters", "7.5e9", "--ranks", "64", "--memory", "32e9")
    totals = [row["memory"]["total"] for row in found["stages"]]
    assert totals == [120e9, 31.40625e9, 16.640625e9, 1.875e9]
    assert [row["smallest_ranks"] for row in found["stages"]] == [None, 46, 7, 4]
    assert [row["fits"] for row in found["stages"]] == [False, True, True, True]
    assert found["bytes_a_parameter"] == {"parameters": 2, "gradients": 2, "optimizer": 12}
    sent = [row["sent"]["total"] for row in found["stages"]]
    assert sent[0] == sent[1] == sent[2] == pytest.approx(sent[3] * 2 / 3)
    assert [rung["host"] > 0 for rung in found["ladder"]] == [False, True, True, False, False, False]


def test_options_change_what_is_planned(capsys) -> None:
    plain = report(capsys, "--parameters", "1e6", "--ranks", "3")
    one = report(
        capsys, "--parameters", "1e6", "--ranks", "3", "--stage", "2", "--optimizer", "sgd",
        "--precision", "float32", "--accumulate", "5",
    )  # fmt: skip
    (row,) = one["stages"]
    assert row["stage"] == 2
    assert row["memory"] == {
        "parameters": 4_000_000,
        "gradients": 4 * 333_334,
        "optimizer": 0,
        "total": 4_000_000 + 4 * 333_334,
    }
    assert row["sent"]["gradients"] == pytest.approx(5 * row["sent"]["parameters"])
    assert "smallest_ranks" not in plain["stages"][0]


def test_a_model_brings_its_activations(capsys) -> None:
    plain = report(capsys, "--model", GPT)
    again = report(capsys, "--model", GPT, "--checkpoint-activations")
    kept = plain["model"]["activations"]
    assert 0 < kept["checkpointed"] < kept["kept"]
    assert plain["stages"][0]["memory"]["activations"] == kept["kept"]
    assert again["stages"][0]["memory"]["activations"] == kept["checkpointed"]
    assert again["model"]["activations"] == kept
    assert plain["parameters"] == 20 * 16 + 8 * 16 + 2 * (12 * 16**2 + 13 * 16) + 2 * 16
    assert main(["plan", "--model", GPT]) == 0
    out = capsys.readouterr().out
    assert "activations of a batch of 4" in out
    assert "+ activation checkpointing" in out


def test_the_drawing_shows_a_bar_for_each_stage(tmp_path, capsys) -> None:
    path = tmp_path / "plan.svg"
    words = ["plan", "--parameters", "7.5e9", "--ranks", "64", "--memory", "32e9", "-o", str(path)]
    assert main(words) == 0
    svg = path.read_text(encoding="utf-8")
    ElementTree.fromstring(svg)
    assert re.findall(r">stage (\d)<", svg) == ["0", "1", "2", "3"]
    for words_shown in ("31.4 GB", "memory of a rank: 32.0 GB", "7.5 billion parameters on 64 ranks"):
        assert words_shown in svg
    assert [found.name for found in tmp_path.iterdir()] == ["plan.svg"]
    capsys.readouterr()


MESH = ["--model", GPT, "--data", "3", "--pipeline", "2", "--tensor", "2", "--microbatches", "4"]


def test_a_mesh_shows_what_its_ranks_hold_and_send(capsys) -> None:
    found = report(capsys, *MESH, "--memory", "1e6")
    assert (found["ranks"], found["microbatches"]) == (12, 4)
    mesh = found["mesh"]
    assert [mesh[axis] for axis in ("data", "pipeline", "tensor")] == [3, 2, 2]
    first, last = mesh["places"]
    assert (first["layers"], last["layers"]) == (["wte", "wpe", "h.0"], ["h.1", "ln_f", "lm_head"])
    for row in found["stages"]:
        held = [place["memory"][str(row["stage"])]["total"] for place in mesh["places"]]
        assert row["memory"]["total"] == max(held) == held[row["place"]]
        assert row["sent"]["total"] == sum(row["sent"][name] for name in row["sent"] if name != "total")
        assert row["sent"]["tensor"] > row["sent"]["pipeline"] > 0
        assert row["smallest_ranks"] == 4  # one copy fits
    alone = report(capsys, "--model", GPT)
    assert found["parameters"] == alone["parameters"]
    assert max(first["parameters"], last["parameters"]) < alone["parameters"] / 3
    assert report(capsys, *MESH[2:], "--model", GPT, "--ranks", "12")["mesh"] == mesh
    tight = report(capsys, *MESH, "--memory", "1")
    assert [row["smallest_ranks"] for row in tight["stages"]] == [None] * 4


def test_a_mesh_is_printed_and_drawn(tmp_path, capsys) -> None:
    path = tmp_path / "plan.svg"
    assert main(["plan", *MESH, "--memory", "1e6", "-o", str(path)]) == 0
    out = capsys.readouterr().out
    assert "12 ranks (data 3 × pipeline 2 × tensor 2)" in out
    assert "h.1 to lm_head" in out
    assert "│ stage │" in out.replace("┃", "│")
    assert "fewest ranks" in out
    assert re.findall(r">stage (\d)<", path.read_text(encoding="utf-8")) == ["0", "1", "2", "3"]


def test_data_alone_is_as_many_ranks(capsys) -> None:
    assert report(capsys, "--model", GPT, "--data", "3") == report(capsys, "--model", GPT, "--ranks", "3")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--parameters", "1e9", "--pipeline", "2"], "need --model"),
        (["--model", GPT, "--pipeline", "2", "--ranks", "3"], "3 ranks cannot be divided into copies of 2"),
        (["--model", GPT, "--data", "2", "--ranks", "3"], "are 2 ranks, and --ranks is 3"),
        (["--model", GPT, "--pipeline", "7"], "cannot share 6 layers"),
        (["--model", GPT, "--pipeline", "1e9"], "--pipeline 1000000000 ranks cannot share 6 layers"),
        (["--model", GPT, "--tensor", "1e9"], "--tensor 1000000000 ranks cannot share matrices of at most"),
        (["--model", GPT, "--pipeline", "2", "--microbatches", "1e9"], "more than 250000 forwards"),
        (["--model", GPT, "--pipeline", "2", "--schedule", "zb"], "no schedule 'zb'"),
        ([], "required"),
        (["--parameters", "1e9", "--model", GPT], "not allowed"),
        (["--parameters", "many"], "7.5e9"),
        (["--parameters", "0.5"], "whole number"),
        (["--parameters", "inf"], "whole number"),
        (["--parameters", "1.7e308", "--ranks", "2"], "at most 1e+100"),
        (["--parameters", "1e9", "--ranks", "0"], "at least 1"),
        (["--parameters", "1e9", "--stage", "4"], "invalid choice"),
        (["--parameters", "1e9", "--optimizer", "newton"], "adamw"),
        (["--parameters", "1e9", "--precision", "half"], "float32"),
        (["--parameters", "1e9", "--checkpoint-activations"], "--model"),
        (["--parameters", "1e9", "--schedule", "nonsense"], "no schedule 'nonsense'"),
        (["--parameters", "1e9", "-o", "no_such_folder/plan.svg"], "no folder 'no_such_folder'"),
        (["--parameters", "1e9", "-o", "."], "a drawing is an SVG file"),
        (["--model", "layers=2,depth=3"], "depth=3"),
        (["--model", "layers=2,width"], "width"),
        (["--model", "layers=two"], "layers"),
        (["--model", "width=10,heads=3"], "divisible"),
        (["--model", "dropout=1"], "dropout"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(words, said, capsys) -> None:
    codes: list[object] = []
    try:
        codes.append(main(["plan", *words]))
    except SystemExit as end:
        codes.append(end.code)
    assert codes == [2]
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_every_way_that_training_offers_is_named_by_its_option(capsys) -> None:
    found = report(capsys, "--model", GPT, "--ranks", "3")
    options = [rung["option"] for rung in found["ladder"]]
    assert options == [
        "",
        "--batch 1",
        "--accumulate 4",
        "--checkpoint-activations",
        "--offload host",
        "",
        *(f"--zero {stage} --ranks 3" for stage in (1, 2, 3)),
    ]
    assert main(["plan", "--model", GPT, "--ranks", "3"]) == 0
    assert "--zero 2 --ranks 3" in capsys.readouterr().out
