"""Mistakes that learners make in lesson 23."""

from minigrad.lessons.mutants import Mutant

MUTANTS = [
    Mutant("23.1", "no sum backward", "        world.all_reduce(of_x)\n", ""),
    Mutant(
        "23.1",
        "the bias on every rank",
        "    z = y @ b\n    world.all_reduce(z)",
        "    z = y @ b + bias\n    world.all_reduce(z)\n    bias = bias * 0",
    ),
    Mutant(
        "23.1",
        "sums backward as well",
        "        return cotangent @ b.T, y.T @ cotangent, cotangent.sum(axis=0)",
        "        cotangent = cotangent.copy()\n        world.all_reduce(cotangent)\n"
        "        return cotangent @ b.T, y.T @ cotangent, cotangent.sum(axis=0)",
    ),
    Mutant(
        "23.2",
        "one run of columns",
        "by_head = packed.reshape(inputs, 3, heads, -1)",
        "by_head = packed.reshape(inputs, 1, heads, -1)",
    ),
    Mutant("23.3", "its own largest logit", '    world.all_reduce(top, operation="max")\n', ""),
    Mutant(
        "23.3", "counts the target on every rank", "shifted[rows, places] * mine", "shifted[rows, places]"
    ),
    Mutant(
        "23.3",
        "takes the target off on every rank",
        "gradient[rows, places] -= mine",
        "gradient[rows, places] -= 1",
    ),
    Mutant("23.4", "forgets the other stages", "+ (stages - 1) * limit", "+ 0 * limit"),
    Mutant("23.4", "slices are costed without what came before", "(n, c): cost(n, c)", "(n, c): cost(n, 0)"),
    Mutant(
        "23.5",
        "drops what later slices send",
        "        self.of_k[:stop] += of_scores.T @ q\n",
        "        self.of_k[start:stop] = (of_scores.T @ q)[start:]\n",
    ),
    Mutant("23.5", "exponentials that overflow", " - scores.max(axis=1, keepdims=True)", ""),
    Mutant(
        "23.5",
        "a mask that starts anew",
        "> start + np.arange(len(q))[:, None]",
        "> np.arange(len(q))[:, None]",
    ),
]
