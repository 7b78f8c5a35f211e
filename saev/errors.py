"""UserError: the error a user can act on."""


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
