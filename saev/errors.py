"""UserError: the error a user can act on; and what of others' texts a sentence may show."""

import unicodedata


class UserError(ValueError):
    """Something the user asked for cannot be done.

    The message is one sentence: what is wrong, where, and what to do about it. The commands print
    it without a traceback and exit with status 1 (a traceback comes with ``HYDRA_FULL_ERROR=1``).
    Constructors that check their arguments may raise plain ``ValueError``; Hydra's ``instantiate``
    wraps it and the commands unwrap it again.
    """


def first_line(error: BaseException) -> str:
    """A library's message cut to what fits into a sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120].rstrip(". ")


def printable(text: str) -> str:
    """Others' text as a terminal may get it: control and formatting characters, which move the cursor,
    colour or reverse what follows, as escapes; line breaks and tabs stay."""
    if text.isprintable():
        return text
    return "".join(
        repr(c)[1:-1] if unicodedata.category(c) in HIDDEN and c not in JOINING else c for c in text
    )


HIDDEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
"""Unicode categories of what is no sign, and can hide or forge some."""
JOINING = "\n\t\u200c\u200d"
"""Line breaks and tabs; the joiners of Persian, Indian scripts and emoji."""
