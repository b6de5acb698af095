r"""LaTeX as tokens: every character of an answer ends up in one, or is known to be mere layout.

One pass, linear in the text: braces are matched first, then every character is read once. Characters that have a name
in LaTeX (`√`, `≤`, `½`, `²`, full-width ones) are renamed first. TeX's rules for what a script or an argument without
braces takes hold: `x^10` is x to the 1, then a 0, which nobody means, and is read as neither (kind "unclear").
"""

import re
import unicodedata
from typing import NamedTuple

LONGEST = 2_000  # tokens
DEEPEST = 40  # brackets in brackets; the parser recurses over them


class Unreadable(ValueError):
    """The text, or a part of it, has no reading."""


class Token(NamedTuple):
    """A piece of LaTeX.

    Attributes:
        kind: "number", "grouped" (a number with commas between its digits: perhaps a list), "letter" (a variable, Greek
            ones by name), "run" (letters without a space between), "word" (upright letters, also one), "command",
            "mark" (anything else, one character or a bracket's name), "unclear".
        text: a number's digits without separators, a command's name without its backslash.
        spaced: whether there was space before it.
    """

    kind: str
    text: str
    spaced: bool = False

    def is_mark(self, *texts: str) -> bool:
        """Whether it is one of these marks."""
        return self.kind == "mark" and self.text in texts

    def is_command(self, *texts: str) -> bool:
        """Whether it is one of these commands."""
        return self.kind == "command" and self.text in texts


