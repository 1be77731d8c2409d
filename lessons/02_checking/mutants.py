"""Mistakes that learners make in lesson 2."""

from minigrad.lessons.mutants import Mutant

MUTANTS = [
    Mutant("2.1", "a forward difference", "f(x - unit)) / (2 * h)", "f(x)) / h"),
    Mutant("2.1", "forgets the two", "/ (2 * h)", "/ h"),
    Mutant("2.1", "moves every entry at once", "unit[entry] = h", "unit[...] = h"),
    Mutant("2.1", "the root of the wrong degree", "1 / (order + 1)", "1 / order"),
    Mutant("2.2", "the real part", "f(complex(x, h)).imag / h", "f(complex(x, h)).real / h"),
    Mutant(
        "2.2",
        "a difference after all",
        "f(complex(x, h)).imag / h",
        "(f(x + 1e-6) - f(x - 1e-6)).real / 2e-6",
    ),
    Mutant(
        "2.3",
        "an absolute gap",
        "abs(pushed.sum() - pulled.sum()) / scale",
        "abs(pushed.sum() - pulled.sum())",
    ),
    Mutant(
        "2.3",
        "divides by what may cancel",
        "max(np.abs(pushed).sum(), np.abs(pulled).sum())",
        "abs(pushed.sum())",
    ),
    Mutant("2.3", "divides by zero", " if scale else 0.0", ""),
    Mutant("2.4", "returns the gradient", "_, product = mg.jvp", "product, _ = mg.jvp"),
    Mutant("2.4", "walks uphill", "x = x - mg.solve", "x = x + mg.solve"),
]
