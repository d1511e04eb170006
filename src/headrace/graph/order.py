"""Directed graphs as lists of successors: what is on a cycle, what can be reached. `check`, `compile` call it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def cycles(successors: Sequence[Iterable[int]]) -> list[list[int]]:
    """The sets of nodes that lie on a cycle together, each sorted, in the order in which messages reach them.

    These are the strongly connected components of more than one node, or of one that is its own successor (R. Tarjan,
    SIAM J. Comput. 1 (1972) 146-160, without recursion).
    """
    found: list[list[int]] = []
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    path: list[int] = []
    on_path: set[int] = set()
    for root in range(len(successors)):
        if root in index:
            continue
        index[root] = low[root] = len(index)
        path.append(root)
        on_path.add(root)
        work = [(root, iter(successors[root]))]
        while work:
            node, ahead = work[-1]
            for successor in ahead:
                if successor not in index:
                    index[successor] = low[successor] = len(index)
                    path.append(successor)
                    on_path.add(successor)
                    work.append((successor, iter(successors[successor])))
                    break
                if successor in on_path:
                    low[node] = min(low[node], index[successor])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component = []
                    while True:
                        member = path.pop()
                        on_path.discard(member)
                        component.append(member)
                        if member == node:
                            break
                    if len(component) > 1 or node in set(successors[node]):
                        found.append(sorted(component))
    return found[::-1]


def reached(successors: Sequence[Iterable[int]], roots: Iterable[int]) -> set[int]:
    """The roots and everything that can be reached from them."""
    seen: set[int] = set()
    work = list(roots)
    while work:
        node = work.pop()
        if node not in seen:
            seen.add(node)
            work.extend(successors[node])
    return seen


def reversed_edges(successors: Sequence[Iterable[int]]) -> list[list[int]]:
    """The same graph with every edge turned round."""
    predecessors: list[list[int]] = [[] for _ in successors]
    for node, ahead in enumerate(successors):
        for successor in ahead:
            predecessors[successor].append(node)
    return predecessors
