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
        ("balance --seconds 1,2 --stages 3", "2 layers cannot be cut into 3 stages"),
        ("terapipe --length 12", "needs --stages"),
        ("terapipe --length 12 --stages 2 --granularity 5", "no multiple of the granularity"),
    ],
)
def test_refusals(capsys, words, message):
    assert main(["partition", *words.split()]) == 2
    assert message in capsys.readouterr().err
