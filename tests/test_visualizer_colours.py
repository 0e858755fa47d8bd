"""Colours: more is further from paper, text is legible on all of them, and every eye tells them apart."""

import math

import figure_stress as stress
import numpy as np
import pytest
import record_factory as make
from page_reader import EVERY_GLYPH_IS_THERE, HEADER, HOSTILE, hanging_bars
from PIL import Image

from sae_analysis.visualizer import LIGHT, THEMES, digits, feature_page
from sae_analysis.visualizer.examples import activation_scale
from sae_analysis.visualizer.theme import Colour

pytestmark = EVERY_GLYPH_IS_THERE


def luminance(colour: Colour) -> float:
    linear = [((part + 0.055) / 1.055) ** 2.4 if part > 0.04045 else part / 12.92 for part in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", THEMES)
def test_more_activation_is_further_from_paper(name, sign):
    theme = THEMES[name]
    steps = [luminance(theme.activation(sign * value / 50, 1.0)) for value in range(51)]
    assert steps[0] == luminance(theme.paper)
    assert steps == sorted(set(steps), reverse=name != "dark")


@pytest.mark.parametrize("ground", ["paper", "positive", "negative"])
@pytest.mark.parametrize("name", THEMES)
def test_text_is_legible_on_the_deepest_colour(name, ground):
    one, other = (luminance(getattr(THEMES[name], part)) + 0.05 for part in (ground, "ink"))
    assert max(one, other) / min(one, other) >= 4.5


@pytest.mark.parametrize("name", THEMES)
def test_captions_are_legible(name):
    one, other = (luminance(getattr(THEMES[name], part)) + 0.05 for part in ("paper", "quiet"))
    assert max(one, other) / min(one, other) >= 4.5


@pytest.mark.parametrize("eye", stress.COLOUR_VISION)
@pytest.mark.parametrize("name", THEMES)
def test_hues_stay_apart_for_every_eye(name, eye):
    def seen(colour: Colour) -> np.ndarray:
        patch = Image.fromarray((np.array([[colour]]) * 255).round().astype(np.uint8))
        return np.asarray(stress.as_seen(patch, eye))[0, 0].astype(float)

    theme = THEMES[name]
    for one, other in ((theme.positive, theme.negative), (theme.real, theme.synthetic), (theme.real, theme.negative)):
        assert np.linalg.norm(seen(one) - seen(other)) > 60


def test_each_sign_has_its_hue():
    assert LIGHT.activation(2.0, 2.0) == pytest.approx(LIGHT.positive)
    assert LIGHT.activation(-3.0, 2.0) == pytest.approx(LIGHT.negative)


def test_a_nan_or_an_empty_scale_has_no_colour():
    assert LIGHT.activation(math.nan, 1.0) == LIGHT.paper
    assert LIGHT.activation(1.0, 0.0) == LIGHT.paper


@pytest.mark.parametrize("name", THEMES)
def test_a_theme_is_the_same_drawing_in_other_colours(name):
    usual = feature_page(HOSTILE["scripts"], HEADER)
    page = feature_page(HOSTILE["scripts"], HEADER, theme=THEMES[name])
    assert page.lettering == usual.lettering
    assert page.get_facecolor()[:3] == pytest.approx(THEMES[name].paper)


def test_the_colour_key_has_no_seams_between_its_colours():
    """Each colour lies under the next, the last ends with the key: side by side, paper shows between two outlines."""
    page = feature_page(make.stats())
    end = digits.number(activation_scale(make.stats()))
    right = next(item.box.x for item in page.lettering if item.panel == "examples" and item.text == end) - 4
    keys = []
    for at in range(2, 24):  # the first two are nearly paper, as others are
        colour = LIGHT.activation((at + 0.5) / 24, 1.0)
        keys += [box for box in hanging_bars(page, colour) if box.height == pytest.approx(7) and box.width > 2]
    assert len(keys) == 22
    assert [box.right for box in keys[:-1]] == pytest.approx([box.x for box in keys[2:]] + [right])
    assert keys[-1].right == pytest.approx(right)