_GREEK = str.split(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi omicron rho "
    "varrho sigma varsigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Upsilon Phi "
    "Psi Omega hbar ell imath jmath aleph wp"
)
_NAMED = {name: {"varepsilon": "epsilon", "vartheta": "theta", "varphi": "phi"}.get(name, name) for name in _GREEK}
_LAYOUT = frozenset(
    str.split(
        "left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr bigm displaystyle "
        "textstyle scriptstyle limits nolimits quad qquad hfill hfil thinspace medspace thickspace negthinspace "
        "enspace enskip nobreakspace allowbreak nobreak noindent centering null strut mathstrut checkmark boldmath "
        "unboldmath normalsize large Large small mathop mathrel mathbin mathord relax nonumber mathopen mathclose it "
        "sl tt sf em"
    )
)
_LAYOUT_WITH_ARGUMENT = frozenset(str.split("hspace vspace phantom hphantom vphantom color label tag hskip mspace"))
_TEXT = frozenset(str.split("text textrm textup textnormal textsf texttt textsl textsc mbox hbox emph textit textbf"))
_UPRIGHT = frozenset(str.split("mathrm mathsf mathtt rm operatorname operatorname*"))
_TRANSPARENT = frozenset(
    str.split("boldsymbol bm mathit boxed fbox mathnormal ensuremath displaylines pmb smash underline")
)
_SPACES = frozenset(",;:! >")
_ALIASES = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom", "leq": "le", "geq": "ge",
    "leqslant": "le", "geqslant": "ge", "leqq": "le", "geqq": "ge", "neq": "ne", "gt": ">", "lt": "<", "lbrace": "{.",
    "rbrace": ".}", "{": "{.", "}": ".}", "langle": "<.", "rangle": ".>", "lvert": "|.", "rvert": ".|", "|": "||",
    "lVert": "||", "rVert": "||", "Vert": "||", "vert": "|", "mid": "|", "lbrack": "[", "rbrack": "]", "colon": ":",
    "cdots": "...", "ldots": "...", "dots": "...", "dotsc": "...", "dotsb": "...", "dotsm": "...", "dotso": "...",
    "ast": "*", "star": "*", "slash": "/", "lor": "vee", "land": "wedge", "lnot": "neg", "to": "rightarrow",
    "longrightarrow": "rightarrow", "Longrightarrow": "Rightarrow", "implies": "Rightarrow", "iff": "Leftrightarrow",
    "Longleftrightarrow": "Leftrightarrow", "longmapsto": "mapsto", "varnothing": "emptyset", "rm": "mathrm",
    "%": "%", "$": "dollar", "#": "#", "_": "_.", "&": "amp", "infin": "infty",
    "mathds": "mathbb", "Bbb": "mathbb", "backslash": "setminus", "smallsetminus": "setminus", "widehat": "hat",
    "widetilde": "tilde", "overrightarrow": "vec", "textpi": "pi", "euro": "euro", "pounds": "pound",
    "tg": "tan", "ctg": "cot", "cosec": "csc", "arctg": "arctan", "mathbf": "mathbf", "lim": "lim", "sup": "sup",
    "newline": "\\", "cr": "\\", "tabularnewline": "\\", "parallel": "parallel", "textgreater": ">", "textless": "<",
    "prime": "'", "centerdot": "cdot", "bigcup": "cup", "bigcap": "cap", "bullet": "cdot",
    "gets": "leftarrow",
}  # fmt: skip
_MARKS = frozenset(str.split("{. .} <. .> |. .| || [ ] : ... * / > < | % \\ ' _."))
_CHARACTERS = {
    "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": "/", "∕": "/",
    "°": r"^\circ ", "º": r"^\circ ", "˚": r"^\circ ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
    "⩽": r"\le ", "⩾": r"\ge ", "≈": r"\approx ", "≡": r"\equiv ", "±": r"\pm ", "∓": r"\mp ", "∈": r"\in ",
    "∉": r"\notin ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "⌀": r"\emptyset ", "ø": r"\emptyset ",
    "→": r"\to ", "⇒": r"\Rightarrow ", "⇔": r"\iff ", "↦": r"\mapsto ", "∧": r"\wedge ", "∨": r"\vee ", "¬": r"\neg ",
    "∀": r"\forall ", "∃": r"\exists ", "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ", "∂": r"\partial ",
    "∇": r"\nabla ", "∠": r"\angle ", "△": r"\triangle ", "∥": r"\parallel ", "⊥": r"\perp ", "∼": r"\sim ",
    "≅": r"\cong ", "⟨": r"\langle ", "⟩": r"\rangle ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ",
    "⌉": r"\rceil ", "√": r"\usqrt ", "∛": r"\ucbrt ", "∜": r"\ufrrt ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}",
    "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "π": r"\pi ", "…": r"\ldots ", "⋯": r"\ldots ",
    "∖": r"\setminus ", "⊂": r"\subset ", "⊆": r"\subseteq ", "ℏ": r"\hbar ", "ħ": r"\hbar ", "′": "'", "’": "'",
    "″": "''", "、": ",", "。": ".", "，": ",", "；": ";", "：": ":", "（": "(", "）": ")", "％": "%", "€": r"\euro ",
    "£": r"\pound ", "￡": r"\pound ", "¥": r"\yen ", "Ω": r"\Omega ", "µ": r"\mu ", "∝": r"\propto ", "∣": "|",
    "“": '"', "”": '"', "∘": r"\circ ", "∶": ":", "Å": r"\angstrom ", "\u200b": "", "\u200c": "", "\u200d": "",
    "\ufeff": "", "\u2061": "", "\u2062": "", "\u00ad": "",
}  # fmt: skip
for _name in _GREEK:
    with_space = {"varepsilon": "ε", "vartheta": "ϑ", "varphi": "ϕ", "epsilon": "ϵ", "hbar": "ℏ"}
    try:
        kind = "CAPITAL" if _name[0].isupper() else "SMALL"
        _letter = unicodedata.lookup(f"GREEK {kind} LETTER {_name.upper().replace('LAMBDA', 'LAMDA')}")
    except KeyError:
        _letter = with_space.get(_name)
    if _letter and _letter not in _CHARACTERS:
        _CHARACTERS[_letter] = f"\\{_name} "
