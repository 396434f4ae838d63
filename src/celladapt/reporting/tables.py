"""The tables of a benchmark: one in memory, written for the terminal, Markdown, LaTeX and CSV."""

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from rich.table import Table as RichTable
from rich.text import Text

from celladapt.cells import as_cell
from celladapt.files import write_text
from celladapt.reporting.conditions import NAMED, adapting, as_percent, facts, notes, tested
from celladapt.reporting.differences import Comparisons
from celladapt.reporting.grid import Entry, Grid, learns
from celladapt.reporting.rendering import METRICS, method_name

PAPER = ("iou", "dice")  # the measures of the paper's table
ABREAST = 2  # pairs that a terminal shows side by side
NOTHING = "–"


@dataclass(frozen=True)
class Row:
    """One line of a table; ``ends`` where a rule is drawn below it."""

    cells: list[str]
    ends: bool = False


@dataclass(frozen=True)
class Table:
    """``columns`` are (heading above several columns or "", heading), as many as the cells of each row; the first ``texts`` of them are words."""

    title: str
    label: str
    columns: list[tuple[str, str]]
    texts: int
    rows: list[Row]
    notes: list[str]


def short(grid: Grid, name: Callable[[str], str] = str) -> Table:
    """``wide``, or of many pairs ``by_pair``; ``name`` writes the methods."""
    return by_pair(grid, name) if len(grid.pairs) > NAMED else wide(grid, name)


def by_pair(grid: Grid, name: Callable[[str], str] = str) -> Table:
    """For many pairs: a row for each, with the IoU of every method and the share of the gap that each one which adapts closes; ``name`` writes the methods."""
    between = adapting(grid)
    heads = [("", "pair"), ("", "test images")]
    heads += [("IoU", name(method)) for method in grid.methods] + [("gap closed", name(method)) for method in between]
    rows = []
    for pair in grid.pairs:
        scores = [entry_text(grid, grid.entry(pair, method, "iou"), method) for method in grid.methods]
        rows.append(Row([pair, tested(grid, pair), *scores, *(gap_text(grid, pair, method) for method in between)]))
    return Table("Target test images", "methods", heads, 1, rows, notes(grid))


def wide(grid: Grid, name: Callable[[str], str] = str) -> Table:
    """The shape of the paper's table: a row for each method, and for each pair its IoU, Dice and share of the gap closed; ``name`` writes the methods."""
    columns = [("", "method")]
    for pair in grid.pairs:
        columns += [(pair, METRICS[measure]) for measure in PAPER] + [(pair, "gap closed")]
    rows = []
    for method in grid.methods:
        cells = [_method(method, name)]
        for pair in grid.pairs:
            cells += [entry_text(grid, grid.entry(pair, method, measure), method) for measure in PAPER] + [gap_text(grid, pair, method)]
        rows.append(Row(cells, ends=not learns(method)))
    return Table("Target test images", "methods", columns, 1, rows, notes(grid))


def long(grid: Grid, name: Callable[[str], str] = str, measures: Iterable[str] = tuple(METRICS)) -> Table:
    """The measures, the share of the gap closed and the seconds of training: a row for each pair and method; of one pair the name is in the title."""
    one = len(grid.pairs) == 1
    measures = list(measures)
    rows = []
    for pair in grid.pairs:
        for method in grid.methods:
            if grid.of(pair, method):
                seconds = grid.seconds(pair, method)
                scores = [entry_text(grid, grid.entry(pair, method, measure), method) for measure in measures]
                cells = [*([] if one else [pair]), _method(method, name), *scores, gap_text(grid, pair, method)]
                rows.append(Row([*cells, NOTHING if seconds is None else f"{seconds:.0f}"], ends=not learns(method)))
        rows[-1] = replace(rows[-1], ends=True)
    heads = [*([] if one else ["pair"]), "method", *(METRICS[measure] for measure in measures), "gap closed", "seconds"]
    title = f"Target test images of {grid.pairs[0]}" if one else "Target test images"
    return Table(title, "measures", [("", head) for head in heads], 1 if one else 2, rows, notes(grid))


def entry_text(grid: Grid, entry: Entry, method: str) -> str:
    """Mean ± standard deviation, with the runs that failed, or the number of seeds where it is not the usual one."""
    score = NOTHING if entry.mean is None else f"{entry.mean:.3f}" + (f" ± {entry.sd:.3f}" if entry.sd is not None else "")
    if entry.failed:
        failed = f"failed ({entry.failed} of {entry.runs})"
        return failed if entry.mean is None else f"{score}; {failed}"
    if learns(method) and 0 < len(entry.values) < grid.usual_seeds:
        return f"{score} ({len(entry.values)} seed{'s' * (len(entry.values) > 1)})"
    return score


def gap_text(grid: Grid, pair: str, method: str) -> str:
    """The share of the gap closed in percent, or a dash, which the notes explain."""
    gap = grid.gap(pair, method)
    return NOTHING if gap is None else as_percent(gap)


def terminal_table(grid: Grid) -> RichTable:
    """For the terminal: of one pair all measures; of several IoU, Dice and the gap closed, in the shape of the paper's table while that fits side by side."""
    table = long(grid) if len(grid.pairs) == 1 else wide(grid) if len(grid.pairs) <= ABREAST else long(grid, measures=PAPER)
    # As Text, because a folder's name in square brackets is not markup.
    result = RichTable(title=Text(table.title), title_justify="left", caption=Text("\n".join(table.notes)), caption_justify="left")
    for index, (group, head) in enumerate(table.columns):
        words = index < table.texts
        heading = Text(f"{group}\n{head}" if group else head)
        result.add_column(heading, justify="left" if words else "right", vertical="bottom", overflow="fold", no_wrap=words)
    for row in table.rows:
        result.add_row(*map(Text, row.cells), end_section=row.ends)
    return result


