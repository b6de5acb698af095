r"""Units: which words are one, and what they are worth.

Values and dimensions are pint's (https://pint.readthedocs.io), exactly, as fractions; the names are a closed list,
because pint also knows `as` (attoseconds), `k` (Boltzmann's constant) and the like. Things that are counted (`12
apples`) are a closed list too. Any other word is no unit, and an answer with it equals only one with the same word.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

_PREFIXES = {"": "", "n": "nano", "u": "micro", "μ": "micro", "m": "milli", "c": "centi", "k": "kilo", "M": "mega"}
_PREFIXES |= {"G": "giga", "T": "tera", "p": "pico", "f": "femto", "d": "deci", "h": "hecto"}
# Symbols as they are written, the prefixes that they are seen with, and pint's name.
_SYMBOLS = {
    "m": ("n u μ m c k d p f", "meter"), "g": ("n u μ m k", "gram"), "s": ("n u μ m p f", "second"),
    "L": ("u μ m c d", "liter"), "l": ("u μ m c d", "liter"), "N": ("u μ m k M", "newton"),
    "J": ("n u μ m k M G", "joule"), "W": ("n u μ m k M G", "watt"), "Pa": ("m h k M G", "pascal"),
    "V": ("n u μ m k M", "volt"), "A": ("n u μ m k", "ampere"), "C": ("n u μ m p", "coulomb"),
    "F": ("u μ m n p", "farad"), "H": ("m u μ n", "henry"), "T": ("m u μ n", "tesla"), "Hz": ("m k M G T", "hertz"),
    "K": ("m u μ n k", "kelvin"), "mol": ("m u μ n k", "mole"), "eV": ("m k M G T", "electron_volt"),
    "cal": ("k", "calorie"), "Cal": ("", "kilocalorie"), "bar": ("m", "bar"),
    "Wb": ("m", "weber"), "pc": ("k M G", "parsec"),
    "t": ("k M", "metric_ton"), "Ω": ("m k M G", "ohm"), "Omega": ("", "ohm"), "sr": ("", "steradian"),
    "h": ("", "hour"), "d": ("", "day"), "y": ("", "year"), "yr": ("k M G", "year"), "dyn": ("", "dyne"),
}  # fmt: skip
_WORDS = {
    "meter metre": "meter", "gram gramme": "gram", "second sec": "second", "liter litre": "liter", "newton": "newton",
    "joule": "joule", "watt": "watt", "pascal": "pascal", "volt": "volt", "ampere amp": "ampere", "coulomb": "coulomb",
    "farad": "farad", "henry": "henry", "tesla": "tesla", "hertz": "hertz", "kelvin": "kelvin", "mole": "mole",
    "ohm": "ohm", "byte": "byte", "bit": "bit", "ton tonne": "metric_ton", "calorie": "calorie", "electronvolt":
    "electron_volt",
}  # fmt: skip
_PREFIX_WORDS = str.split("nano micro milli centi deci kilo mega giga tera pico")
_OTHERS = {
    "min minute": "minute", "hr hour": "hour", "day": "day", "wk week": "week", "month mo": "month", "year": "year",
    "century": "century", "inch in": "inch", "foot ft": "foot", "yard yd": "yard", "mile mi": "mile",
    "lb lbs pound": "pound", "oz ounce": "ounce", "gal gallon": "gallon", "quart qt": "quart", "pint pt": "pint",
    "cup": "cup", "tablespoon tbsp": "tablespoon", "teaspoon tsp": "teaspoon", "acre": "acre", "hectare ha": "hectare",
    "mph": "mile / hour", "kph kmh": "kilometer / hour", "knot": "knot", "fps": "foot / second",
    "atm atmosphere": "standard_atmosphere", "torr": "torr", "mmHg": "millimeter_Hg", "psi": "psi", "erg": "erg",
    "dyne": "dyne", "angstrom Å": "angstrom", "ly lightyear": "light_year", "au AU": "astronomical_unit",
    "parsec": "parsec", "amu": "unified_atomic_mass_unit", "rad radian": "radian", "deg degree": "degree",
    "degC": "kelvin * celsius_scale", "degF": "kelvin * fahrenheit_scale",
    "rpm": "revolutions_per_minute", "rev revolution": "turn", "cc": "centimeter ** 3",
    "fortnight": "fortnight", "horsepower hp": "horsepower", "kWh": "kilowatt_hour",
    "dollar USD usd buck": "dollar", "cent penny pennies": "cent", "euro EUR": "euro", "yen JPY": "yen",
    "rupee INR": "rupee", "yuan CNY RMB": "yuan", "GBP": "sterling", "pence": "pence",
}  # fmt: skip
_PLURALS = {"feet": "foot", "inches": "inch", "centuries": "century", "henries": "henry", "metres": "metre"}
_BARE = frozenset(  # units that need no \text: letters side by side that nobody multiplies
    str.split(
        "cm mm km nm kg mg Hz kHz MHz GHz kJ MJ kW MW kPa MPa GPa eV keV MeV GeV TeV mol mmol mL ml ft lb lbs mph "
        "km/h kmh oz hr hrs min sec yr rad deg degrees degree atm kcal cal rpm USD EUR GBP in inches inch feet "
        "foot meters metres miles mile seconds minutes hours hour day days week weeks month months year years "
        "dollars dollar cents cent grams kilograms kilometers centimeters millimeters liters litres gallons "
        "radians pounds ounces euros meter yards yd joules newtons watts volts ohms amps kelvin moles square "
        "cubic sq cu units unit"
    )
)
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
COUNTED = frozenset(
    str.split(
        "apple orange banana pear peach cherry grape lemon fruit melon berry strawberry egg cookie cake cupcake "
        "pie pizza slice candy chocolate sandwich burger donut muffin loaf bread piece student child kid boy girl "
        "man woman person people adult teacher player member friend worker employee passenger customer guest "
        "voter soldier doctor nurse sister brother participant team family couple class school house home room "
        "door window floor building street car bus truck train bike bicycle wheel boat ship plane seat chair "
        "table desk bed book page chapter word letter line sentence paper sheet pencil pen crayon marker notebook "
        "magazine newspaper stamp sticker card coin dime nickel bill note ticket ball marble block cube tile "
        "brick box bag basket bottle can jar bucket crate package carton case container toy doll game puzzle gift "
        "flower rose tulip plant tree leaf branch seed bush dog cat fish bird chicken duck cow horse pig sheep "
        "goat rabbit frog turtle bee ant insect animal monkey lion bear shirt sock shoe hat dress button ribbon "
        "star point dot vertex edge face side corner diagonal triangle rectangle circle polygon angle segment ray "
        "plane region area intersection integer number digit divisor factor multiple prime root zero solution "
        "value term element subset set function polynomial coefficient permutation combination arrangement way "
        "path route choice possibility outcome case sequence string pattern color colour step move turn game "
        "match round goal lap trip visit question problem answer test exam grade lesson song movie show video "
        "photo picture event day night electron proton neutron atom molecule ion bond isomer carbon hydrogen "
        "signal peak stereoisomer orbital particle photon cell gene chromosome node graph pixel row column stick "
        "straw rope rod stone rock shell bead pearl lamp light bulb battery phone computer machine robot battery "
        "vote point mark item object thing unit shot hit hole stair ladder rung battery flag key lock tent tool "
        "nail screw hammer plate spoon fork knife glass mug towel pillow blanket blouse quilt post fence pole "
        "mile-marker town city country state planet moon pairing handshake subsequence matrix partition tiling "
        "coloring colouring tuple solution-pair root-pair symmetry fold"
    )
)
_ADJECTIVES = frozenset(
    str.split(
        "real complex distinct different positive negative nonzero integer whole natural possible unique total "
        "more fewer small large red blue green yellow black white such ordered unordered valid rational "
        "irrational even odd prime equivalent additional extra full equal new old common unpaired proper"
    )
)
_IRREGULAR = {
    "people": "person", "children": "child", "men": "man", "women": "woman", "vertices": "vertex", "leaves": "leaf",
    "matrices": "matrix", "loaves": "loaf", "knives": "knife", "mice": "mouse", "feet": "foot", "axes": "axis",
    "families": "family", "cherries": "cherry", "berries": "berry", "strawberries": "strawberry", "candies": "candy",
    "cities": "city", "countries": "country", "batteries": "battery", "possibilities": "possibility", "bodies": "body",
    "symmetries": "symmetry", "boxes": "box", "dresses": "dress", "classes": "class", "buses": "bus",
    "glasses": "glass",
    "branches": "branch", "bushes": "bush", "matches": "match", "peaches": "peach", "sandwiches": "sandwich",
    "heroes": "hero", "zeroes": "zero", "stamps": "stamp", "pennies": "penny", "ladies": "lady", "puppies": "puppy",
}  # fmt: skip


@dataclass(frozen=True)
class Unit:
    """A unit, or what is counted.

    Attributes:
        dimension: name -> power, sorted; two units can be compared where these are equal.
        factor: how many of the base unit it is, None where pint has no exact one.
        name: as it is compared where there is no factor.
        label: an adjective or a direction ("real", "increase"), which must agree where both name one.
    """

    dimension: tuple[tuple[str, int], ...]
    factor: Fraction | None = None
    name: str = ""
    label: str = ""


PERCENT = Unit((("percent", 1),), Fraction(1), "percent")
DEGREES = Unit((("degree", 1),), Fraction(1), "degree")
RADIANS = Unit((("radian", 1),), Fraction(1), "radian")


def is_unit(word: str, bare: bool = False) -> bool:
    """Whether the word names a unit; `bare`: also where it stands in mathematics, as letters side by side."""
    return word in _BARE if bare else (word in _POWERS or word in ("unit", "units") or _pint_name(word) is not None)


def counted(words: list[str]) -> Unit | None:
    """What the words count ("real solutions"); None unless they are known to count something."""
    words = [word.lower() for word in words]
    if not words or any(word not in _ADJECTIVES for word in words[:-1]):
        return None
    noun = singular(words[-1])
    if noun in COUNTED:
        return Unit((("counted", 1),), Fraction(1), noun, " ".join(words[:-1]))
    return None


def singular(word: str) -> str:
    """A noun's singular."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def product(factors: list[tuple[str, int]]) -> Unit | None:
    """The unit that is the product of words to powers; None if one is no unit. "units" themselves count as none."""
    dimension: dict[str, int] = {}
    value: Fraction | None = Fraction(1)
    names = []
    for word, power in factors:
        if word in ("unit", "units"):
            continue
        name = _pint_name(word)
        if name is None:
            return None
        worth, parts = _pint(name)
        value = value * worth**power if value is not None and worth is not None else None
        names.append(f"{name}^{power}")
        for part, exponent in parts:
            dimension[part] = dimension.get(part, 0) + exponent * power
    dimension = {part: exponent for part, exponent in dimension.items() if exponent}
    return Unit(tuple(sorted(dimension.items())), value, " ".join(sorted(names)))


