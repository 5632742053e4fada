"""How sequences and trees are scored: edit distances, and brackets of trees in the Penn Treebank's notation."""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any


Tree = tuple  # (label, child, child, ...), or (tag, word) over one word
Span = tuple[int, int]  # first word, and the one after the last

PUNCTUATION = frozenset([".", ",", ":", "``", "''", "-LRB-", "-RRB-", "-NONE-", "$", "#"])


def edit_distance(found: Sequence, true: Sequence) -> int:
    """The fewest insertions, deletions and substitutions from one to the other."""
    row = list(range(len(true) + 1))
    for i, left in enumerate(found, 1):
        corner, row[0] = row[0], i
        for j, right in enumerate(true, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (left != right))
    return row[-1]


def error_rate(found: Sequence[Sequence], true: Sequence[Sequence]) -> float:
    """Edits a true label, over all sequences."""
    return sum(map(edit_distance, found, true)) / sum(map(len, true))


def read_trees(text: str) -> list[Tree]:
    """The trees of a file of brackets, (S (NP (NN time)) (VP (VBZ flies)))."""
    stack: list[list[Any]] = [[]]
    for token in re.findall(r"[()]|[^\s()]+", text):
        if token == "(":
            stack.append([])
        elif token == ")":
            node = stack.pop()
            stack[-1].append(tuple(node))
        else:
            stack[-1].append(token)
    return stack[0]


def is_word(tree: Tree) -> bool:
    return isinstance(tree[1], str)


def pruned(tree: Tree) -> Tree | None:
    """The tree without punctuation, and of nodes over the same words only the topmost, or their tag over one
    word. None if nothing is left."""
    if is_word(tree):
        return None if tree[0] in PUNCTUATION else tree
    children = [child for child in map(pruned, tree[1:]) if child is not None]
    if len(children) == 1:
        (child,) = children
        return child if is_word(child) or tree[0] == "ROOT" else (tree[0], *child[1:])
    return (tree[0], *children) if children else None


def tags(tree: Tree) -> list[str]:
    return [tree[0]] if is_word(tree) else list(itertools.chain(*map(tags, tree[1:])))


def brackets(tree: Tree, start: int = 0) -> set[Span]:
    """The spans of two words and more."""
    if is_word(tree):
        return set()
    found, end = set(), start
    for child in tree[1:]:
        found |= brackets(child, end)
        end += len(tags(child))
    return found | {(start, end)}


def rules(tree: Tree) -> Iterator[tuple[str, str, str]]:
    """The rules of a tree in Chomsky normal form, factored to the right: A → B C D is A → B A|, A| → C D."""
    if is_word(tree):
        return
    parent, children = tree[0], tree[1:]
    labels = [child[0] for child in children]
    rest = f"{parent}|"
    for i, label in enumerate(labels[:-2]):
        yield (rest if i else parent), label, rest
    yield (rest if len(labels) > 2 else parent), *labels[-2:]
    for child in children:
        yield from rules(child)


def f1(found: Sequence[set], true: Sequence[set]) -> tuple[float, float, float]:
    """(precision, recall, F1), counted over all sentences."""
    hits = sum(len(ours & theirs) for ours, theirs in zip(found, true))
    ours, theirs = sum(map(len, found)), sum(map(len, true))
    return hits / max(ours, 1), hits / max(theirs, 1), 2 * hits / max(ours + theirs, 1)