_RENAMED = str.maketrans(_CHARACTERS)
_RAISED = {"⁰": "0", "¹": "1", "²": "2", "³": "3", "⁴": "4", "⁵": "5", "⁶": "6", "⁷": "7", "⁸": "8", "⁹": "9", "⁺": "+"}
_RAISED |= {"⁻": "-", "ⁿ": "n", "ⁱ": "i"}
_LOWERED = {chr(0x2080 + i): str(i) for i in range(10)} | {"₊": "+", "₋": "-", "ₙ": "n", "ᵢ": "i"}
_SCRIPTS = [(re.compile(f"[{''.join(table)}]+"), mark, table) for mark, table in (("^", _RAISED), ("_", _LOWERED))]
_SEPARATOR = r"(?:\{,\}|,\\!\ ?|\\[,;:\ ]\ ?|\\thinspace\ ?|'|~|[\u00a0\u2009\u202f\ ])"
_NUMBER = re.compile(
    rf"""(?:
        (?P<spaced>\d{{1,3}}(?:{_SEPARATOR}\d{{3}})+)(?![\d])
        |(?P<commas>\d{{1,3}}(?:,\d{{3}})+|\d{{1,2}}(?:,\d{{2}})+,\d{{3}})(?![\d])(?!,\d)
        |(?P<digits>\d+)
    )(?P<decimals>\.\d+)?|(?P<point>\.\d+)""",
    re.VERBOSE,
)
_EXPONENT = re.compile(r"[eE]([+-]?\d+)(?![\w.])")
_REPEATING = re.compile(r"\.(?=\s*(?:\\(?:overline|dot|bar)\b|\(\d))")
_LETTERS = re.compile(r"[^\W\d_]+")
_HYPHENATED = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
_COMMAND = re.compile(r"\\([A-Za-z]+\*?|.)", re.DOTALL)


def renamed(text: str) -> str:
    """The text with characters that LaTeX has a name for written by that name, and full-width ones as plain ones."""
    text = text.translate(_RENAMED)
    if text.isascii():
        return text
    for pattern, mark, table in _SCRIPTS:
        text = pattern.sub(lambda found: f"{mark}{{{''.join(table[c] for c in found[0])}}}", text)  # noqa: B023
    return "".join(c if c.isascii() else _plain(c) for c in text)


def _plain(character: str) -> str:
    if character == "⁄":
        return "/"
    decomposed = unicodedata.normalize("NFKC", character)
    if "⁄" in decomposed:
        top, bottom = decomposed.split("⁄")
        return rf"\frac{{{top}}}{{{bottom}}}"
    return decomposed if decomposed.isascii() else unicodedata.normalize("NFC", character)


def tokens(text: str) -> list[Token]:
    """The tokens of an answer, its layout and the dollars around it gone.

    Raises:
        Unreadable: braces that do not match, or too long or deep to be an answer.
    """
    text = renamed(text)
    lexer = _Lexer(text)
    lexer.read(0, len(text), upright=False)
    if len(lexer.out) > LONGEST:
        raise Unreadable("too long")
    return _scripted(lexer.out)


