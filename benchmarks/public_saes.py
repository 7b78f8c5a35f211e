"""The table of public dictionaries in docs/tables/public_saes.md, from conf/pretrained.

python -m benchmarks.public_saes > docs/tables/public_saes.md
"""

import sys

from saev.interop.registry import known

HEAD = """# Public dictionaries

`sae=NAME` opens one, wherever a command takes `sae=`; layers are counted from 0.
Explained variance and L0 are those that its makers publish; nothing here was downloaded or measured.
An empty backbone is left open: set it with `python -m saev.convert`.

| name | hub | backbone | layer | tokens | explained variance | L0 | note |
|---|---|---|--:|---|--:|--:|---|
"""


def public_table() -> str:
    """Markdown, a row for each."""
    rows = []
    for one in known():
        v = one.values
        place = v["hub"] + (f"#{v['path']}" if v.get("path") else "")
        tag = (v.get("changes") or {}).get("pretrained_tag")
        backbone = f"{v.get('backbone') or ''}{f' ({tag})' if tag else ''}"
        note = v.get("note") or (
            "inputs normalised: needs a recording" if v.get("normalization") else ""
        )
        cells = [
            f"`{one.name}`", place, backbone, _shown(v.get("layer")), v.get("tokens") or "",
            _shown(v.get("explained_variance")), _shown(v.get("l0")), note,
        ]  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |\n")
    return HEAD + "".join(rows)


def _shown(value: float | int | None) -> str:
    return "" if value is None else f"{value:g}"


if __name__ == "__main__":
    sys.stdout.write(public_table())
