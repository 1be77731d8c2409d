"""`minigrad partition`: the planners from the command line."""

import json

import pytest

from minigrad.cli.main import main

OPTIONS = {
    "--seconds": "30,40,40,40,30,5,2,1",
    "--outputs": "32,16,8,4,1,.2,.2,.1",
    "--weights": ".1,.3,1,5,10,410,67,16",
    "--bandwidth": "4",
}
SMALL = "--seconds 1,2 --outputs 1,1 --weights 1,1"
VGG = [word for option in OPTIONS.items() for word in option]


def run(capsys, *words: str) -> str:
    assert main(["partition", *words]) == 0
    return capsys.readouterr().out


def test_pipedream(capsys):
    plan = json.loads(run(capsys, "pipedream", *VGG, "--machines", "4", "--json"))
    assert plan["seconds"] == 50
    assert [(s["start"], s["stop"], s["replicas"]) for s in plan["stages"]] == [(0, 4, 3), (4, 8, 1)]
    out = run(capsys, "pipedream", *VGG, "--machines", "8")
    assert "layers 0 to 4: (0-4)x7" in out
    assert "25.7142857" in out


def test_a_profile_and_two_levels(capsys, tmp_path):
    path = tmp_path / "profile.json"
    layers = [{"seconds": t, "output_bytes": 1, "weight_bytes": w} for t, w in ((4, 1), (2, 8), (2, 8))]
    path.write_text(json.dumps({"layers": layers}))
    words = ["--machines", "2,2", "--bandwidth", "10,1", "--variant", "2019", "--json"]
    plan = json.loads(run(capsys, "pipedream", str(path), *words))
    assert plan["variant"] == "2019"
    assert sum(stage["replicas"] for stage in plan["stages"]) == 2
    assert all(sum(part["replicas"] for part in stage["inner"]) == 2 for stage in plan["stages"])


def test_terapipe(capsys, tmp_path):
    words = ["terapipe", "--length", "12", "--stages", "4"]
    plan = json.loads(run(capsys, *words, "--floor", "4", "--pair", "0.0625", "--json"))
    assert (plan["seconds"], plan["slices"]) == (36.0625, [5, 4, 3])
    assert plan["uniform"] == {"length": 4, "seconds": 36.75}
    path = tmp_path / "table.json"
    path.write_text(json.dumps([[1 + n + 0.1 * n * c for c in range(12)] for n in range(1, 13)]))
    tabled = json.loads(run(capsys, *words, "--table", str(path), "--json"))
    assert tabled["slices"] == [4, 2, 2, 2, 2]
    assert "37.6" in run(capsys, *words, "--constant", "1", "--context", "0.1")


def test_balance(capsys):
    assert json.loads(run(capsys, *["balance", "--seconds", "3,1,4,1,5", "--stages", "2", "--json"])) == {
        "balance": [3, 2],
        "seconds": [8, 6],
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("pipedream --machines 2 --bandwidth 1", "needs --seconds and --outputs and --weights"),
        ("pipedream --bandwidth 1", "needs --machines"),
        (
            "pipedream --seconds 1 --outputs 1,2 --weights 1 --machines 2 --bandwidth 1",
            "have 1, 2, 1 numbers",
        ),
        ("pipedream no.json --machines 2 --bandwidth 1", "cannot be read as JSON"),
        ("pipedream --machines 2,2 --bandwidth 1", "one bandwidth"),
        ("pipedream --machines 2.5 --bandwidth 1", "a whole number of at least 1"),
        ("pipedream --machines 0 --bandwidth 1", "a whole number of at least 1"),
        (f"pipedream {SMALL} --machines 1e9 --bandwidth 1", "compares 4e+18 choices, and at most 1e+09"),
        (f"pipedream {SMALL} --machines 2 --bandwidth 1e-320", "are no number; give larger"),
        (f"pipedream {SMALL} --machines 2 --bandwidth 0", "bandwidth of 0"),
        (f"pipedream {SMALL} --machines 2 --bandwidth 1 --compression 2", "the variant 2019, the only one"),
        (f"balance --seconds {','.join(['1'] * 2000)} --stages 2000", "compares 8e+09 choices"),
        ("terapipe no.json --length 12 --stages 2", "takes no profile of layers"),
        ("terapipe --length 99999999999 --stages 2", "give --granularity 195312500 or more"),
        ("balance --seconds 1,2 --stages 3", "2 layers cannot be cut into 3 stages"),
        ("terapipe --length 12", "needs --stages"),
        ("terapipe --length 12 --stages 2 --granularity 5", "no multiple of the granularity"),
    ],
)
def test_refusals(capsys, words, message):
    assert main(["partition", *words.split()]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--seconds", "--machines", "--bandwidth", "--floor", "--compression"])
@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "x", "", "1e101"])
def test_what_is_no_number(capsys, option, number):
    with pytest.raises(SystemExit) as end:
        main(["partition", "pipedream", f"{option}={number}"])
    assert end.value.code == 2
    assert f"argument {option}: '{number}' is no number" in capsys.readouterr().err


GOOD = {"seconds": 1, "output_bytes": 1, "weight_bytes": 2}


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "is no profile"),
        ([{"seconds": 1}], "is no profile"),
        ([GOOD, GOOD | {"seconds": "a"}], "seconds of layer 1 is 'a'; give a number"),
        ([GOOD | {"weight_bytes": float("nan")}], "weight_bytes of layer 0 is nan"),
        ([GOOD | {"output_bytes": -1}], "output_bytes of layer 0 is -1"),
        ([GOOD | {"output_bytes": True}], "output_bytes of layer 0 is True"),
    ],
)
def test_profiles_that_make_no_sense(capsys, tmp_path, layers, message):
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({"layers": layers}))
    for planner, *words in (
        ["pipedream", "--machines", "2", "--bandwidth", "1"],
        ["balance", "--stages", "1"],
    ):
        assert main(["partition", planner, str(path), *words]) == 2
        assert message in capsys.readouterr().err


def test_a_profile_is_for_both_planners_of_layers_and_says_it_all(capsys, tmp_path):
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({"layers": [GOOD | {"seconds": t} for t in (3, 1, 4, 1, 5)]}))
    assert json.loads(run(capsys, "balance", str(path), "--stages", "2", "--json"))["balance"] == [3, 2]
    for option in ("--seconds", "--outputs", "--weights"):
        assert main(["partition", "balance", str(path), "--stages", "2", option, "1"]) == 2
        assert f"and {option} both say what layers cost" in capsys.readouterr().err


def test_the_program_of_2019_charges_for_cuts_only_if_told_how_far_they_are_compressed(capsys):
    words = ["pipedream", "--seconds", "10,10", "--outputs", "50,0", "--weights", "1,1", "--machines", "2"]
    words += ["--bandwidth", "1", "--variant", "2019", "--json"]
    assert json.loads(run(capsys, *words))["seconds"] == 10
    assert json.loads(run(capsys, *words, "--compression", "1"))["seconds"] == 12


@pytest.mark.parametrize("table", ['"abc"', "[[1]]", "[[1, NaN], [3]]", "[[1, -2], [3]]", "[[1, 2], null]"])
def test_tables_that_make_no_sense(capsys, tmp_path, table):
    path = tmp_path / "table.json"
    path.write_text(table)
    assert main(["partition", "terapipe", "--length", "2", "--stages", "2", "--table", str(path)]) == 2
    assert "has no number from 0 to 1e+100 for" in capsys.readouterr().err
