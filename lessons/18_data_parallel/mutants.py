"""Mistakes that learners make in lesson 18."""

from minigrad.lessons.mutants import Mutant

MUTANTS = [
    Mutant(
        "18.1",
        "waits for the send first",
        "[world.start_receive(into, source), world.start_send(out, to)]\n"
        "    for request in requests:\n        request.wait()",
        "[]\n    world.start_send(out, to).wait()\n    world.start_receive(into, source).wait()",
    ),
    Mutant(
        "18.1", "overwrites instead of adding", "pieces[theirs] += arrived", "pieces[theirs][...] = arrived"
    ),
    Mutant(
        "18.1",
        "one step too few",
        "    for step in range(p - 1):\n        mine, theirs = (world.rank - step)",
        "    for step in range(p - 2):\n        mine, theirs = (world.rank - step)",
    ),
    Mutant(
        "18.1",
        "gathers the wrong pieces",
        "(world.rank + 1 - step) % p, (world.rank - step) % p",
        "(world.rank - step) % p, (world.rank - 1 - step) % p",
    ),
    Mutant("18.2", "overwrites the half that it keeps", "array[mine] += arrived", "array[mine] = arrived"),
    Mutant(
        "18.2",
        "keeps the wrong half",
        "(high, low) if world.rank & distance",
        "(low, high) if world.rank & distance",
    ),
    Mutant(
        "18.3",
        "the mean of the means",
        "gradient_of_sum(x, y).copy() if len(x)",
        "gradient_of_sum(x, y) / len(x) * 2 if len(x)",
    ),
    Mutant("18.3", "forgets empty parts", " if len(x) else np.zeros(shape)", ""),
    Mutant(
        "18.4",
        "divides by microbatches",
        "float(sum(len(x) for x, _ in microbatches))",
        "float(len(microbatches))",
    ),
    Mutant(
        "18.4",
        "forgets the other ranks' samples",
        "    world.all_reduce(count)\n    return gradient / count[0]\n\n\ndef learning_rate",
        "    return gradient / count[0]\n\n\ndef learning_rate",
    ),
    Mutant("18.5", "constant warm-up", "0.1 + (reference - 0.1) * epoch / 5", "0.1"),
    Mutant("18.5", "starts from zero", "0.1 + (reference - 0.1) * epoch / 5", "reference * epoch / 5"),
]
