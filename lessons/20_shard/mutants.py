"""Mistakes that learners make in lesson 20."""

from minigrad.lessons.mutants import Mutant

MUTANTS = [
    Mutant("20.1", "drops the rest", "start + share + (rank < rest)", "start + share"),
    Mutant("20.1", "pads", "share, rest = divmod(size, ranks)", "share, rest = -(-size // ranks), 0"),
    Mutant(
        "20.2",
        "keeps whole moments",
        "np.zeros(self.stop - self.start), np.zeros(self.stop - self.start)",
        "np.zeros(size), np.zeros(size)\n        self.start, self.stop = 0, size",
    ),
    Mutant("20.2", "averages over ranks", "self.steps += 1", "self.steps += 1\n        g /= self.world.size"),
    Mutant("20.2", "never counts steps", "self.steps += 1", "self.steps = 1"),
    Mutant(
        "20.2",
        "updates only its own",
        "self.world.all_gather(own, parameters, counts=lengths)",
        "parameters[self.start : self.stop] = own",
    ),
    Mutant(
        "20.3", "adds norms", "np.array([np.sum(own * own)])", "np.array([np.sqrt(np.sum(own * own))]) ** 1.0"
    ),
    Mutant(
        "20.3",
        "its own norm only",
        "    world.all_reduce(total)\n    return float(np.sqrt",
        "    return float(np.sqrt",
    ),
    Mutant(
        "20.4",
        "keeps the weights",
        "        self.x = x\n        return self.layer(self.gather(), x)",
        "        self.x, self.whole = x, self.gather()\n        return self.layer(self.whole, x)",
    ),
    Mutant(
        "20.4",
        "all-reduces first",
        "        self.world.reduce_scatter(flat, self.gradient",
        "        self.world.all_reduce(flat)\n        flat = flat / self.world.size\n"
        "        self.world.reduce_scatter(flat, self.gradient",
    ),
    Mutant(
        "20.5",
        "stage 2 keeps gradients",
        "    whole = 2 * (stage < 3) + 2 * (stage < 2) + k * (stage < 1)\n    return",
        "    whole = 2 * (stage < 3) + 2 * (stage < 3) + k * (stage < 1)\n    return",
    ),
    Mutant("20.5", "rounds down", "math.ceil(parameters", "math.floor(parameters"),
]
