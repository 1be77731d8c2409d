"""Mistakes that learners make in lesson 12."""

from minigrad.lessons.mutants import Mutant

MUTANTS = [
    Mutant("12.1", "no square root", " / math.sqrt(query.shape[-1])", ""),
    Mutant("12.1", "softmax over the queries", "mg.softmax(scores, axis=-1)", "mg.softmax(scores, axis=-2)"),
    Mutant(
        "12.1",
        "a mask that is only small",
        "mg.where(hidden, -math.inf, scores)",
        "mg.where(hidden, -10.0, scores)",
    ),
    Mutant(
        "12.1",
        "shows what is hidden",
        "mg.where(hidden, -math.inf, scores)",
        "mg.where(~hidden, -1e30, scores)",
    ),
    Mutant(
        "12.2",
        "mixes heads and positions",
        "mg.permute_dims(mg.reshape(x, (batch, time, heads, width // heads)), (0, 2, 1, 3))",
        "mg.reshape(x, (batch, heads, time, width // heads))",
    ),
    Mutant("12.3", "all sines first", "encoding[:, 0::2] = np.sin", "encoding[:, : width // 2] = np.sin"),
    Mutant(
        "12.3",
        "counts columns, not pairs",
        "2 * np.arange(width // 2) / width",
        "np.arange(width // 2) / width",
    ),
    Mutant("12.4", "looks at the diagonal's future", "dtype=bool), 1)", "dtype=bool), 2)"),
    Mutant("12.4", "forgets the road", "x = x + out(", "x = out("),
    Mutant(
        "12.4",
        "norms the wrong x",
        "return x + mlp(norm_2(x))",
        "return x + mlp(norm_2(packed[..., :width]))",
    ),
    Mutant(
        "12.5",
        "rounds",
        "np.array_equal(model(changed)[:place], before[:place])",
        "np.allclose(model(changed)[:place], before[:place])",
    ),
    Mutant("12.5", "tries one token only", "for token in range(vocabulary):", "for token in range(1):"),
]