def powers(word: str) -> int:
    """2 for "square", 3 for "cubic", 0 for anything else."""
    return _POWERS.get(word.lower(), 0)


@cache
def _names() -> dict[str, str]:
    names: dict[str, str] = {}
    for symbol, (prefixes, name) in _SYMBOLS.items():
        for prefix in ["", *prefixes.split()]:
            names.setdefault(prefix + symbol, _PREFIXES[prefix] + name)
    for words, name in _WORDS.items():
        for word in words.split():
            for prefix in ["", *_PREFIX_WORDS]:
                for plural in ("", "s"):
                    names[prefix + word + plural] = prefix + name
    for words, name in _OTHERS.items():
        for word in words.split():
            for plural in ("", "s"):
                names.setdefault(word + plural, name)
    return names | {plural: names[one] for plural, one in _PLURALS.items()}


def _pint_name(word: str) -> str | None:
    names = _names()
    if word in names:
        return names[word]
    return names.get(word.lower()) if len(word) > 3 else None


@cache
def _registry():
    import pint

    registry = pint.UnitRegistry(non_int_type=Fraction, cache_folder=None)
    for definition in (
        "dollar = [dollar]", "cent = dollar / 100", "euro = [euro]", "yen = [yen]", "rupee = [rupee]",
        "yuan = [yuan]", "sterling = [sterling]", "pence = sterling / 100", "celsius_scale = [celsius_scale]",
        "fahrenheit_scale = [fahrenheit_scale]", "@alias month = mo",
    ):  # fmt: skip
        registry.define(definition)
    return registry


@cache
def _pint(name: str) -> tuple[Fraction | None, tuple[tuple[str, int], ...]]:
    """What a unit is worth in base units, and those with their powers."""
    if name in ("degree", "radian"):  # an angle's unit is no ratio here: see `comparison`
        return Fraction(1), ((name, 1),)
    quantity = _registry().Quantity(Fraction(1), name).to_root_units()
    exact = isinstance(quantity.magnitude, int | Fraction)
    parts = tuple((str(unit), int(power)) for unit, power in quantity.unit_items())
    return (Fraction(quantity.magnitude) if exact else None), parts