def markdown(table: Table) -> str:
    """As a Markdown table, without its title and notes."""
    heads = [f"{group} {head}".strip() for group, head in table.columns]
    rule = ["---" if index < table.texts else "--:" for index in range(len(heads))]
    lines = [map(_escape_markdown, heads), rule, *(map(_escape_markdown, row.cells) for row in table.rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def latex(table: Table) -> str:
    """As a complete ``table`` environment for the package booktabs; the notes are in the caption."""
    groups = list(dict.fromkeys(group for group, _ in table.columns if group))
    heading = []
    if groups:
        spans, rules = [""], []
        for group in groups:
            at = [index for index, (other, _) in enumerate(table.columns, start=1) if other == group]
            spans.append(rf"\multicolumn{{{len(at)}}}{{c}}{{{_escape_latex(group)}}}")
            rules.append(rf"\cmidrule(lr){{{at[0]}-{at[-1]}}}")
        heading = [" & ".join(spans) + r" \\", " ".join(rules)]
    body = []
    for row in table.rows:
        body += [" & ".join(map(_escape_latex, row.cells)) + r" \\"] + [r"\midrule"] * row.ends
    if body[-1] == r"\midrule":
        body.pop()
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escape_latex(f'{table.title}. ' + ' '.join(table.notes))}}}",
        rf"\label{{tab:celladapt-{table.label}}}",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{3pt}",
        rf"\begin{{tabular}}{{{'l' * table.texts}{'r' * (len(table.columns) - table.texts)}}}",
        r"\toprule",
        *heading,
        " & ".join(_escape_latex(head) for _, head in table.columns) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def write_tables(grid: Grid, comparisons: Comparisons) -> None:
    """Write the tables into the benchmark's folder.

    ``table.csv`` (the paper's shape, however many pairs there are) and ``measures.csv`` (a row for each pair, method and measure) hold full precision, shares of a gap as fractions;
    ``comparisons.csv`` every comparison; ``table.md`` and ``table.tex`` both tables as they are shown.

    Raises:
        InputError: a file cannot be written.
    """
    folder = grid.folder
    write_text(folder / "table.csv", _csv(_wide_rows(grid)))
    write_text(folder / "measures.csv", _csv(_long_rows(grid)))
    write_text(folder / "comparisons.csv", _csv(_comparison_rows(comparisons)))
    write_text(
        folder / "table.md", markdown(short(grid)) + "\n" + markdown(long(grid)) + "\n" + "".join(f"- {_escape_markdown(x)}\n" for x in notes(grid))
    )
    both = (latex(table) for table in (short(grid, method_name), long(grid, method_name)))
    write_text(folder / "table.tex", "% needs \\usepackage{booktabs}\n" + "\n".join(both))


def _method(method: str, name: Callable[[str], str]) -> str:
    return name(method) if learns(method) else f"{name(method)} (learns nothing)"


def _wide_rows(grid: Grid) -> list[list[object]]:
    heads: list[object] = ["method"]
    for pair in grid.pairs:
        heads += [f"{pair} {what}" for what in ("IoU", "IoU sd", "Dice", "Dice sd", "gap closed", "seeds", "failed")]
    rows = [[*heads, "conditions"]]
    for method in grid.methods:
        row: list[object] = [method]
        for pair in grid.pairs:
            iou, dice = (grid.entry(pair, method, measure) for measure in PAPER)
            row += [iou.mean, iou.sd, dice.mean, dice.sd, grid.gap(pair, method), len(iou.values), iou.failed]
        rows.append([*row, facts(grid)])
    return rows


def _long_rows(grid: Grid) -> list[list[object]]:
    rows: list[list[object]] = [["pair", "method", "measure", "mean", "sd", "seeds", "failed", "test_images", "gap_closed", "conditions"]]
    for pair in grid.pairs:
        images = len(grid.test_images(pair)) or None
        for method in grid.methods:
            for measure in METRICS if grid.of(pair, method) else ():
                entry = grid.entry(pair, method, measure)
                gap = grid.gap(pair, method) if measure == "iou" else None
                rows.append([pair, method, measure, entry.mean, entry.sd, len(entry.values), entry.failed, images, gap, facts(grid)])
    return rows


def _comparison_rows(comparisons: Comparisons) -> list[list[object]]:
    rows: list[list[object]] = [["pair", "measure", "method_a", "method_b", "difference", "low", "high", "images", "seeds", "verdict"]]
    for one in comparisons.every:
        d = one.difference
        seeds = " and ".join(map(str, dict.fromkeys(d.seeds)))
        # Six decimals are more than any test set knows, and the same on every machine.
        values = [None if value is None else f"{value:.6f}" for value in (d.mean, d.low, d.high)]
        rows.append([one.pair, one.measure, one.a, one.b, *values, d.images, seeds, one.in_words()])
    return rows


def _csv(rows: list[list[object]]) -> str:
    """With an empty field for None."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(as_cell, row) for row in rows)
    return text.getvalue()


def _escape_markdown(text: str) -> str:
    return "".join(f"\\{c}" if c in "|<>*`\\" else c for c in text).replace("\n", " ")


def _escape_latex(text: str) -> str:
    special = {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "±": r"$\pm$", "→": r"$\rightarrow$", "−": "$-$", "–": "--", "<": r"\textless{}", ">": r"\textgreater{}", "\n": " ",
    }  # fmt: skip
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
