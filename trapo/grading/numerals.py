"""Numbers as they are written: decimals, mixed numbers, periods under a bar, between dots or before an ellipsis."""

import sympy
from sympy import Integer, Rational

from .algebra import number, repeating
from .cursor import Cursor
from .latex import Unreadable


def mixed_number(p: Cursor) -> sympy.Basic | None:
    r"""A mixed number: an integer before a fraction of two integers, `2\frac{1}{2}` or `3 1/2`."""
    whole, after = p.peek(), p.peek(1)
    if not whole.text.isdigit() or after is None:
        return None
    begin = p.at
    p.take()
    try:
        if after.is_command("frac"):
            p.take()
            top, bottom = p.argument(), p.argument()
        elif after.kind == "number" and after.spaced and _slash(p, 1):
            top, bottom = [p.take()], [p.tokens[p.at + 1]]
            p.at += 2
        else:
            top = bottom = []
    except Unreadable:
        top = bottom = []
    plain = [len(part) == 1 and part[0].kind == "number" and part[0].text.isdigit() for part in (top, bottom)]
    if not all(plain) or p.mark("^", "!", "'") or int(top[0].text) >= int(bottom[0].text):
        if after.is_command("frac") and all(plain) and not p.mark("^", "!", "'"):
            raise Unreadable("a number before an improper fraction")
        p.at = begin
        return None
    return Integer(whole.text) + Rational(int(top[0].text), int(bottom[0].text))


def _slash(p: Cursor, ahead: int) -> bool:
    slash, bottom = p.peek(ahead), p.peek(ahead + 1)
    return bool(slash and slash.is_mark("/") and bottom and bottom.kind == "number")


def numeral(p: Cursor, text: str) -> sympy.Basic:
    """The number whose digits were just taken, with what says how they go on."""
    if p.command("overline", "bar") and "e" not in text and "." in text:
        p.take()
        period = p.argument()
        if len(period) != 1 or not period[0].text.isdigit():
            raise Unreadable("a period that is no digits")
        return repeating(text, period[0].text)
    if p.command("dot") and "." in text:
        return repeating(text, _dotted(p))
    if p.mark("..."):
        p.take()
        digits = text.partition(".")[2]
        for length in range(1, len(digits) // 2 + 1):  # 0.333..., 0.1666..., 0.272727...
            times = 3 if length == 1 else 2
            if digits.endswith(digits[-length:] * times) and p.peek() is None:
                return repeating(text[: len(text) - length * times], digits[-length:])
        raise Unreadable("digits that go on, but how?")
    if text.endswith("."):
        if p.mark("("):
            p.take()
            period = p.take()
            p.expect(")")
            return repeating(text, period.text)
        raise Unreadable("a decimal without decimals")
    return number(text)


def _dotted(p: Cursor) -> str:
    """The digits from one dotted digit to the next: dots stand over the first and the last."""
    digits, dots = "", 0
    while dots < 2:
        if p.command("dot"):
            p.take()
            digits, dots = digits + p.argument()[0].text, dots + 1
        elif dots and p.peek() is not None and p.peek().kind == "number":
            ahead = 1
            if not (p.peek(ahead) and p.peek(ahead).is_command("dot")):
                raise Unreadable("digits behind a period")
            digits += p.take().text
        else:
            break
    if not digits.isdigit():
        raise Unreadable("a period that is no digits")
    return digits
