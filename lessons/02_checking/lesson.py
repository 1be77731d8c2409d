"""Checking and differentiating twice.

Paper: Griewank and Walther 2008, Evaluating Derivatives, chapters 3 to 5; Pearlmutter 1994, Fast Exact
    Multiplication by the Hessian; Squire and Trapp 1998, Using Complex Variables to Estimate Derivatives
Builds: central differences, the complex step, the inner-product test, Hessian-vector products, Newton's method
Source: minigrad/testing.py, minigrad/derivatives.py, minigrad/cost.py
Ranks: 1
Minutes: 60
"""

# %% [markdown]
# # 2. Checking and differentiating twice
#
# A wrong derivative does not crash. The loss still falls, only slower. So whoever writes derivatives needs a way to check them, and
# this lesson gives you three. Then it differentiates a second time, for the price of a first.

# %%
import math

import numpy as np

import minigrad as mg
from minigrad.draw import line_chart
from minigrad.lessons import figure, say

# %% [markdown]
# ## Two errors that pull in opposite directions
#
# The definition of a derivative is also a recipe. Take a small $h$ and compute
#
# $$\frac{f(x + h) - f(x)}{h} \qquad \text{or, better,} \qquad \frac{f(x + h) - f(x - h)}{2h}$$
#
# Two errors fight here. *Truncation*: Taylor's series has more terms. The forward difference is wrong by about
# $\tfrac{h}{2} f''(x)$, the central one by $\tfrac{h^2}{6} f'''(x)$. *Round-off*: $f(x+h)$ and $f(x)$ agree in most digits, and subtracting
# them leaves few. The values carry an error near $\epsilon = 2.2 \cdot 10^{-16}$, and dividing by $h$ blows it up to $\epsilon / h$.
#
# A smaller $h$ helps against the first and hurts against the second. Watch both on $\sin$ at $x = 1$, where we know the answer.

# %%
exact = math.cos(1.0)
steps = [10.0 ** (-k / 2) for k in range(2, 27)]
forward = [abs((math.sin(1 + h) - math.sin(1)) / h - exact) for h in steps]
central = [abs((math.sin(1 + h) - math.sin(1 - h)) / (2 * h) - exact) for h in steps]
stepped = [abs(np.sin(complex(1, h)).imag / h - exact) for h in steps]


def log10(values):
    """Powers of ten; an error of exactly zero is drawn at the bottom."""
    return [math.log10(max(value, 1e-17)) for value in values]


chart = line_chart(
    {
        "forward difference": (log10(steps), log10(forward)),
        "central difference": (log10(steps), log10(central)),
        "complex step": (log10(steps), log10(stepped)),
    },
    title="Error of three ways to estimate cos(1)",
    x_label="log10 of the step h",
    y_label="log10 of the error",
)
figure("u_curve", chart, "Truncation falls with h from the right, round-off rises to the left.")

# %% [markdown]
# On the right, where truncation rules, the slopes of the lines are the orders of the methods: 1 and 2. On the left they are $-1$.
# The bottom of a V lies where both errors are equal: near $h = \sqrt{\epsilon} \approx 1.5 \cdot 10^{-8}$ for the forward difference, near
# $h = \epsilon^{1/3} \approx 6 \cdot 10^{-6}$ for the central one. So even the best central difference knows about 11 digits, and never 16.


# %%
def slope(errors):
    """Slope of log error over log h, for h from 0.1 to 0.001."""
    chosen = [k for k, h in enumerate(steps) if 0.9e-3 <= h <= 0.11]
    return np.polyfit([log10(steps)[k] for k in chosen], [log10(errors)[k] for k in chosen], 1)[0]


say(f"slopes on the right: forward {slope(forward):.2f}, central {slope(central):.2f}")
say(f"smallest errors: forward {min(forward):.0e}, central {min(central):.0e}, complex {min(stepped):.0e}")
assert abs(slope(forward) - 1) < 0.02
assert abs(slope(central) - 2) < 0.02
assert min(forward) > 1e-10 > min(central) > 1e-13

