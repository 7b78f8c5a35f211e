import pytest

from saev.heads.label_map import match_labels

COLUMNS = [
    "tench, Tinca tinca",
    "crane",
    "great white shark, white shark",
    "crane, derrick",
    "tench",
]
IDS = ["n01440764", "n02012849", "n01484850", "n03126707", "n00000000"]


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("Great_White-Shark", 2),
        ("white shark", 2),
        ("tinca  tinca", 0),
        ("n03126707", 3),
        ("derrick", 3),
        ("crane, derrick", 3),
        ("crane", -1),
        ("quasar", -1),
    ],
)
def test_a_class_finds_its_column(name, column) -> None:
    matched = match_labels([name, "n01440764"], COLUMNS, IDS)
    assert matched is not None and matched.tolist() == [column, 0]


def test_a_name_of_two_columns_matches_by_id_only() -> None:
    matched = match_labels(["crane", "n02012849"], ["crane, bird", "crane, machine"], IDS[1:3])
    assert matched is not None and matched.tolist() == [-1, 0]


def test_none_when_no_class_is_known() -> None:
    assert match_labels(["quasar", "pulsar"], COLUMNS, IDS) is None


def test_every_class_of_imagenet_finds_itself_by_id() -> None:
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    ids, names = info.label_names(), info.label_descriptions()
    assert match_labels(ids, names, ids).tolist() == list(range(1000))
    # "crane" and, but for its capital, "cardigan" are two classes each; so is "maillot"
    unmatched = [i for i, column in enumerate(match_labels(names, names).tolist()) if column != i]
    assert [names[i] for i in unmatched] == ["crane", "cardigan", "crane", "maillot"]
    assert all(match_labels(names, names)[i] == -1 for i in unmatched)
