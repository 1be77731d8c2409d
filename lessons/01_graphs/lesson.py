"""Graphs and derivatives.

Paper: Griewank and Walther 2008, Evaluating Derivatives, chapters 2 and 3; the graphs follow Olah 2015,
    Calculus on Computational Graphs: Backpropagation
Builds: a sum over paths, dual numbers (forward mode), a tape (reverse mode), un-broadcasting
Source: minigrad/walk.py, minigrad/graph.py, minigrad/transforms.py, minigrad/derivatives.py
Ranks: 1
Minutes: 75
"""

# %% [markdown]
# # 1. Graphs and derivatives
#
# A program that computes a number is a graph. Its *nodes* are values. Its *edges* say which value was
# computed from which. This lesson shows that derivatives live on the edges, that a derivative of the whole program is a sum over
# paths, and that all of automatic differentiation is a clever order of adding those paths up.
#
# You will build both orders yourself. At the end you own a small engine of about forty lines, and minigrad's
# `walk.py` will hold no secrets.

# %%
import math

import minigrad as mg
from minigrad.draw import line_chart
from minigrad.lessons import figure, say

# %% [markdown]
# ## A graph with numbers on its edges
#
# Take $e = (a + b) \cdot (b + 1)$ at $a = 2$ and $b = 1$. Name the parts: $c = a + b = 3$, $d = b + 1 = 2$, so $e = c \cdot d = 6$.
#
# Look at one edge, from $c$ to $e$. If $c$ grows by a little, $e$ grows $d$ times as much:
# $\partial e / \partial c = d = 2$. That number belongs to this edge alone. No other part of the graph is needed to know it.
# In the same way $\partial e / \partial d = c = 3$, and every edge into a sum carries a 1.

# %%
a = mg.tensor(2.0, requires_grad=True, dtype="float64")
b = mg.tensor(1.0, requires_grad=True, dtype="float64")
e = (a + b) * (b + 1.0)
figure("graph", mg.draw_graph(e, a=a, b=b), "The graph that minigrad recorded for e = (a + b)(b + 1).")
e.backward()
say(f"e = {e.item():g}   de/da = {a.grad.item():g}   de/db = {b.grad.item():g}")
assert (e.item(), a.grad.item(), b.grad.item()) == (6.0, 2.0, 5.0)

# %% [markdown]
# How does $b$ act on $e$? Along two paths: $b \to c \to e$ and $b \to d \to e$. Multiply the numbers along a path, and add the
# paths: $1 \cdot 2 + 1 \cdot 3 = 5$. That is the chain rule, whole:
#
# $$\frac{\partial z}{\partial x} = \sum_{\text{paths } x \to z} \; \prod_{\text{edges of the path}} \frac{\partial\,\text{head}}{\partial\,\text{tail}}$$
#
# ## Too many paths
#
# Put three edges $\alpha, \beta, \gamma$ from $X$ to $Y$ and three edges $\delta, \varepsilon, \zeta$ from $Y$ to $Z$. There are nine paths. Written out, they take
# 9 multiplications and 8 additions. But the sum factors:
#
# $$\alpha\delta + \alpha\varepsilon + \alpha\zeta + \beta\delta + \dots + \gamma\zeta = (\alpha + \beta + \gamma)(\delta + \varepsilon + \zeta)$$
#
# That is 4 additions and 1 multiplication, because we *merged* what meets at $Y$ before going on. With $k$ such layers there are
# $3^k$ paths and only $3k$ edges.

# %%
layers = range(1, 21)
chart = line_chart(
    {
        "paths": (list(layers), [math.log10(3.0**k) for k in layers]),
        "edges": (list(layers), [math.log10(3.0 * k) for k in layers]),
    },
    title="Paths and edges of k layers with three edges each",
    x_label="layers k",
    y_label="log10 of the count",
)
figure("paths", chart, "Paths grow as a power of three, edges as a straight line.")
say(f"20 layers: {3**20:,} paths, {3 * 20} edges")
assert 3**20 == 3_486_784_401

