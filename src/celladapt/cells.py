"""Texts as cells of a CSV file, which people open in a spreadsheet."""

_FORMULA = tuple("=+-@\t\n＝＋－＠")  # the wide ones in Japanese and Chinese Excel


def as_cell(text: str) -> str:
    """A text from outside as a cell of a CSV file: where a spreadsheet would take it for a formula, an apostrophe goes before it; numbers stay.

    One that begins with an apostrophe gets another, so that ``of_cell`` takes off what was put there and nothing else. A carriage return, which the csv module does not quote, becomes a space.
    """
    text = text.replace("\r", " ")
    try:
        float(text)
    except ValueError:
        return f"'{text}" if text.startswith(("'", *_FORMULA)) else text
    return text


def of_cell(text: str) -> str:
    """What ``as_cell`` was given, but for carriage returns."""
    return text[1:] if text.startswith("'") and text[1:].startswith(("'", *_FORMULA)) else text
