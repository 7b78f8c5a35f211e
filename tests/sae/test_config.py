import pytest

from saev.errors import UserError
from saev.sae import SAEConfig


def test_round_trip_through_a_dict() -> None:
    cfg = SAEConfig(4, 8, "topk", 2, max_norm=3.5, layer=1, tokens={"which": "patch"})
    assert SAEConfig.from_dict(cfg.to_dict(), "here") == cfg


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"k": 9}, "k must not exceed"),
        ({"k": 0}, "k must be at least 1"),
        ({"k": None}, "k must be at least 1"),
        ({"activation": "gelu"}, "activation must be one of"),
        ({"activation": "relu"}, "k has no effect"),
        ({"d_sae": 0}, "d_sae must be at least 1"),
        ({"d_model": 0}, "d_model must be at least 1"),
        ({"max_norm": -1.0}, "max_norm must be positive"),
    ],
)
def test_out_of_range_is_refused(values: dict, part: str) -> None:
    settings = {"d_model": 4, "d_sae": 8, "activation": "topk", "k": 2, **values}
    with pytest.raises(ValueError, match=part):
        SAEConfig(**settings)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"format_version": 99}, "format version 99"),
        ({"format_version": None}, "no format_version"),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"k": 100}, "not valid"),
    ],
)
def test_a_config_that_cannot_be_read_is_named(change: dict, part: str) -> None:
    values = {**SAEConfig(4, 8, "topk", 2).to_dict(), **change}
    with pytest.raises(UserError, match=part):
        SAEConfig.from_dict(values, "here/config.json")
