"""What the page says and keeps: never more than the server confirmed, no longer than it is true, and nothing lost of
what was typed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from browsing import look, needs_browser, open_page, settings
from linnet.loras import STRONGEST
from linnet.request import RANGES
from linnet.serve.keys import make_key
from linnet.serve.queue import Queue
from serving import Server

pytestmark = needs_browser

UNDO = 7000  # milliseconds that a deletion waits
QUICK: dict[str, Any] = {"num_frames": 5, "num_inference_steps": 1}
WIDTHS = (1200, 700, 360)


@pytest.fixture
def clip(server: Server) -> Iterator[str]:
    """One that was made with all that the model does by itself."""
    job = server.create(prompt="a red star", num_frames=5, seed=7)
    server.wait(job, "completed")
    yield job
    server.http.delete(f"/v1/videos/{job}")


def asked(page: Page) -> dict[str, Any]:
    """What the page sends when its button is pressed; the server never sees it."""
    page.route("**/v1/videos", lambda route: route.abort(), times=1)
    with page.expect_request(lambda r: r.method == "POST" and r.url.endswith("/v1/videos")) as sent:
        page.get_by_role("button", name="Make it").click()
    return sent.value.post_data_json or {}


# --- never more than the server confirmed


def test_what_is_deleted_when_the_page_is_left_cannot_be_undone_later(
    clip: str, page: Page, server: Server
) -> None:
    page.get_by_role("button", name="Delete: ").click()
    expect(page.locator("#toast")).to_contain_text("Deleting it…")  # not yet: it can be undone
    assert server.http.get(f"/v1/videos/{clip}").status_code == 200
    # The browser puts the page away as it is, and brings it back at the button Back.
    with page.expect_response(lambda r: r.request.method == "DELETE"):
        page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
    page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    expect(page.locator("#news")).to_have_text("Deleted.")
    expect(page.get_by_role("button", name="Undo")).to_be_hidden()
    expect(page.locator("article")).to_have_count(0)
    assert server.http.get(f"/v1/videos/{clip}").status_code == 404


def test_undo_says_what_the_server_says(clip: str, page: Page, server: Server) -> None:
    news, undo = page.locator("#news"), page.get_by_role("button", name="Undo")
    page.get_by_role("button", name="Delete: ").click()
    undo.click()
    expect(news).to_have_text("It is back.")
    expect(page.locator("article")).to_have_count(1)
    page.get_by_role("button", name="Delete: ").click()
    server.http.delete(f"/v1/videos/{clip}")  # from another device
    undo.click()
    expect(news).to_have_text("It cannot come back: it is deleted.")
    expect(page.locator("article")).to_have_count(0)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            {"status": 500, "json": {"error": {"message": "the server made a mistake"}}},
            "could not be deleted",
        ),
        ({"status": 502, "body": "<html>"}, "What is still shown is not deleted"),
    ],
)
def test_a_deletion_that_fails_is_said_and_the_video_shown(
    browser: Browser, server: Server, clip: str, answer: Any, words: str
) -> None:
    with open_page(browser, server) as page:
        page.clock.install()
        page.reload()
        page.route(f"**/v1/videos/{clip}", lambda route: route.fulfill(**answer), times=1)
        page.get_by_role("button", name="Delete: ").click()
        page.clock.fast_forward(UNDO)
        expect(page.locator("#news")).to_contain_text(words)
        expect(page.locator("article")).to_have_count(1)


def test_of_several_versions_it_says_how_many_were_accepted(page: Page, server: Server) -> None:
    full = {"error": {"message": "the queue is full (2 jobs); try again later"}}
    answers = iter([None, {"status": 429, "json": full}])

    def answer(route: Route) -> None:
        given = next(answers, None) if route.request.method == "POST" else None
        route.fulfill(**given) if given else route.continue_()

    page.route("**/v1/videos", answer)
    settings(page, steps=1)
    page.get_by_label("Versions").select_option("4")
    page.get_by_role("button", name="Make it").click()
    expect(page.get_by_role("alert").first).to_have_text(
        "1 of 4 videos are in the queue. The queue is full (2 jobs); try again later."
    )
    for job in server.http.get("/v1/videos").json()["data"]:
        server.http.delete(f"/v1/videos/{job['id']}")


# --- no longer than it is true


def test_a_server_that_hangs_is_away_too_until_it_answers(browser: Browser, server: Server) -> None:
    with open_page(browser, server) as page:
        page.clock.install()
        page.reload()
        expect(page.locator("#plan")).to_contain_text("GB of memory")
        hung: list[Route] = []
        page.route("**/v1/videos?*", lambda route: hung.append(route))
        look(page)
        while not hung:
            page.wait_for_timeout(20)
        page.clock.fast_forward(21_000)
        expect(page.locator("#news")).to_have_text("The server does not answer: trying again…")
        page.unroute("**/v1/videos?*")
        look(page)
        expect(page.locator("#news")).to_have_text("The server is back.")


def test_what_was_cancelled_is_not_in_the_making_and_is_tried_again(page: Page, server: Server) -> None:
    jobs = [server.create(prompt="a red star", num_inference_steps=1000, seconds="60") for _ in range(3)]
    look(page)
    for job in jobs:
        page.locator(f'#queue li[data-id="{job}"]').get_by_role("button").click()
    expect(page.locator("#making")).to_be_hidden()
    expect(page.locator("#unmade li")).to_have_count(3)
    page.get_by_role("button", name="Again with other words").first.click()
    expect(page.get_by_label("Steps", exact=True)).to_have_value("1000")
    page.get_by_role("button", name="Dismiss all").click()
    expect(page.locator("#ended")).to_be_hidden()
    page.reload()  # which does not wait for the time to undo
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#ended")).to_be_hidden()


def test_a_video_that_another_device_deleted_is_said_when_it_is_played(
    clip: str, page: Page, server: Server
) -> None:
    expect(page.locator("video")).to_have_count(1)
    server.http.delete(f"/v1/videos/{clip}")
    page.locator("video").evaluate("video => video.play().catch(() => {})")
    expect(page.locator("#news")).to_contain_text("no longer on the server")
    expect(page.locator("video")).to_have_count(0)


# --- no choice lost, none that is overlooked


def test_another_quality_after_again_with_has_its_own_steps(clip: str, page: Page) -> None:
    page.get_by_role("button", name="Again with other words").click()
    steps = page.get_by_label("Steps", exact=True)
    expect(steps).to_have_value("")
    page.get_by_label("Quality").select_option("fast")
    expect(steps).to_have_attribute("placeholder", "10")
    sent = asked(page)
    assert (sent["profile"], sent.get("num_inference_steps"), sent.get("guidance_scale")) == (
        "fast",
        None,
        None,
    )
    steps.fill("33")  # typed for this quality
    assert asked(page)["num_inference_steps"] == 33
    page.get_by_label("Quality").select_option("draft")
    assert asked(page).get("num_inference_steps") is None


def test_a_fixed_seed_is_said_and_a_new_one_is_drawn(clip: str, page: Page) -> None:
    hint = page.locator("#fixed")
    expect(hint).to_be_hidden()
    page.get_by_role("button", name="Again with other words").click()
    expect(hint).to_contain_text(
        "The seed 7 is fixed: the same words and settings make the same video again."
    )
    assert asked(page)["seed"] == 7
    page.get_by_label("Versions").select_option("4")
    expect(hint).to_contain_text("Seeds 7 to 10 are fixed")
    page.get_by_label("Versions").select_option("1")
    page.get_by_role("button", name="Use a new seed").click()
    expect(hint).to_be_hidden()
    expect(page.get_by_role("button", name="Make it")).to_be_focused()
    assert "seed" not in asked(page)


def test_what_was_typed_outlives_a_reload(
    page: Page, browser: Browser, server: Server, tmp_path: Path
) -> None:
    Image.new("RGB", (16, 9), "green").save(tmp_path / "green.png")
    typed = {"seed": "7", "steps": "33", "guidance": "2.5"}
    page.get_by_label("What should the video show?").fill("a green heart")
    settings(page, **typed)
    page.get_by_label("What it must not show").fill("red")
    for label, choice in (("Length", "5"), ("Quality", "fast"), ("Versions", "4")):
        page.get_by_label(label).select_option(choice)
    page.get_by_label("Steps", exact=True).fill("33")
    page.get_by_label("Begin from image or clip").set_input_files(tmp_path / "green.png")
    expect(page.get_by_alt_text("What the video begins with")).to_be_visible()
    before = asked(page)
    page.reload()
    expect(page.locator("#began")).to_contain_text("“green.png” was left out when the page was loaded again.")
    after = asked(page)
    assert after == {name: value for name, value in before.items() if name != "input_reference"}
    assert after["prompt"] == "a green heart"
    expect(page.get_by_label("Versions")).to_have_value("4")
    with open_page(browser, server) as other:  # of another visitor
        expect(other.get_by_label("What should the video show?")).to_have_value(
            "a red star spins on a blue background"
        )


def test_a_download_is_named_after_its_prompt_and_seed(clip: str, page: Page) -> None:
    with page.expect_download() as loaded:
        page.get_by_role("link", name="Download: ").click()
    assert loaded.value.suggested_filename == "a-red-star-7.mp4"


# --- in the page's own words


@pytest.mark.parametrize(
    ("label", "typed", "words"),
    [
        ("Steps", "0", "Steps must be a whole number from 1 to 1000."),
        ("Steps", "2.5", "Steps must be a whole number from 1 to 1000."),
        ("Seed", "many", "Seed must be a whole number from 0 to 4294967295."),
        ("Guidance", "101", "Guidance must be a number from 0 to 100."),
    ],
)
def test_a_number_that_cannot_be_is_refused_at_its_field(
    page: Page, label: str, typed: str, words: str
) -> None:
    settings(page, **{label: typed})
    page.get_by_text("More settings").click()  # closed, with the value in it
    page.get_by_role("button", name="Make it").click()
    field = page.get_by_label(label, exact=True)
    expect(page.get_by_role("alert").first).to_have_text(words)
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_be_focused()
    field.fill("")
    expect(page.locator("#problem")).to_have_text("")
    expect(field).not_to_have_attribute("aria-invalid", "true")


def test_the_ranges_are_those_of_a_request(page: Page) -> None:
    shown = page.evaluate(
        "[...document.querySelectorAll('[data-least]')].map(one => [one.id, +one.dataset.least, +one.dataset.most])"
    )
    assert {name: (least, most) for name, least, most in shown} == {"lora-strength": (0, STRONGEST)} | {
        name: RANGES[name] for name in ("seed", "steps", "guidance")
    }


@pytest.mark.parametrize(
    ("message", "param", "label", "words"),
    [
        ("num_inference_steps: input should be less", "num_inference_steps", "Steps", "Steps: input should be less."),
        ('seconds "9": is too long; ask for less', "seconds", "Length", "Length: is too long; ask for less."),
        ('negative "fox": seedling does not know: fox', "negative_prompt", "What it must not show",
         "What it must not show: seedling does not know: fox."),
        ('prompt "a fox": did you mean red?', "prompt", "What should the video show?", "Did you mean red?"),
        ("the request has over 9 bytes", None, "Begin from image or clip", "This file is too large to be sent."),
    ],
)  # fmt: skip
def test_what_the_server_refuses_is_said_in_the_words_of_the_page(
    page: Page, message: str, param: str | None, label: str, words: str
) -> None:
    refusal = {"error": {"message": message, "param": param}}
    status = 400 if param else 413
    page.route("**/v1/videos", lambda route: route.fulfill(status=status, body=json.dumps(refusal)), times=1)
    page.get_by_role("button", name="Make it").click()
    expect(page.get_by_role("alert").first).to_have_text(words)
    expect(page.get_by_label(label, exact=True)).to_have_attribute("aria-invalid", "true")


def test_nothing_is_asked_for_without_a_prompt(page: Page) -> None:
    prompt = page.get_by_label("What should the video show?")
    prompt.fill("  \n")
    prompt.press("Control+Enter")
    expect(page.get_by_role("alert").first).to_have_text("Describe the video in a sentence.")


# --- what is too long for its place


@pytest.mark.parametrize("width", WIDTHS)
def test_a_long_prompt_leaves_room_for_the_rest(browser: Browser, server: Server, width: int) -> None:
    words = "a red star spins on a blue background " * 100
    made = server.create(prompt=words, **QUICK)
    busy = server.create(prompt=words, num_inference_steps=1000, seconds="60")
    waits = server.create(prompt=words, num_inference_steps=1000)
    server.wait(made, "completed")
    with open_page(browser, server, viewport={"width": width, "height": 800}) as page:
        for place in ("article h3", "#queue li.live .prompt", "#queue li.queued .prompt"):
            box = page.locator(place).bounding_box()
            assert box is not None
            assert box["height"] < 80, place
        page.locator("figure summary").click()
        expect(page.locator("figure dl")).to_contain_text(words.strip())
        for job in (waits, busy):
            server.http.post(f"/v1/videos/{job}/cancel")
        look(page)
        expect(page.locator("#unmade li")).to_have_count(2)
        box = page.locator("#unmade").bounding_box()
        assert box is not None
        assert box["height"] < 300
        page.get_by_role("button", name="Again with other words").first.click()
        expect(page.locator("#fixed")).to_be_visible()
        box = page.get_by_label("What should the video show?").bounding_box()
        assert box is not None
        assert box["height"] < 250
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert len(page.get_by_role("button", name="Delete: ").get_attribute("aria-label") or "") < 120
    for job in (made, busy, waits):
        server.http.delete(f"/v1/videos/{job}")


CUT_OFF = """() => {
  const wide = (select, words) => {
    const alone = document.createElement("select");
    alone.style.cssText = "position: absolute; width: auto; min-width: 0";
    alone.add(new Option(words));
    select.closest("form").append(alone);
    const { width } = alone.getBoundingClientRect();
    alone.remove();
    return width;
  };
  return [...document.querySelectorAll("form select")].filter((select) => select.checkVisibility()).flatMap((select) =>
    [...select.options].filter(({ text }) => wide(select, text) > select.getBoundingClientRect().width + 0.5)
      .map(({ text }) => `${select.id}: ${text}`));
}"""


@pytest.mark.parametrize("width", WIDTHS)
def test_no_choice_is_cut_off(browser: Browser, server: Server, width: int) -> None:
    with open_page(browser, server, viewport={"width": width, "height": 800}) as page:
        settings(page, seed=4294967295)
        assert page.locator("#seconds option").count() > 3
        assert page.evaluate(CUT_OFF) == []
        for field in ("seed", "steps", "guidance"):
            assert page.locator(f"#{field}").evaluate("input => input.scrollWidth <= input.clientWidth"), (
                field
            )


# --- the key


def test_it_asks_for_a_key_where_one_is_needed(page: Page, server: Server) -> None:
    prompt = page.get_by_label("What should the video show?")
    expect(prompt).to_have_value(
        "a red star spins on a blue background"
    )  # the page is there, and the door open yet
    prompt.fill("a private heart")
    _, key = make_key(Queue(server.data), "ann")  # the last test of this server: the door stays closed
    page.reload()
    other = page.context.new_page()  # another tab
    other.goto(server.url)
    for tab in (page, other):
        expect(tab.get_by_role("dialog")).to_be_visible()
    for _ in range(3):  # nothing works without the key
        page.keyboard.press("Escape")
    page.get_by_label("Key", exact=True).fill("wrong")
    page.get_by_role("button", name="Come in").click()
    expect(page.get_by_role("alert").last).to_contain_text("not a key")
    page.get_by_label("Key", exact=True).fill(key)
    expect(page.locator("#door-problem")).to_have_text("")
    page.get_by_role("button", name="Come in").click()
    for tab in (page, other):  # one of them is enough
        expect(tab.locator("#empty")).to_be_visible()
        expect(tab.get_by_role("dialog")).to_have_count(0)
    expect(page.locator("#key")).to_have_value("")
    page.reload()
    expect(page.locator("#empty")).to_be_visible()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(prompt).to_have_value("a private heart")
    assert key not in page.evaluate("JSON.stringify([{ ...localStorage }, { ...sessionStorage }])")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    expect(prompt).not_to_have_value("a private heart")
