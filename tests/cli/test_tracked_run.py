"""Whose folder it is that a command writes into."""

from pathlib import Path

import pytest
import yaml

from saev.cli.tracked_run import CONFIG, VERBS, _refuse_another_verb
from saev.defaults import conf_node
from saev.errors import UserError


@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_of_another_verb_is_refused(tmp_path: Path, verb: str) -> None:
    path = tmp_path / CONFIG
    _refuse_another_verb(tmp_path, verb)  # nothing there yet
    keys = {one: dict.fromkeys(map(str, conf_node(one))) for one in VERBS}
    own_key = verb == "record"  # its last, without which it is a training
    older = keys[verb] if own_key else dict(list(keys[verb].items())[:-1])
    for own in (keys[verb] | {"callbacks": {}}, older, None):
        path.write_text(yaml.safe_dump(own))
        _refuse_another_verb(tmp_path, verb)
    for other in set(VERBS) - {verb}:
        path.write_text(yaml.safe_dump(keys[other]))
        with pytest.raises(UserError, match=rf"is of saev\.{other}, and saev\.{verb} would"):
            _refuse_another_verb(tmp_path, verb)
    for foreign in ("name: mine\nlayers: [3]", "- a", "[" * 3000, "{"):
        path.write_text(foreign)
        with pytest.raises(UserError, match=r"is none of saev's.*another hydra\.run\.dir"):
            _refuse_another_verb(tmp_path, verb)
