"""The start page, the head of a lesson, the menu and the page that does not exist, in a browser."""

import re
import runpy
from pathlib import Path

import pytest

from tests.cases import each
from tests.pages import SHIFTS
from tests.slices import every
from tools import course
from tools.grammar import PICTURE

ROOT = Path(__file__).parents[2]
LESSONS = course.lessons(ROOT / "course")
ASSETS = ROOT / "course/assets"


@pytest.fixture
def page(open_window):
    """A window on a laptop, with nothing remembered."""
    return open_window(viewport={"width": 1280, "height": 900})


# ---- the start page


def test_the_first_screen_has_what_one_may_want_and_a_player_that_runs(page, address):
    page.goto(address)
    buttons = page.locator("a.md-button")
    assert buttons.all_inner_texts() == [
        "Start with lesson 0",
        "My gradients are wrong",
        "Use the tools on my model",
    ]
    player = page.locator("figure.player")
    after = player.get_by_role("button", name="Next").first
    about = page.locator(".start a", has_text="Every output and picture is checked")
    for element in (*buttons.all(), after, about):
        box = element.bounding_box()
        assert box["y"] + box["height"] < 900
    assert player.count() == 1
    assert player.locator(".node.now").count() == 0
    after.click()
    assert player.locator(".node.now").count() > 0


def test_lessons_are_cards_in_a_column_on_a_phone(page, address):
    page.goto(address)
    cards = page.locator(".cards li")
    shown = [text.split("\n\n") for text in cards.all_inner_texts()]
    assert shown == [
        [
            lesson.title,
            lesson.front_matter["description"],
            f"{lesson.star}{course.minutes_shown(*lesson.minutes)}",
        ]
        for lesson in LESSONS
    ]
    for width, columns in ((320, 1), (1280, 3)):
        page.set_viewport_size({"width": width, "height": 900})
        lefts = cards.evaluate_all("all => all.map(e => Math.round(e.getBoundingClientRect().x))")
        assert len({*lefts}) == columns
    cards.nth(1).click(position={"x": 20, "y": 50})  # anywhere on it
    assert page.url.endswith(f"/{LESSONS[1].slug}/")


def test_the_questions_where_to_begin_are_answered_by_clicking_and_remembered(page, address):
    page.goto(address)
    questions = page.locator("[data-part=question]")
    assert questions.count() >= 5
    answered = every(3, questions.all())
    for question in answered:
        key = question.get_attribute("data-key")
        wrong = question.locator(f"input:not([value={key}])").first
        wrong.check()
        assert question.locator("[data-verdict=wrong]").inner_text().startswith("✗")
        question.locator(f"input[value={key}]").check()
        assert question.locator("[data-verdict=right]").is_visible()
        assert question.locator("[data-verdict=wrong]").count() == 0
        advice = question.locator(".answer a[href]").first
        assert advice.is_visible() and re.match(r"lesson \d+", advice.inner_text())
    page.reload()
    assert page.locator("[data-verdict=right]").count() == len(answered)


def test_no_page_of_the_start_moves_while_it_loads(new_page, address):
    """As no lesson does: tests/site/test_lessons.py."""
    page = new_page(viewport={"width": 1280, "height": 900})
    page.add_init_script(SHIFTS)
    for path in ("", "404.html"):
        page.goto(address + path)
        page.locator("h1").wait_for()
        page.evaluate("new Promise(requestAnimationFrame)")
        assert page.evaluate("shifts") == []
    page.close()


def test_what_is_still_to_come_moves_nothing(open_window, address):
    """A page may be painted before its script has run, and before its snippet has arrived."""
    page = open_window(viewport={"width": 1280, "height": 900})
    footers = []
    page.route("**/bundle*.js", lambda route: route.abort())
    page.goto(f"{address}404.html")
    footers.append(page.locator("footer").bounding_box())
    page.unroute_all()
    page.goto(f"{address}404.html")
    footers.append(page.locator("footer").bounding_box())
    assert footers[0] == footers[1]
    page.goto(address)
    width = "document.querySelector('.start > p').offsetWidth"
    with_it = page.evaluate(width)
    page.evaluate("document.querySelector('.start > .language-python').remove()")
    assert page.evaluate(width) == with_it < 700


# ---- the menu, and the head of a lesson