# %% [markdown]
# The third curve has no V. The *complex step* evaluates $f$ at $x + ih$ and takes the imaginary part divided by $h$. Nothing is
# subtracted, so $h$ may be as small as you like. It needs a function that understands complex numbers, and that is its limit.
#
# ## One number instead of a matrix
#
# A function with a million inputs has a million partial derivatives. Nobody checks them one by one. Take a random direction $t$ on the
# input side and a random $v$ on the output side. Then three things must be one number:
#
# $$\langle v, \tfrac{f(x + ht) - f(x - ht)}{2h} \rangle \;\approx\; \langle v, J t \rangle \;=\; \langle J^{\top} v, t \rangle$$
#
# The left comes from the function alone. The middle is forward mode, the right is reverse mode. Those two agree to the last
# digits, with no $h$ anywhere, so this catches mistakes that differences are too coarse to see.

# %%
random = np.random.default_rng(0)
x, t = (mg.tensor(random.normal(size=(3, 4))) for _ in range(2))


def f(x):
    """A function with broadcasting, a reduction and a product in it."""
    return mg.exp(x - mg.mean(x, axis=0)) @ mg.matrix_transpose(x)


value, pushed = mg.jvp(f, x, t)
v = mg.tensor(random.normal(size=value.shape))
_, transpose = mg.vjp(f, x)
pulled = transpose(v)
pulled = pulled[0] if isinstance(pulled, tuple) else pulled
h = 6e-6
differences = float(((f(x + h * t) - f(x - h * t)) * v).sum()) / (2 * h)
left, right = float((v * pushed).sum()), float((pulled * t).sum())
say(f"differences {differences:.9f}   forward {left:.12f}   reverse {right:.12f}")
assert abs(left - right) < 1e-12 * abs(left)
assert abs(left - differences) < 1e-7 * abs(left)

# %% [markdown]
# ## What a gradient costs
#
# Reverse mode visits every edge once, and an edge costs about as much as it did on the way forward. A product $y = xW$
# takes one matrix product forward and two back, one for $x$ and one for $W$. Griewank calls it the *cheap gradient principle*: a gradient
# costs at most about five evaluations of the function, however many inputs there are. minigrad counts FLOPs on arrays without values:


# %%
def network(parameters, x):
    """784-100-100-10 with ReLU."""
    first, second, third = parameters
    return mg.relu(mg.relu(x @ first) @ second) @ third


shapes = [(784, 100), (100, 100), (100, 10)]
weights = [mg.zeros(shape, device="shapes") for shape in shapes]
images = mg.zeros((256, 784), device="shapes")
once = mg.cost(network, weights, images).flops
by_weights = mg.cost(lambda w, x: mg.grad(lambda w: network(w, x).sum())(w), weights, images).flops
by_all = mg.cost(
    lambda w, x: mg.grad(lambda w, x: network(w, x).sum(), argnums=(0, 1))(w, x), weights, images
).flops
say(
    f"gradient by the weights: {by_weights / once:.3f} times the function; by the images too: {by_all / once:.3f}"
)
assert abs(by_weights / once - 2.123) < 0.01
assert abs(by_all / once - 3.0) < 0.01

# %% [markdown]
# Counting only the products by hand: forward $2BNM$ a layer, backward $4BNM$, less the input gradient of the first layer, which nobody
# asked for. That is 2.123 and 3. The rest is ReLU and the sum.
#
# ## Differentiating twice
#
# A gradient is a function like any other, so it can be differentiated. The Hessian $H$ of a function of $n$ inputs has $n^2$ entries,
# and almost nobody needs them. What is needed is $Hv$ for some vector $v$, and that is the derivative of the gradient along $v$:
#
# $$H v = \frac{d}{ds} \nabla f(x + s v) \Big|_{s = 0}$$
#
# One push through one pull: *forward over reverse*. It costs a few gradients and no $n^2$ anywhere.


# %%
def rosenbrock(x):
    """The bent valley, with its lowest point at (1, 1)."""
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


