"""The data sets in words."""

from typing import TYPE_CHECKING

from celladapt.data.public._set import PublicSet

if TYPE_CHECKING:
    from rich.table import Table


def table(sets: dict[str, PublicSet]) -> "Table":
    """Name, what it is, size, licence and how to get it, one row a set."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    result = Table("name", "what", "size", "licence", "get it by", box=box.SIMPLE_HEAD, pad_edge=False)
    result.columns[0].no_wrap = True
    for name, chosen in sets.items():
        result.add_row(*map(Text, (name, chosen.what, chosen.size, chosen.licence, "fetch" if chosen.files else "asking, then convert")))
    return result


def details(name: str, chosen: PublicSet) -> str:
    """Everything about one set, the state of its checksums included."""
    lines = [f"{name}: {chosen.what}", f"size      {chosen.size}", f"licence   {chosen.licence}", f"cite      {chosen.citation}"]
    lines += [f"page      {chosen.homepage}", f"layout    {chosen.layout}"]
    lines += [f"file      {remote.url} ({remote.checksum or 'no checksum known'})" for remote in chosen.files]
    if chosen.files:
        lines.append(f"get it    celladapt data fetch {name}")
    else:
        lines.append(f"get it    {chosen.ask}; then celladapt data convert {name} SRC DST")
    lines.append(f"group     {chosen.group or 'nothing in the names tells which images belong together'}")
    return "\n".join(lines)
