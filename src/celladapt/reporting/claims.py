"""A benchmark held against what the authors say of their methods (Haq and Huang, MIDL 2020), pair by pair."""

from dataclasses import dataclass
from itertools import pairwise

from celladapt.reporting.charts import SEMI_SUPERVISED, UNSUPERVISED
from celladapt.reporting.conditions import NAMED
from celladapt.reporting.differences import Comparison, Comparisons
from celladapt.reporting.grid import SUPERVISED, Grid, learns
from celladapt.reporting.reading import SOURCE_ONLY, number
from celladapt.reporting.rendering import signed
from celladapt.reporting.tables import NOTHING, Row, Table

NEAR = 0.02  # IoU below full supervision that we still call near it; the paper names no figure
NOTE = (
    "Haq and Huang, MIDL 2020. A verdict is given where the 95 % interval of the difference leaves out zero and both methods were run with more than one seed. "
    f"Near is ours: at most {NEAR} IoU below full supervision, by the means; * marks a share that is firmly below it. "
    "Neighbours in an order are joined by < where the higher is firmly above, by ≈ where that is undecided. "
    "The paper's order is source_only < da_adv < cellseguda:lambda_rec=0 < cellseguda < cellsegssda with more and more labels < supervised."
)
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
    near = "CellSegSSDA comes near full supervision: from how many labels"
    found = [
        *((text, {pair: _above(comparisons.find(pair, "iou", a, b)) for pair in grid.pairs}) for text, a, b in HIGHER),
        (near, {pair: _near(grid, comparisons, pair) for pair in grid.pairs}),
        ("the order of the methods, lowest IoU first", {pair: _order(grid, comparisons, pair) for pair in grid.pairs}),
    ]
    return [Claim(text, {pair: words for pair, words in said.items() if words}) for text, said in found if any(said.values())]


def claims_table(grid: Grid, comparisons: Comparisons) -> Table:
    """A row for each claim and a column for each pair, or the other way round where the pairs are more."""
    found = claims(grid, comparisons)
    if len(grid.pairs) > max(NAMED, len(found)):
        lines = [Row([pair, *(claim.findings.get(pair, NOTHING) for claim in found)]) for pair in grid.pairs] if found else []
        return Table("Against the paper's claims", "claims", [("", "pair"), *(("", claim.text) for claim in found)], 1 + len(found), lines, [NOTE])
    rows = [Row([claim.text, *(claim.findings.get(pair, NOTHING) for pair in grid.pairs)]) for claim in found]
    return Table("Against the paper's claims", "claims", [("", "claim"), *(("", pair) for pair in grid.pairs)], 1 + len(grid.pairs), rows, [NOTE])


def _above(one: Comparison | None) -> str:
    if one is None:
        return ""
    difference = one.difference
    if difference.low is None or difference.high is None:
        return f"{signed(difference.mean)} IoU, untested: too few test images"
    verdict = "undecided" if not one.firm else "yes" if difference.mean > 0 else "no, the reverse"
    return f"{verdict}: {signed(difference.mean)} IoU ({signed(difference.low)} to {signed(difference.high)})"


def _near(grid: Grid, comparisons: Comparisons, pair: str) -> str:
    """The smallest share of labels from which on every larger one is near as well, and by how much each one differs."""
    methods = sorted((share, method) for method in grid.methods if (share := _share(method)) is not None)
    found = [(share, one) for share, method in methods if (one := comparisons.find(pair, "iou", method, SUPERVISED))]
    if not found:
        return ""
    far = max((share for share, one in found if one.difference.mean < -NEAR), default=0.0)
    near = min((share for share, _ in found if share > far), default=None)
    verdict = "from none of these" if near is None else f"from {near:g} % on"
    return (
        f"{verdict} ("
        + ", ".join(f"{signed(mean)}{'*' * (one.firm and mean < 0)} with {share:g} %" for share, one in found for mean in [one.difference.mean])
        + ")"
    )


def _share(method: str) -> float | None:
    """Percent of target labels of plain "cellsegssda@25%"; None for anything else."""
    name, at, labels = method.partition("@")
    return number(labels.removesuffix("%")) if name == SEMI_SUPERVISED and at and labels.endswith("%") else None


def _order(grid: Grid, comparisons: Comparisons, pair: str) -> str:
    """All methods that learn by their mean IoU."""
    means = {method: mean for method in grid.methods if learns(method) and (mean := grid.entry(pair, method, "iou").mean) is not None}
    ordered = sorted(means, key=lambda method: means[method])
    if len(ordered) < 3:
        return ""
    words = ordered[0]
    for lower, higher in pairwise(ordered):
        one = comparisons.find(pair, "iou", higher, lower)
        words += f" {'<' if one and one.firm else '≈'} {higher}"
    return words