class _Lexer:
    """One pass over the text; `out` has the tokens so far."""

    def __init__(self, text: str):
        self.text, self.out, self.spaced = text, [], False
        self.closing = _matched(text)
        # An odd number of dollars: they are money. An even one: mathematics between them, or two sums of money, which
        # the other marks tell.
        self.money = len(re.findall(r"(?<!\\)\$", text)) % 2 == 1

    def emit(self, kind: str, text: str) -> None:
        self.out.append(Token(kind, text, self.spaced))
        self.spaced = False

    def read(self, at: int, end: int, upright: bool) -> None:
        """Read text[at:end]."""
        while at < end:
            at = self._one(at, end, upright)

    def _one(self, at: int, end: int, upright: bool) -> int:
        """Read one token; returns where the next begins."""
        text, c = self.text, self.text[at]
        if c.isspace() or c == "~":
            self.spaced = True
            return at + 1
        if c.isdigit() or (c == "." and text[at + 1 : at + 2].isdigit()):
            return self._number(at, end)
        if c == "\\":
            return self._command(at, end, upright)
        if c.isalpha():
            found = (_HYPHENATED if upright else _LETTERS).match(text, at, end)[0]
            kind = "word" if upright or not found.isascii() else "letter" if len(found) == 1 else "run"
            self.emit(kind, found)
            return at + len(found)
        if c == "$":
            if self.money:
                self.emit("command", "dollar")
            self.spaced = True
            return at + 1
        if text.startswith(("...", "**", ">=", "<=", "!=", "->", "=>"), at):
            long = {"...": "...", "**": "^", ">=": "ge", "<=": "le", "!=": "ne", "->": "rightarrow", "=>": "Rightarrow"}
            found = "..." if c == "." else text[at : at + 2]
            if found == "**" and (at == 0 or not (text[at - 1].isalnum() or text[at - 1] in ")}")):
                return at + 2  # Markdown's bold
            self.emit("mark" if long[found] in ("...", "^") else "command", long[found])
            return at + len(found)
        self.emit("mark", c)
        return at + 1

    def _number(self, at: int, end: int) -> int:
        found = _NUMBER.match(self.text, at, end)
        if not found:  # a digit of another script
            self.emit("unclear", self.text[at])
            return at + 1
        whole = found["spaced"] or found["commas"] or found["digits"] or ""
        value = re.sub(r"\D", "", whole) + (found["decimals"] or found["point"] or "")
        after = found.end()
        exponent = _EXPONENT.match(self.text, after, end)
        if exponent and not (at and self.text[at - 1].isalpha()):
            value, after = f"{value}e{exponent[1]}", exponent.end()
        elif not found["decimals"] and _REPEATING.match(self.text, after, end):
            value, after = value + ".", after + 1
        self.emit("grouped" if found["commas"] else "number", value)
        if found["commas"]:  # the list that it may be
            self.out[-1] = Token("grouped", f"{value} {found[0]}", self.out[-1].spaced)
        return after

    def _argument(self, at: int, end: int) -> tuple[int, int, int] | None:
        """Where the braces that follow begin and end inside, and what is behind them; None if none do."""
        while at < end and self.text[at].isspace():
            at += 1
        if at >= end or self.text[at] != "{":
            return None
        return at + 1, self.closing[at], self.closing[at] + 1

    def _command(self, at: int, end: int, upright: bool) -> int:
        found = _COMMAND.match(self.text, at, end)
        if not found:
            raise Unreadable("a backslash at the end")
        name, at = found[1], found.end()
        if name in ("(", ")", "[", "]"):  # the mathematics' delimiters, if they match; a bracket's escape else
            return at
        if name.isspace() or name in _SPACES:
            self.spaced = True
            return at
        if name in _LAYOUT:
            if name in ("left", "right") and self.text[at : at + 1] == ".":  # an invisible bracket
                at += 1
            self.spaced = self.spaced or name not in ("left", "right")
            return at
        argument = self._argument(at, end)
        if name in _LAYOUT_WITH_ARGUMENT and argument:
            self.spaced = True
            return argument[2]
        if name == "textcolor" and argument:
            return argument[2]
        if name in ("bf", "bfseries"):
            name = "mathbf"
            if argument is None:
                return at
        if name in _TEXT | _UPRIGHT or name in _TRANSPARENT:
            return self._styled(name, at, end, argument, upright)
        if name in ("begin", "end") and argument:
            self.emit("command", f"{name} {self.text[argument[0] : argument[1]].rstrip('*')}")
            return argument[2]
        if name in ("mathbb", "mathds", "Bbb", "mathcal", "mathscr", "mathfrak") and argument:
            self.emit("letter", f"{name[4:6]} {self.text[argument[0] : argument[1]].strip()}")
            return argument[2]
        if name in ("degree", "textdegree"):
            self.emit("mark", "^")
            self.emit("command", "circ")
        elif name in _NAMED:
            self.emit("letter", _NAMED[name])
        else:
            name = _ALIASES.get(name, name)
            self.emit("mark" if name in _MARKS else "command", name)
        return at

    def _styled(self, name: str, at: int, end: int, argument: tuple[int, int, int] | None, upright: bool) -> int:
        r"""Text and upright letters: their content; an old-style switch (`\rm cm`) holds to the end of its group."""
        inside = upright if name in _TRANSPARENT else True
        if argument is None:
            if name != "rm":
                self.spaced = True
                return at
            self.read(at, end, True)
            return end
        begin, stop, after = argument
        self.spaced = self.spaced or self.text[begin : begin + 1].isspace()
        self.read(begin, stop, inside)
        self.spaced = self.text[stop - 1 : stop].isspace()
        return after