# %% [markdown]
# So an algorithm must visit every *edge* once and never walk a *path*. There are two ways to do that.
#
# **Forward mode** starts at one input. At each node it keeps one number, the derivative of that node by the input, and merges
# everything that arrives. One pass gives the derivative of *every* node by *one* input.
#
# **Reverse mode** starts at the output. At each node it keeps the derivative of the output by that node. One pass gives the
# derivative of *one* output by *every* node.
#
# Training has millions of inputs (the parameters) and one output (the loss). That is why reverse mode runs the world.

# %%
inputs = [1, 3, 10, 30, 100, 300, 1000]
forward_passes = [float(n) for n in inputs]
chart = line_chart(
    {
        "forward mode": (
            [math.log10(n) for n in inputs],
            [math.log10(1.0 + p) for p in forward_passes],
        ),
        "reverse mode": ([math.log10(n) for n in inputs], [math.log10(2.0) for _ in inputs]),
    },
    title="Passes for the gradient of one output by n inputs",
    x_label="log10 of n",
    y_label="log10 of passes (the function's own included)",
)
figure("passes", chart, "Forward mode needs one pass an input; reverse mode needs one in all.")


# %% [markdown]
# ## Seen in the library
#
# The same function, both ways. `mg.jvp` pushes a tangent forward, `mg.vjp` pulls a cotangent back. With a tangent $t$ and a
# cotangent $v$ they must agree on one number, $\langle v, J t \rangle = \langle J^{\top} v, t \rangle$, because both are the same sum over paths. You will
# meet this equation in every lesson: it is how minigrad tests each of its operations.


# %%
def f(x):
    """Three inputs, three outputs, each used more than once."""
    return mg.stack([x[0] * x[1], mg.sin(x[1]) * x[2], mg.exp(x[0]) + x[2] * x[2]])


x = mg.tensor([0.5, -1.0, 2.0], dtype="float64")
t = mg.tensor([1.0, 0.5, -2.0], dtype="float64")
v = mg.tensor([0.3, -0.7, 1.1], dtype="float64")
_, pushed = mg.jvp(f, x, t)
_, pull = mg.vjp(f, x)
(pulled,) = pull(v) if isinstance(pull(v), tuple) else (pull(v),)
left, right = (v * pushed).sum().item(), (pulled * t).sum().item()
say(f"<v, J t> = {left:.12f}   <J' v, t> = {right:.12f}")
assert abs(left - right) < 1e-12


# %% [markdown]
# ## Three ways to get it wrong
#
# 1. *Overwriting where paths meet.* In $y = x \cdot x + x$ the value $x$ is used three times. Whoever writes the gradient of $x$ instead of
#    adding to it keeps only the last use.
# 2. *The wrong order.* A node may only pass its gradient on once everything has arrived there. Visiting nodes in the reverse
#    order of their creation does that: whoever uses a node is newer than it.
# 3. *Recursion.* A chain of 100,000 operations is ordinary in a recurrent net, and no call stack is that deep. A list and a loop will do.

# %%
x = mg.tensor(3.0, requires_grad=True, dtype="float64")
(x * x + x).backward()
say(f"d(x*x + x)/dx at 3 = {x.grad.item():g}")
assert x.grad.item() == 7.0

y = x
for _ in range(10_000):
    y = y * 1.0
y.backward()
say(f"a chain of 10,000 multiplications by 1 adds {x.grad.item() - 7.0:g}")
assert x.grad.item() == 8.0

# %% [markdown]
# ## Exercises
#
# Open `exercise.py` and fill in the functions, in order. `minigrad check 1` says how far you are.
#
# 1. `sum_over_paths` and `derivatives`: the sum over paths as it is written, and its factored form.
# 2. `Dual`: forward mode as numbers that carry their derivative along.
# 3. `Value` and `backward`: a tape, and the walk back.
# 4. `unbroadcast`: what a gradient must go through when NumPy stretched a value.
#
# ## To remember
#
# - A derivative of a program is a sum over paths; each edge knows its own factor.
# - Merging at each node turns $3^k$ paths into $3k$ edges. Both modes are that merging, from different ends.
# - Forward mode costs one pass an input, reverse mode one pass an output.
#
# | | the books say | we measured |
# |---|---|---|
# | nine paths | 9 multiplications, 8 additions, or 4 additions and 1 multiplication | the same, written out above |
# | $e = (a+b)(b+1)$ | 2 and 5 | 2 and 5 |
# | cost of a gradient | at most about 5 evaluations of the function | lesson 2 measures it |
