"""Groups of sibling classes, as M7 asks for them, from a list of classes and their parents."""

from collections.abc import Iterable, Sequence


def sibling_groups(lines: Iterable[str], class_names: Sequence[str]) -> dict[str, list[int]]:
    """Parent → indices of its classes in ``class_names``, from lines ``class<TAB>parent``.

    A class may stand on several lines, with a parent each; empty lines and those that begin with #
    are left out.

    Raises:
        ValueError: a line that has no tab, or a class that is not among ``class_names``.
    """
    index = {name: at for at, name in enumerate(class_names)}
    groups: dict[str, set[int]] = {}
    for number, line in enumerate(lines, start=1):
        line = line.rstrip("\r\n")
        if not line.strip() or line.startswith("#"):
            continue
        name, tab, parent = line.partition("\t")
        if not tab or not parent.strip():
            raise ValueError(f"Line {number} must be class<TAB>parent, got {line!r}.")
        if name not in index:
            raise ValueError(
                f"Line {number}: class {name!r} is none of the {len(index)} classes. Correct it, or "
                "leave the line out."
            )
        groups.setdefault(parent.strip(), set()).add(index[name])
    return {parent: sorted(classes) for parent, classes in groups.items()}
