import pytest

from saev.codes.encode_images import _of_list
from saev.errors import UserError
from tests.fakes.backbone import TinyBackbone


def test_a_list_holds_pictures_and_not_their_names() -> None:
    with pytest.raises(UserError, match="holds PIL images, got a str"):
        next(_of_list(["photo.png"], TinyBackbone(), 2))
