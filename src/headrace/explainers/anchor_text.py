"""Anchors of texts: the words that must stay for the answer to hold. The search itself is in `anchors`.

A condition is one word of the text at its place. Of the others each is, by itself and with probability `change`,
replaced by a mask (`mask`) or left out (`drop`); no language model proposes other words (Ribeiro, Singh, Guestrin 2018,
section 4, "text", has both). So precision is the share of such variants with the same answer, coverage the share of all
variants that have the anchor's words, measured on `coverage_samples` of them, and `reference_coverage` the share of the
reference's texts with these words, wherever they stand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np

from headrace.errors import InvalidRequest
from headrace.explainers import anchors
from headrace.explainers.anchors import Anchor
from headrace.explainers.base import Ask, BudgetSpent, Data, Explainer, Explanation, Reference
from headrace.payload import Array

Perturbation = Literal["mask", "drop"]

WORD: Final = re.compile(r"\w+(?:['\u2019-]\w+)*")
"""What a word is: letters and digits, with apostrophes and hyphens inside."""

EXAMPLES: Final = 5


class AnchorText(Explainer):
    """Words of one text under which the model's answer (nearly) always holds."""

    METHOD: ClassVar[str] = "anchor-text"
    DATA: ClassVar[tuple[Data, ...]] = ("text",)

    def __init__(self, reference: Reference, *, seed: int) -> None:
        self._reference, self._seed = reference, seed

    @classmethod
    def make(cls, reference: Reference, *, seed: int = 0) -> Self:
        """Prepare.

        Args:
            reference: Its texts; there may be none.
            seed: Of the samples.

        Raises:
            InvalidRequest: the reference is of a table.
        """
        if reference.x.ndim != 1:
            raise InvalidRequest(f"anchors of texts need a reference of texts, not of shape {list(reference.x.shape)}")
        return cls(reference, seed=seed)

    def explain(
        self,
        ask: Ask,
        x: Array,
        *,
        threshold: float = 0.95,
        delta: float = 0.05,
        tau: float = 0.1,
        beam_size: int = 4,
        batch: int = 50,
        max_anchor_size: int = 8,
        precision_samples: int = 1000,
        coverage_samples: int = 10_000,
        perturbation: Perturbation = "mask",
        mask: str = "UNK",
        change: float = 0.5,
        tolerance: float | None = None,
        output: int = 0,
    ) -> Explanation:
        """Explain one text.

        Args:
            ask: The model.
            x: A `str` in an array of no dimensions.
            threshold: Precision to reach.
            delta: Chance that a bound is wrong.
            tau: How far below the threshold the lower bound of the precision may be.
            beam_size: Candidates that are gone on with.
            batch: Samples of one candidate in one round.
            max_anchor_size: Words, at most.
            precision_samples: Fresh samples that the precision is measured from.
            coverage_samples: Variants that the coverage is measured on.
            perturbation: What becomes of a word that need not stay: `mask` or `drop`.
            mask: What it is replaced by.
            change: With which probability.
            tolerance: Of a model of numbers: how far an answer may be to be the same.
            output: Of several numbers, which.

        Raises:
            InvalidRequest: a parameter is out of its range, or x is no text.
        """
        options = anchors.Options(
            threshold=threshold,
            delta=delta,
            tau=tau,
            beam_size=beam_size,
            batch=batch,
            max_anchor_size=max_anchor_size,
            precision_samples=precision_samples,
        )
        if perturbation not in {"mask", "drop"}:
            raise InvalidRequest(f"'perturbation' of texts is 'mask' or 'drop', not '{perturbation}'")
        if not 0 < change < 1:
            raise InvalidRequest(f"'change' of anchors must be between 0 and 1, and is {change}")
        if coverage_samples < 1:
            raise InvalidRequest(f"'coverage_samples' of anchors must be at least 1, not {coverage_samples}")
        text = x.item() if x.size == 1 else None
        if not isinstance(text, str):
            raise InvalidRequest(f"one text is explained at a time, and an array of shape {list(x.shape)} came")
        rows = np.empty(1, dtype=object)
        rows[0] = text
        rng = np.random.default_rng(self._seed)
        law = TextLaw(
            text, mask=mask if perturbation == "mask" else None, change=change, count=coverage_samples, rng=rng
        )
        law_name = f"{perturbation} {change:g}"
        raw: dict[str, Any] = {"feature": [], "mean": [], "precision": [], "coverage": [], "instance": text}
        try:
            what = anchors.said(ask, self._reference, rows, tolerance=tolerance, output=output)
        except BudgetSpent:
            extra = {"reference_coverage": None}
            return anchors.nothing(self.METHOD, options=options, law=law_name, extra=extra, raw=raw)
        found = anchors.Search(ask, law, what.agrees, options=options, rng=rng).run()

        words = [law.words[at] for at in sorted(found.anchor)]
        raw |= {
            "feature": list(found.anchor),
            "mean": [each[0] for each in found.prefixes],
            "precision": [each[0] for each in found.prefixes],
            "coverage": [each[1] for each in found.prefixes],
            "words": list(law.words),
            "positions": [law.starts[at] for at in sorted(found.anchor)],
        }
        if found.rows is not None and found.agreed is not None:
            raw["examples"] = {
                "covered_true": found.rows[found.agreed][:EXAMPLES].tolist(),
                "covered_false": found.rows[~found.agreed][:EXAMPLES].tolist(),
            }
        return anchors.explanation(
            self.METHOD,
            found,
            what,
            names=[f"'{word}'" for word in words],
            options=options,
            law=law_name,
            extra={"anchor": words, "reference_coverage": self._share(words)},
            raw=raw | {"names": words},
            asked=ask.rows,
            of="variants of the text",
            covered="of all variants are such",
        )

    def _share(self, words: Sequence[str]) -> float | None:
        """Of the reference's texts, how many have all these words."""
        if not len(self._reference.x):
            return None
        wanted = {word.casefold() for word in words}
        texts = (set(WORD.findall(text.casefold())) for text in self._reference.x)
        return sum(wanted <= each for each in texts) / len(self._reference.x)


