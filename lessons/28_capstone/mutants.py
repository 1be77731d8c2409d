"""Mistakes that learners make in lesson 28."""

from minigrad.lessons.mutants import Mutant

MUTANTS = [
    Mutant(
        "28.1",
        "the first axis varies fastest",
        "    rest, tensor = divmod(rank, run.tensor)\n    data, pipeline = divmod(rest, run.pipeline)",
        "    rest, data = divmod(rank, run.data)\n    tensor, pipeline = divmod(rest, run.pipeline)",
    ),
    Mutant("28.1", "those at the same place on the axis", "if k != number", "if k == number"),
    Mutant("28.2", "cuts all biases", "    whole = 4 * h + h + h", "    cut, whole = cut + 2 * h, 4 * h"),
    Mutant("28.2", "forgets the output's copy of the words", "if first or last:", "if first:"),
    Mutant(
        "28.2",
        "has the words twice on one stage",
        "    if first or last:\n        found += run.words // t * h",
        "    found += (first + last) * (run.words // t * h)",
    ),
    Mutant(
        "28.3",
        "shares gradients out",
        '"gradients": 8 * parameters, "optimizer"',
        '"gradients": 8 * own, "optimizer"',
    ),
    Mutant(
        "28.3",
        "shares with all ranks",
        "divmod(parameters, run.data)",
        "divmod(parameters, run.data * run.tensor + 1)",
    ),
    Mutant("28.4", "forgets the way back", "boundaries = 2 * (p - 1)", "boundaries = (p - 1)"),
    Mutant("28.4", "one tensor rank sends", "tokens * run.width * t\n", "tokens * run.width\n"),
    Mutant("28.4", "forgets the words' gradients", "2 * run.words * run.width * d if p > 1 else 0", "0"),
    Mutant("28.5", "meshes that leave ranks out", "if ranks % (data * pipeline) == 0:", "if True:"),
    Mutant(
        "28.5",
        "the fullest that fits",
        "found.append((seconds, held, mesh))",
        "found.append((seconds, -held, mesh))",
    ),
]
