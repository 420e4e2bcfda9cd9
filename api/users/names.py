"""User names: one spelling for each, so that nobody can pass for another."""

import re
import unicodedata

# Characters that print as nothing, although Unicode counts them as letters, marks or symbols.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
# Many letters of these alphabets look the same.
_SIMILAR = {"LATIN", "GREEK", "CYRILLIC"}


def unify(name: str) -> str:
    """Return the one spelling (NFKC) of a name that can be typed in several ways.

    >>> unify("\uff41da"), unify("Jose\u0301")
    ('ada', 'José')
    """
    return unicodedata.normalize("NFKC", name)


def refuse_look_alikes(name: str) -> str:
    """Return a name, unless it could look like another one.

    Raises:
        ValueError: it has an invisible character, or mixes alphabets that look alike.
    """
    if not name.isprintable() or _INVISIBLE.search(name):
        raise ValueError("a name has no invisible characters")
    alphabets = {unicodedata.name(letter, "").split(" ")[0] for letter in name if letter.isalpha()}
    if len(alphabets & _SIMILAR) > 1:
        raise ValueError("a name has the letters of one alphabet")
    return name