class TextLaw:
    """How variants of a text are drawn; a Law of `anchors`.

    Args:
        text: The text.
        mask: What stands for a word; None: the word is left out.
        change: With which probability.
        count: Variants that coverage is measured on.
        rng: What these are drawn with.
    """

    def __init__(self, text: str, *, mask: str | None, change: float, count: int, rng: np.random.Generator) -> None:
        found = list(WORD.finditer(text))
        self.words = tuple(each.group() for each in found)
        self.starts = tuple(each.start() for each in found)
        ends = (0, *(each.end() for each in found))
        self._before = [text[end:start] for end, start in zip(ends, (*self.starts, len(text)), strict=True)]
        self._mask, self._change = mask, change
        self._present = self._kept(count, rng)

    @property
    def groups(self) -> Array:
        """Each word is one of its own."""
        return np.arange(len(self.words))

    @property
    def present(self) -> Array:
        """Of the variants that coverage is measured on."""
        return self._present

    @property
    def largest(self) -> int:
        """Rows of about 64 MiB of text."""
        return max(1, 2**26 // (100 + 8 * sum(map(len, self.words))))

    def draw(self, anchors: Sequence[Anchor], count: int, rng: np.random.Generator) -> Array:
        """`count` variants for each anchor, one anchor after the other; `[n]` of `str` objects."""
        kept = self._kept(len(anchors) * count, rng)
        for at, anchor in enumerate(anchors):
            kept[at * count : (at + 1) * count, list(anchor)] = True
        drawn = np.empty(len(kept), dtype=object)
        drawn[:] = [self._variant(each) for each in kept.tolist()]
        return drawn

    def _kept(self, count: int, rng: np.random.Generator) -> Array:
        kept: Array = rng.random((count, len(self.words))) >= self._change
        return kept

    def _variant(self, kept: Sequence[bool]) -> str:
        parts: list[str] = []
        for before, word, stays in zip(self._before[:-1], self.words, kept, strict=True):
            if stays:
                parts += (before, word)
            elif self._mask is not None:
                parts += (before, self._mask)
            elif not before.isspace():  # the space before a word that is left out goes with it
                parts.append(before.rstrip())
        return "".join((*parts, self._before[-1]))
