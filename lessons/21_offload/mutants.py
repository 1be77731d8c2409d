"""Mistakes that learners make in lesson 21."""

from minigrad.lessons.mutants import Mutant

MUTANTS = [
    Mutant("21.1", "counts one direction only", "(a in host) != (b in host)", "a in host and b not in host"),
    Mutant(
        "21.1",
        "forgets the ties",
        "found.append((moved, left, sorted(host)))",
        "found.append((moved, 0, sorted(host)))",
    ),
    Mutant(
        "21.2",
        "no master copy",
        "self.link.push(self.master.astype(np.float16), self.parameters)",
        "self.link.push(self.master.astype(np.float16), self.parameters)\n"
        "        self.master = self.master.astype(np.float16).astype(np.float32)",
    ),
    Mutant(
        "21.2",
        "fetches the parameters again",
        "        self.link.push(",
        "        self.link.fetch(self.parameters)\n        self.link.push(",
    ),
    Mutant("21.2", "never counts steps", "self.steps += 1\n        self.m", "self.steps = 1\n        self.m"),
    Mutant("21.2", "puts the 1e-8 under the root", "(np.sqrt(v) + 1e-8)", "np.sqrt(v + 1e-8)"),
    Mutant(
        "21.3", "keeps a view of the gradient", "self.waiting = gradient.copy()", "self.waiting = gradient"
    ),
    Mutant("21.3", "begins a step late", "if self.steps < self.first", "if self.steps <= self.first"),
    Mutant(
        "21.3",
        "applies it twice at the end",
        "            self.x = self.x - self.rate * self.waiting\n            self.waiting = None",
        "            self.x = self.x - self.rate * self.waiting",
    ),
    Mutant("21.4", "overwrites at delay 0", "coefficients[-1] += rate", "coefficients[-1] = rate"),
    Mutant(
        "21.4",
        "forgets the curvature",
        "(2 * delay + 1)))) / curvature",
        "(2 * delay + 1))))",
    ),
    Mutant("21.5", "begins again from zeros", '"r+" if Path(path).exists() else "w+"', '"w+"'),
]