def _matched(text: str) -> dict[int, int]:
    """Where each brace that opens a group is closed."""
    closing, opened, at = {}, [], 0
    while at < len(text):
        if text[at] == "\\":
            at += 2
            continue
        if text[at] == "{":
            opened.append(at)
            if len(opened) > DEEPEST:
                raise Unreadable("too deep")
        elif text[at] == "}":
            if not opened:
                raise Unreadable("a brace too many")
            closing[opened.pop()] = at
        at += 1
    if opened:
        raise Unreadable("a brace is not closed")
    return closing


def _scripted(found: list[Token]) -> list[Token]:
    """The tokens with every script in braces, and none around a single token otherwise."""
    out: list[Token] = []
    closing: set[int] = set()  # brackets that end a script: 10^(-7)
    for i, token in enumerate(found):
        if i in closing:
            out.append(Token("mark", "}"))
            continue
        if token.is_mark("(") and out and out[-1].is_mark("^") and (end := _bracket_end(found, i)) is not None:
            closing.add(end)
            out.append(Token("mark", "{"))
            continue
        if token.is_command("circ") and len(out) > 1 and out[-1].is_mark("^") and out[-2].is_mark("^"):
            out.pop()
        script = out and out[-1].is_mark("^", "_") and not token.is_mark("{")
        if script and token.kind == "number" and len(token.text) > 1:
            out.append(Token("unclear", token.text))
        elif script and token.kind == "run":
            out += [Token("mark", "{"), Token("letter", token.text[0]), Token("mark", "}")]
            out.append(Token("letter" if len(token.text) == 2 else "run", token.text[1:]))
        elif script and token.text == "o" and len(out) > 1 and out[-2].kind == "number":  # 45^o
            out += [Token("mark", "{"), Token("command", "circ"), Token("mark", "}")]
        elif script and not token.is_mark("-", "+", "^", "_", "'"):
            after = found[i + 1] if i + 1 < len(found) else None
            if token.kind == "command" and after is not None and after.is_mark("{", "["):  # e^\frac{1}{2}
                out.append(token)
            else:
                out += [Token("mark", "{"), token, Token("mark", "}")]
        elif script and token.is_mark("-", "+") and i + 1 < len(found) and found[i + 1].kind == "number":
            out += [Token("mark", "{"), token, found[i + 1], Token("mark", "}"), Token("taken", "")]
        elif out and out[-1].kind == "taken":
            out.pop()
        else:
            out.append(token)
    out = [token for token in out if token.kind != "taken"]
    empty = {
        i
        for i in range(len(out) - 1)
        if out[i].is_mark("{") and out[i + 1].is_mark("}")
        and not (i and (out[i - 1].kind == "command" or out[i - 1].is_mark("^", "_", "}")))
    }  # fmt: skip
    return [token for i, token in enumerate(out) if i not in empty and i - 1 not in empty]


def _bracket_end(found: list[Token], at: int) -> int | None:
    """Where the round bracket at `at` closes; None if it does not, or not within an exponent's length."""
    depth = 0
    for i in range(at, min(len(found), at + 40)):
        depth += found[i].is_mark("(") - found[i].is_mark(")")
        if depth == 0:
            return i
    return None


def canonical(found: list[Token]) -> str:
    """The tokens as one string: the same for the same marks on the page, whatever commands and spaces made them."""
    parts: list[str] = []
    for token in found:
        if token.kind in ("run", "word"):
            parts += list(token.text)
        elif token.kind == "grouped":
            parts.append(token.text.split()[0])
        else:
            parts.append(token.text if token.kind != "unclear" else f"?{token.text}")
    return " ".join(parts)