here = mg.tensor([1.0, 1.0], dtype="float64")
product = mg.hvp(rosenbrock, here, mg.tensor([1.0, 0.0], dtype="float64"))
third = mg.grad(mg.grad(mg.grad(lambda x: x**5)))(mg.tensor(2.0, dtype="float64"))
say(f"H (1, 0) = {product.numpy()}   third derivative of x^5 at 2: {third.item():g}")
assert product.numpy().tolist() == [802.0, -400.0]
assert third.item() == 240.0

# %% [markdown]
# What second derivatives buy: gradient descent crawls through the valley, Newton's method, $x \leftarrow x - H^{-1} \nabla f$, walks to its end.


# %%
def descend(step, count):
    """Distance to the lowest point, step by step."""
    x, distances = mg.tensor([-1.2, 1.0], dtype="float64"), []
    for _ in range(count):
        distances.append(float(mg.sqrt(((x - 1.0) ** 2).sum())))
        x = step(x)
    return distances


gradient, hessian = mg.grad(rosenbrock), mg.hessian(rosenbrock)
slow = descend(lambda x: x - 0.001 * gradient(x), 40)
fast = descend(lambda x: x - mg.solve(hessian(x), gradient(x)), 8)
chart = line_chart(
    {
        "gradient descent, step 0.001": (range(40), log10(slow)),
        "Newton": (range(8), log10(fast)),
    },
    title="Distance to the lowest point of the Rosenbrock valley",
    x_label="steps",
    y_label="log10 of the distance",
)
figure("newton", chart, "Newton's method doubles the right digits with each of its last steps.")
say(f"after 7 Newton steps: {fast[7]:.1e}; after 39 gradient steps: {slow[39]:.2f}")
assert fast[7] < 1e-8 < slow[39]

hvp_cost = []
sizes = [1, 10, 100, 1000]
for n in sizes:
    point, along = mg.zeros((n,), device="shapes"), mg.zeros((n,), device="shapes")

    def chain(x):
        """A chain of neighbours: n inputs, one output."""
        return (mg.exp(x) * mg.sin(x)).sum()

    function = mg.cost(chain, point).flops
    hvp_cost.append(mg.cost(lambda x, v, f=chain: mg.hvp(f, x, v), point, along).flops / function)
chart = line_chart(
    {"one Hessian-vector product": ([math.log10(n) for n in sizes], hvp_cost)},
    title="FLOPs of H v, in evaluations of the function",
    x_label="log10 of the number of inputs",
    y_label="evaluations",
)
figure("hvp_cost", chart, "The cost of H v does not grow with the number of inputs.")
say("H v in evaluations of the function: " + ", ".join(f"{cost:.1f}" for cost in hvp_cost))
assert max(hvp_cost) < 12

# %% [markdown]
# ## Exercises
#
# 1. `central_difference` and `best_step`: the recipe, and the $h$ at the bottom of the V.
# 2. `complex_step`: derivatives without subtraction.
# 3. `inner_product_gap`: the test that fits any function, whatever its size.
# 4. `hessian_vector_product` and `newton`: a push through a pull, and what it is good for.
#
# ## To remember
#
# - Differences have a best step. Central: $h \approx \epsilon^{1/3}$, about 11 digits in float64. In float32 it is 0.005 and 5 digits: check in float64.
# - $\langle v, Jt \rangle = \langle J^{\top} v, t \rangle$ checks a derivative of any size with one number, to the last digits.
# - A gradient costs a small constant times the function. So does $Hv$.
#
# | | the books say | we measured |
# |---|---|---|
# | slopes of the V | 1, 2 and $-1$ | 1.00 and 2.00 |
# | central differences | error near $10^{-11}$ at the bottom of the V | the same, and $6 \cdot 10^{-13}$ at one lucky step |
# | gradient of 784-100-100-10 | 2.1230 evaluations, 3 with the images | 2.124 and 3.000 (ReLU and sum counted too) |
# | Rosenbrock, $H (1, 0)$ at the lowest point | $(802, -400)$ | the same, exactly |