def test_the_menu_has_groups_and_lessons_begin_with_their_numbers(page, address):
    page.goto(address)
    menu = page.locator(".md-sidebar--primary")
    groups = menu.locator(".md-nav__item--section > label").all_inner_texts()
    assert [group.partition(":")[0] for group in groups] == [
        *(f"Lessons {part}" for part in ("I", "II", "III", "IV")),
        "Something is wrong",
        "Look up",
    ]
    links = menu.locator("a[href]").all()
    found = [(link.get_attribute("href"), link.inner_text()) for link in links]
    assert [entry for entry in found if re.match(r"\d", entry[0])] == [
        (f"{lesson.slug}/", lesson.title) for lesson in LESSONS
    ]


def test_titles_have_the_number_and_the_start_page_is_not_said_twice(page, address):
    page.goto(address)
    assert page.title() == "See what .backward() does, step by step - Inside Autograd"
    first, second, third = LESSONS[:3]
    page.goto(f"{address}{second.slug}/")
    assert page.title() == f"{second.title} - Inside Autograd"
    assert page.locator("h1").inner_text().startswith(second.title)
    footer = page.locator(".md-footer__link .md-ellipsis").all_inner_texts()
    assert footer == [first.title, third.title]


@each("lesson", LESSONS)
def test_the_bar_of_a_lesson_says_its_minutes(site, lesson):
    built = (site / lesson.slug / "index.html").read_text(encoding="utf-8")
    bar = built.partition(f'data-lesson="{lesson.slug}"')[2].partition("</div>")[0]
    assert f"<span>{course.minutes_shown(*lesson.minutes)}</span>" in bar
    assert "needs the package" in bar


def test_the_bar_of_a_lesson_works(page, address):
    page.goto(f"{address}{LESSONS[1].slug}/")
    bar = page.locator(".lesson-bar")
    assert bar.bounding_box()["y"] < 450
    covered = page.locator("[data-part=predict] .covered").first
    assert not covered.is_visible()
    bar.get_by_label("Show everything").check()
    assert covered.is_visible()
    page.reload()
    assert covered.is_visible()
    with page.expect_navigation():
        bar.get_by_role("button", name="Forget my answers").click()
    assert not bar.get_by_label("Show everything").is_checked()


def test_without_javascript_no_control_is_shown_that_does_nothing(new_page, address):
    page = new_page(java_script_enabled=False)
    page.goto(f"{address}{LESSONS[1].slug}/")
    assert page.locator(".lesson-bar a").is_visible()
    for control in page.locator(".lesson-bar :is(input, button)").all():
        assert not control.is_visible()
    page.close()


# ---- the page that does not exist


def test_an_address_that_does_not_exist_offers_a_search_and_pages_that_do(page, address, site):
    page.goto(f"{address}404.html")
    links = page.locator(".md-content li a").evaluate_all("all => all.map(a => a.pathname)")
    assert len(links) == 4
    for link in links:
        assert (site / link.lstrip("/") / "index.html").is_file()
    page.get_by_label("Search the course").fill("saved tensor")
    page.get_by_role("button", name="Search", exact=True).click()
    page.locator(".md-search-result__item").first.wait_for()
    assert page.locator("input.md-search__input").input_value() == "saved tensor"


# ---- pictures of the course as a whole


def test_the_pictures_are_made_from_the_drawings_and_the_player_as_they_are_now():
    pictures = runpy.run_path(str(ASSETS / "pictures.py"))
    old = "is no longer what course/assets/pictures.py makes; make update makes it again"
    assert (ASSETS / "logo.svg").read_text(encoding="utf-8") == pictures["logo"](), f"logo {old}"
    for name, html in pictures["pages"]().items():
        png = (ASSETS / name).read_bytes()
        assert pictures["is_of"](png, html), f"{name} {old}"
        assert len(png) < 120_000


def test_a_page_shows_no_picture_that_was_not_made():
    for path in [ROOT / "README.md", *course.pages(ROOT / "course")]:
        shown = re.findall(r"!\[.*\]\((.*assets/.*)\)", path.read_text(encoding="utf-8"))
        assert {PICTURE.fullmatch(name)[1] for name in shown} <= {"player.png", "logo.svg"}


def test_a_page_has_an_icon_and_says_what_it_is_where_somebody_links_to_it(page, address):
    lesson = LESSONS[1]
    page.goto(f"{address}{lesson.slug}/")
    for picture in (page.locator("link[rel=icon]"), page.locator(".md-header .md-logo img")):
        address = picture.evaluate("e => e.href ?? e.src")
        assert address.endswith("/assets/logo.svg")
        assert page.request.get(address).ok

    def said(name):
        return page.locator(f"meta[property='og:{name}']").get_attribute("content")

    assert said("title") == lesson.title
    assert said("description") == lesson.front_matter["description"]
