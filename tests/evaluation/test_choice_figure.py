"""The figure of a front: readable labels, and axes that suit the range."""

from matplotlib.text import Text

from saev.evaluation.choice.figure import Dot, pareto_figure


def dots(*points: tuple[float, float]) -> list[Dot]:
    return [
        Dot(
            f"model=variant_{n}", float(l0), variance, 0.01 * n, 0.0, True, n + 1 if n < 2 else None
        )
        for n, (l0, variance) in enumerate(points)
    ]


def test_labels_of_close_members_do_not_cover_each_other() -> None:
    close = dots((31, 0.70), (32, 0.773), (33.1, 0.776), (33.4, 0.774), (33.4, 0.774), (34.5, 0.78))
    figure = pareto_figure(close, "close")
    figure.draw_without_rendering()
    texts = figure.axes[0].texts
    assert [text.get_text() for text in texts][-1] == "model=variant_5"
    boxes = [Text.get_window_extent(text) for text in texts]  # without the line to the dot
    assert len(boxes) == 6
    for n, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:n])
    assert figure.axes[0].get_xscale() == "linear"


def test_axes_suit_the_range() -> None:
    assert pareto_figure(dots((2, 0.1), (64, 0.9)), "").axes[0].get_xscale() == "log"
    assert pareto_figure(dots((0, 0.0), (64, 0.9)), "").axes[0].get_xscale() == "linear"
    assert pareto_figure(dots((32, 0.9)), "one").axes[0].get_title(loc="left") == "one"
