"""Mistakes that learners make in lesson 1."""

from minigrad.lessons.mutants import Mutant

MUTANTS = [
    Mutant(
        "1.1",
        "the empty path counts as nothing",
        "        return 1.0\n    return sum",
        "        return 0.0\n    return sum",
    ),
    Mutant(
        "1.1",
        "overwrites where paths meet",
        "found[tail] = found.get(tail, 0.0) + factor * found[head]",
        "found[tail] = factor * found[head]",
    ),
    Mutant(
        "1.1",
        "takes the edges in the order given",
        "sorted(edges, key=lambda edge: edge[1], reverse=True)",
        "edges",
    ),
    Mutant(
        "1.2",
        "multiplies the tangents of a product",
        "self.tangent * other.value + self.value * other.tangent",
        "self.tangent * other.tangent",
    ),
    Mutant(
        "1.2", "forgets the inner derivative", "math.cos(self.value) * self.tangent)", "math.cos(self.value))"
    ),
    Mutant("1.3", "factors in the wrong order", "(other.value, self.value)", "(self.value, other.value)"),
    Mutant("1.3", "overwrites the gradient", "source.gradient += factor", "source.gradient = factor"),
    Mutant(
        "1.3",
        "does not start from zero",
        "        node.gradient = 0.0\n    output",
        "        pass\n    output",
    ),
    Mutant(
        "1.4",
        "sums only over the missing axes",
        "return gradient.sum(axis=stretched, keepdims=True)",
        "return gradient",
    ),
    Mutant("1.4", "loses axes of length 1", "axis=stretched, keepdims=True", "axis=stretched"),
]
