r"""A distribution over leaves as a binary tree of yes-no questions, each answered by one shared classifier.

.. math:: P(\text{leaf} \mid x) = \prod_{\text{nodes on its path}} \sigma(\pm (b_{node} + f(x, node)))

with :math:`b_{node}` the log-odds that the marginal masses of the leaves imply. With :math:`f = 0` this is the
marginal; whatever :math:`f` is, the leaves' probabilities sum to one.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Margin = Callable[[Ints, Ints], Floats]
"""``(rows, nodes)`` to what the classifier adds to the log-odds of going right at that node, for those rows."""


@dataclass(frozen=True)
class Hierarchy:
    """A binary tree over ``m`` leaves; ``m - 1`` nodes, the root is node 0 (none for a single leaf).

    Args:
        children: ``(m - 1, 2)`` left and right: a node's number, or ``-1 - leaf``.
        log_odds: ``(m - 1,)`` marginal log-odds of right against left.
        features: ``(m - 1, 2)`` float32 what a classifier sees of a node: its place from left to right, and how many
            leaves it holds.
        nodes: ``(m, depth)`` nodes on the path to each leaf, -1 after its end.
        right: ``(m, depth)`` the path goes right there.
    """

    children: Ints
    log_odds: Floats
    features: NDArray[np.float32]
    nodes: Ints
    right: NDArray[np.bool_]

    @property
    def num_leaves(self) -> int:
        return len(self.nodes)

    @property
    def depth(self) -> int:
        return self.nodes.shape[1]

    def log_prob(self, leaf: Ints, margin: Margin) -> Floats:
        """Log-probability of the leaf of each row, ``(n,)``."""
        out = np.zeros(len(leaf))
        for level in range(self.depth):
            node = self.nodes[leaf, level]
            rows = np.flatnonzero(node >= 0)
            if len(rows):
                node = node[rows]
                logit = self.log_odds[node] + margin(rows, node)
                sign = np.where(self.right[leaf[rows], level], 1.0, -1.0)
                out[rows] -= np.logaddexp(0.0, -sign * logit)
        return out

    def draw(self, uniform: Floats, margin: Margin) -> Ints:
        """A leaf per row from ``(n, depth)`` uniform numbers."""
        at = np.zeros(len(uniform), dtype=np.int64) if len(self.children) else np.full(len(uniform), -1)
        for level in range(self.depth):
            rows = np.flatnonzero(at >= 0)
            if not len(rows):
                break
            logit = self.log_odds[at[rows]] + margin(rows, at[rows])
            # u < sigmoid(logit), in the form that does not overflow
            u = uniform[rows, level]
            right = np.log(u) - np.log1p(-u) < logit
            at[rows] = self.children[at[rows], right.astype(np.int64)]
        return -1 - at


def balanced(mass: Floats) -> Hierarchy:
    """A tree that keeps the order of the leaves: each node cuts where its halves are nearest in mass."""
    children: list[list[int]] = []

    def split(first: int, last: int) -> int:
        if last - first == 1:
            return -1 - first
        number = len(children)
        children.append([0, 0])
        within = np.cumsum(mass[first:last])
        cut = int(np.argmin(np.abs(within[:-1] - within[-1] / 2))) + 1
        # at most a third deeper than even halves, so that a spike does not make a chain
        cut = min(max(cut, (last - first) // 4, 1), last - first - max((last - first) // 4, 1))
        children[number] = [split(first, first + cut), split(first + cut, last)]
        return number

    split(0, len(mass))
    return _finish(children, mass)


def huffman(mass: Floats) -> Hierarchy:
    """The tree with the shortest mean path: frequent leaves are decided first."""
    heap: list[tuple[float, int, object]] = [(float(m), k, k) for k, m in enumerate(mass)]
    heapq.heapify(heap)
    count = len(mass)
    while len(heap) > 1:
        low, high = heapq.heappop(heap), heapq.heappop(heap)
        heapq.heappush(heap, (low[0] + high[0], count, (low[2], high[2])))
        count += 1
    children: list[list[int]] = []

    def number(tree: object) -> int:
        if isinstance(tree, int):
            return -1 - tree
        assert isinstance(tree, tuple)
        own = len(children)
        children.append([0, 0])
        children[own] = [number(tree[0]), number(tree[1])]
        return own

    if heap:
        number(heap[0][2])
    return _finish(children, mass)


def _finish(children: list[list[int]], mass: Floats) -> Hierarchy:
    """Paths, marginal log-odds and features of a tree given by its children."""
    num_nodes = len(children)
    total, leaves, place = np.zeros(num_nodes), np.zeros(num_nodes), np.zeros(num_nodes)
    log_odds = np.zeros(num_nodes)
    paths: dict[int, list[tuple[int, bool]]] = {}
    counter = 0

    def visit(node: int, path: list[tuple[int, bool]]) -> tuple[float, int]:
        nonlocal counter
        if node < 0:
            paths[-1 - node] = path
            return float(mass[-1 - node]), 1
        left = visit(children[node][0], [*path, (node, False)])
        place[node] = counter
        counter += 1
        right = visit(children[node][1], [*path, (node, True)])
        log_odds[node] = np.log(right[0]) - np.log(left[0])
        total[node], leaves[node] = left[0] + right[0], left[1] + right[1]
        return total[node], int(leaves[node])

    if num_nodes:
        visit(0, [])
    else:
        paths[0] = []
    depth = max((len(path) for path in paths.values()), default=0)
    nodes = np.full((len(mass), depth), -1, dtype=np.int64)
    right = np.zeros((len(mass), depth), dtype=bool)
    for leaf, path in paths.items():
        for level, (node, goes_right) in enumerate(path):
            nodes[leaf, level], right[leaf, level] = node, goes_right
    return Hierarchy(
        children=np.array(children, dtype=np.int64).reshape(num_nodes, 2),
        log_odds=log_odds,
        features=np.stack([place, leaves], 1).astype(np.float32),
        nodes=nodes,
        right=right,
    )
