"""A benchmark held against what the authors say of their methods (Haq and Huang, MIDL 2020), pair by pair."""

from dataclasses import dataclass

from celladapt.reporting.charts import SEMI_SUPERVISED, UNSUPERVISED
from celladapt.reporting.differences import Comparison, Comparisons
from celladapt.reporting.grid import SUPERVISED, Grid, learns
from celladapt.reporting.reading import SOURCE_ONLY, number
from celladapt.reporting.rendering import signed
from celladapt.reporting.tables import NOTHING, Row, Table

NEAR = 0.02  # IoU below full supervision that still counts as near it
DA_ADV, WITHOUT_R = "da_adv", f"{UNSUPERVISED}:lambda_rec=0"
HIGHER = (
    ("CellSegUDA is above source-only", UNSUPERVISED, SOURCE_ONLY),
    ("CellSegUDA is above DA-ADV", UNSUPERVISED, DA_ADV),
    ("reconstruction helps: CellSegUDA is above itself without R", UNSUPERVISED, WITHOUT_R),
)


@dataclass(frozen=True)
class Claim:
    """One claim and what each pair says of it."""

    text: str
    findings: dict[str, str]
    """Pair -> what was found, in words; a pair that says nothing is left out."""


def claims(grid: Grid, comparisons: Comparisons) -> list[Claim]:
    """The paper's claims that the methods of a benchmark can speak to, in the paper's order."""
    near = f"CellSegSSDA comes within {NEAR} IoU of full supervision: from how many labels"
    found = [
        *((text, {pair: _above(comparisons.find(pair, "iou", a, b)) for pair in grid.pairs}) for text, a, b in HIGHER),
        (near, {pair: _near(grid, pair) for pair in grid.pairs}),
        ("the order of the methods, lowest IoU first", {pair: _order(grid, pair) for pair in grid.pairs}),
    ]
    return [Claim(text, {pair: words for pair, words in said.items() if words}) for text, said in found if any(said.values())]


def claims_table(grid: Grid, comparisons: Comparisons) -> Table:
    """A row for each claim, a column for each pair."""
    found = claims(grid, comparisons)
    rows = [Row([claim.text, *(claim.findings.get(pair, NOTHING) for pair in grid.pairs)]) for claim in found]
    return Table("Against the paper's claims", "claims", [("", "claim"), *(("", pair) for pair in grid.pairs)], 1 + len(grid.pairs), rows, [])


def _above(one: Comparison | None) -> str:
    if one is None:
        return ""
    difference = one.difference
    if difference.low is None or difference.high is None:
        return f"{signed(difference.mean)} IoU, untested: too few test images"
    verdict = "undecided" if not difference.firm else "yes" if difference.mean > 0 else "no, the reverse"
    return f"{verdict}: {signed(difference.mean)} IoU ({signed(difference.low)} to {signed(difference.high)})"


def _near(grid: Grid, pair: str) -> str:
    """The smallest share of labels from which on every larger one is near as well, and by how much each one differs."""
    top = grid.entry(pair, SUPERVISED, "iou").mean
    gaps = {
        share: mean - top
        for method in grid.methods
        if (share := _share(method)) and top is not None and (mean := grid.entry(pair, method, "iou").mean) is not None
    }
    if not gaps:
        return ""
    far = max((share for share, gap in gaps.items() if gap < -NEAR), default=0.0)
    near = min((share for share in gaps if share > far), default=None)
    verdict = "from none of these" if near is None else f"from {near:g} % on"
    return f"{verdict} (" + ", ".join(f"{signed(gaps[share])} with {share:g} %" for share in sorted(gaps)) + ")"


def _share(method: str) -> float | None:
    """Percent of target labels of plain "cellsegssda@25%"; None for anything else."""
    name, at, labels = method.partition("@")
    return number(labels.removesuffix("%")) if name == SEMI_SUPERVISED and at and labels.endswith("%") else None


def _order(grid: Grid, pair: str) -> str:
    """All methods that learn by their mean IoU."""
    means = {method: mean for method in grid.methods if learns(method) and (mean := grid.entry(pair, method, "iou").mean) is not None}
    return " < ".join(sorted(means, key=lambda method: means[method])) if len(means) > 2 else ""
