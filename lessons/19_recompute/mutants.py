"""Mistakes that learners make in lesson 19."""

from minigrad.lessons.mutants import Mutant

MUTANTS = [
    Mutant(
        "19.1",
        "keeps every state",
        "states.append(layer.forward(states[-1]))",
        "layer.seen = states = [*states, layer.forward(states[-1])]",
    ),
    Mutant(
        "19.1",
        "walks each part forwards",
        "for layer in reversed(layers[start:end]):",
        "for layer in layers[start:end]:",
    ),
    Mutant(
        "19.1",
        "runs the parts in order",
        "reversed(list(zip(starts, ends, strict=True)))",
        "list(zip(starts, ends, strict=True))",
    ),
    Mutant("19.1", "runs from the input each time", "states = [kept.pop()]", "states = [kept[0]]"),
    Mutant(
        "19.2",
        "goes on with the generator",
        "self.function(self.x, replay)",
        "self.function(self.x, np.random.default_rng(7))",
    ),
    Mutant(
        "19.2",
        "remembers too late",
        "        output, _ = self.function(x, random)\n        return output",
        "        output, _ = self.function(x, random)\n"
        "        self.before = random.bit_generator.state\n        return output",
    ),
    Mutant(
        "19.2",
        "keeps the way back",
        "output, _ = self.function(x, random)",
        "output, self.pull = self.function(x, random)",
    ),
    Mutant(
        "19.3",
        "a snapshot too many",
        "fewest_extra_steps(layers - m, snapshots - 1)",
        "fewest_extra_steps(layers - m, snapshots)",
    ),
    Mutant(
        "19.3",
        "always the middle",
        "min(cost(layers, snapshots, m) for m in range(1, layers))",
        "cost(layers, snapshots, layers // 2)",
    ),
    Mutant(
        "19.4",
        "keeps the state behind",
        "    del state\n",
        "    layers[0].kept = [state, *getattr(layers[0], 'kept', ())]\n",
    ),
    Mutant(
        "19.4",
        "always the middle",
        "m = min(range(1, count), key=lambda m: cost(count, snapshots, m))",
        "m = count // 2",
    ),
]
