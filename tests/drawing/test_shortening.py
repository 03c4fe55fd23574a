"""shortening.py: long names are cut, and stay apart."""

from hypothesis import given, settings
from hypothesis import strategies as st

from companion.drawing.shortening import lines_of, shortened

NAMES = [
    f"bert.encoder.layer.{i}.{part}LayerNorm.{kind}"
    for i in range(12)
    for part in ("attention.output.", "output.")
    for kind in ("weight", "bias")
]


def test_the_components_that_tell_names_apart_are_kept():
    short = shortened(NAMES, 20)
    assert len(set(short.values())) == len(NAMES)
    assert short[NAMES[0]] == "…layer.0.attention…LayerNorm.weight"
    assert short[NAMES[2]] == "…layer.0.output.LayerNorm.weight"
    assert shortened(NAMES[:1], 20) == {NAMES[0]: "…layer.0…LayerNorm.weight"}


def test_a_name_that_fits_stays_as_it_is():
    assert set(shortened(["x", "layers.0.weight"], 20).values()) == {"x", "layers.0.weight"}


def test_a_component_that_fits_in_a_line_of_its_own_is_not_cut():
    for name in (
        "rnn.weight_ih_l0_reverse",
        "model.rnn.weight_ih_l0_reverse",
        "a.b.position_embedding.weight",
    ):
        (short,) = shortened([name], 20).values()
        *_, last = [part for part in name.split(".") if part != "weight"]
        assert short.removesuffix(".weight").endswith(last)
        assert max(map(len, lines_of(short, 20, "leaf "))) <= 20


def test_the_last_component_never_stands_alone():
    name = "bert.embeddings.word_embeddings.weight"
    assert shortened([name], 20) == {name: "…word_embeddings.weight"}


def test_lines_break_between_components():
    assert lines_of("…layer.0…LayerNorm.weight", 20, "leaf ") == [
        "leaf …layer.0",
        "…LayerNorm.weight",
    ]


COMPONENT = st.sampled_from(
    ["a", "b", "0", "1", "", "weight", "a" * 18, "a" * 20, "a" * 30, "a" * 31, "…"]
)
PATH = st.lists(COMPONENT, min_size=1, max_size=7).map(".".join)


@settings(deadline=None)
@given(st.lists(PATH, unique=True, max_size=12))
def test_no_two_names_that_are_shown_are_equal(names):
    short = shortened(names, 20)
    assert list(short) == names
    if not any("…" in name for name in names):
        assert len(set(short.values())) == len(names)
    for long, name in short.items():
        lines = lines_of(name, 20, "leaf ")
        assert "".join(lines).replace(" ", "") == f"leaf{name}"
        # A number tells names apart of which too much was cut; an ellipsis may be the user's own.
        assert max(map(len, lines)) <= 20 or "#" in name or "…" in long
