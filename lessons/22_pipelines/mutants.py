"""Mistakes that learners make in lesson 22."""

from minigrad.lessons.mutants import Mutant

MUTANTS = [
    Mutant(
        "22.1",
        "backwards in the order of the forwards",
        "for j in reversed(order)] for _ in range(ranks)]",
        "for j in order] for _ in range(ranks)]",
    ),
    Mutant(
        "22.1",
        "a microbatch at a time",
        '[[f"F{j}" for j in order] + [f"B{j}" for j in reversed(order)] for _',
        '[[f"{k}{j}" for j in order for k in "FB"] for _',
    ),
    Mutant(
        "22.2",
        "one forward too many ahead",
        "min(ranks - s - 1, microbatches)",
        "min(ranks - s, microbatches)",
    ),
    Mutant(
        "22.2",
        "forgets to drain",
        "        for j in range(microbatches):\n            if ahead + j",
        "        for j in range(microbatches - ahead):\n            if ahead + j",
    ),
    Mutant("22.3", "waits only for itself", "max(free[s], done[needed])", "free[s]"),
    Mutant(
        "22.3",
        "never says that all wait",
        " if all(at == len(row) for at, row in zip(place, rows, strict=True)) else None",
        "",
    ),
    Mutant(
        "22.3",
        "reads one digit of a microbatch's number",
        "                action = row[place[s]]",
        "                action = row[place[s]][:2]",
    ),
    Mutant(
        "22.4",
        "tries all cuts",
        "    return best[count, stages][1]",
        """    from itertools import combinations

    ways = ((0, *at, count) for at in combinations(range(1, count), stages - 1))
    best = min(ways, key=lambda at: max(sum(costs[a:b]) for a, b in zip(at, at[1:], strict=False)))
    return [b - a for a, b in zip(best, best[1:], strict=False)]""",
    ),
    Mutant(
        "22.4",
        "equal numbers of layers",
        "    return best[count, stages][1]",
        "    return [len(range(k, count, stages)) for k in range(stages)]",
    ),
    Mutant(
        "22.5",
        "no stash of the weight",
        "        weight, x = self.stash.pop(microbatch)",
        "        _, x = self.stash.pop(microbatch)\n        weight = self.weight",
    ),
    Mutant(
        "22.5",
        "steps from the old weight",
        "self.weight -= self.rate * cotangent * x",
        "self.weight = weight - self.rate * cotangent * x",
    ),
    Mutant(
        "22.6",
        "weights at once",
        """            if j >= s:
                row.append(f"W{j - s}")
        row += [f"W{j}" for j in range(max(0, microbatches - s), microbatches)]
""",
        """            row.append(f"W{j}")
""",
    ),
]
