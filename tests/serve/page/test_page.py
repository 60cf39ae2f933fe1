"""The page in a browser: what a person does with it, from the first prompt to the last deletion."""

import io
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Route, expect

from browsing import look, needs_browser, settings
from linnet.media import open_writer
from linnet.serve.queue import Queue
from serving import Server

pytestmark = needs_browser


def test_a_person_makes_watches_cancels_reloads_and_deletes(page: Page) -> None:
    prompt = page.get_by_label("What should the video show?")
    expect(prompt).to_have_value("a red star spins on a blue background")
    expect(page.locator("#plan")).to_contain_text("GB of memory")

    page.get_by_role("button", name="a small white moon bounces").click()
    expect(prompt).to_have_value("a small white moon bounces on a green background")

    prompt.fill("a red fox")
    page.get_by_role("button", name="Make it").click()
    expect(page.get_by_role("alert").first).to_contain_text("does not know: fox")
    expect(prompt).to_have_attribute("aria-invalid", "true")

    prompt.fill("a green heart moves left")
    settings(page, seed=7, steps=200)
    prompt.press("Control+Enter")
    row = page.locator("#queue li")
    expect(row.get_by_text("step")).to_be_visible()
    expect(row.get_by_alt_text("How it looks so far")).to_be_visible()
    video = page.locator("video")
    expect(video).to_have_count(1)
    expect(page.locator("#making")).to_be_hidden()
    video.hover()
    expect(video).to_have_js_property("paused", False)
    page.locator("summary", has_text="seed 7").click()
    expect(page.locator("figure dl")).to_contain_text("200")

    settings(page, seed="", steps=1000)
    page.get_by_label("Length").select_option("5")
    page.get_by_role("button", name="Make it").click()
    page.get_by_role("button", name="Cancel: a green heart").click()
    expect(page.locator("#unmade li")).to_contain_text("cancelled")
    expect(page.locator("#making")).to_be_hidden()
    page.get_by_role("button", name="Dismiss: a green heart").click()
    expect(page.locator("#ended")).to_be_hidden()

    page.reload()
    expect(video).to_have_count(1)
    page.get_by_role("button", name="Again with other words").click()
    expect(page.get_by_label("Seed", exact=True)).to_have_value("7")
    expect(prompt).to_have_value("a green heart moves left")
    expect(prompt).to_be_focused()

    delete = page.get_by_role("button", name="Delete: a green heart")
    delete.click()
    expect(video).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(video).to_have_count(1)
    delete.click()
    page.reload()  # does not wait for the time to undo, and means it all the same
    expect(page.locator("#empty")).to_be_visible()


def test_a_video_begins_from_an_image_that_is_cut_to_its_shape(page: Page, tmp_path: Path) -> None:
    Image.new("RGB", (300, 300), "green").save(tmp_path / "green.png")
    (tmp_path / "not.png").write_text("no image")
    settings(page, steps=2)
    page.get_by_label("Length").select_option("1")
    page.get_by_label("Begin from image or clip").set_input_files(tmp_path / "not.png")
    expect(page.get_by_role("alert").first).to_contain_text("not an image")
    page.get_by_label("Begin from image or clip").set_input_files(tmp_path / "green.png")
    shown = page.get_by_alt_text("What the video begins with")
    expect(shown).to_be_visible()
    assert shown.evaluate(
        "image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])"
    ) == [128, 72]
    page.get_by_role("button", name="Make it").click()
    expect(page.locator("video")).to_have_count(1)

    # Others do not silently begin with it.
    page.get_by_role("button", name="Again with other words").click()
    expect(shown).to_be_hidden()
    page.get_by_label("Begin from image or clip").set_input_files(tmp_path / "green.png")
    page.get_by_role("button", name="Leave it out").click()
    expect(shown).to_be_hidden()
    page.get_by_role("button", name="Delete: ").click()
    page.reload()
    expect(page.locator("#empty")).to_be_visible()


def test_a_video_follows_a_clip_and_is_made_as_fast_as_wished(
    page: Page, server: Server, tmp_path: Path
) -> None:
    size = {"width": 128, "height": 72, "fps": 24, "metadata": {}}
    with open_writer(tmp_path / "star.mp4", **size) as writer:
        writer.write(np.zeros((25, 72, 128, 3), np.uint8))
    (tmp_path / "huge.mp4").write_bytes(bytes(9 * 2**20))
    settings(page)
    page.get_by_label("Length").select_option("1")
    page.get_by_label("Quality").select_option("draft")
    expect(page.get_by_label("Steps", exact=True)).to_have_attribute("placeholder", "2")
    strength = page.get_by_label("How far from it")
    file = page.get_by_label("Begin from image or clip")
    file.set_input_files(tmp_path / "huge.mp4")
    expect(page.get_by_role("alert").first).to_contain_text("over 8 MB")
    expect(strength).to_be_hidden()
    with page.expect_request("**/v1/plan") as asked:
        file.set_input_files(tmp_path / "star.mp4")
    sent: Any = asked.value.post_data_json
    assert (sent["profile"], sent["strength"], len(sent["input_reference"]["image_url"])) == (
        "draft",
        0.6,
        110,
    )
    expect(page.locator("#along")).to_contain_text("star.mp4")
    strength.select_option("close to it")
    page.get_by_role("button", name="Make it").click()
    expect(page.locator("video")).to_have_count(1)
    (made,) = server.http.get("/v1/videos").json()["data"]
    assert (made["profile"], made["begins_from_video"], made["strength"]) == ("draft", True, 0.2)
    page.locator("figure summary").click()
    expect(page.locator("figure dl")).to_contain_text("from a clip, strength 0.2")

    page.get_by_label("Quality").select_option("best")
    page.get_by_role("button", name="Again with other words").click()
    expect(page.get_by_label("Quality")).to_have_value("draft")
    expect(page.locator("#began")).to_contain_text("began with a clip")
    expect(strength).to_be_hidden()
    page.get_by_role("button", name="Delete: ").click()
    page.reload()
    expect(page.locator("#empty")).to_be_visible()


def test_versions_stand_side_by_side_under_one_prompt(page: Page) -> None:
    settings(page, steps=2)
    page.get_by_label("Versions").select_option("4")
    page.get_by_label("Length").select_option("1")
    page.get_by_role("button", name="Make it").click()
    expect(page.locator("article video")).to_have_count(4)
    expect(page.locator("article")).to_have_count(1)

    # All that was deleted in haste comes back, and where that is over, a keyboard goes on from here. The page's clock
    # stands still: a loaded machine takes longer over it than the page waits.
    page.clock.install()
    page.clock.pause_at(datetime.now() + timedelta(minutes=1))
    page.get_by_role("button", name="Delete: ").nth(3).click()
    page.get_by_role("button", name="Delete: ").nth(0).click()
    expect(page.locator("article video")).to_have_count(2)
    expect(page.get_by_text("Deleting 2…")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("article video")).to_have_count(4)
    page.get_by_role("button", name="Delete: ").nth(0).click()
    expect(page.get_by_role("button", name="Undo")).to_be_focused()
    page.clock.resume()
    expect(page.get_by_role("button", name="Undo")).to_be_hidden()
    expect(page.locator("#gallery")).to_be_focused()


def test_what_is_watched_plays_on_while_another_is_ready(page: Page, server: Server) -> None:
    clip = {"num_frames": 25, "num_inference_steps": 1}
    first = server.create(prompt="a red star", **clip)
    look(page)
    watched = page.locator(f'figure[data-id="{first}"] video')
    watched.focus()
    watched.evaluate("video => video.play()")
    second = server.create(prompt="a red heart", **clip)
    look(page)
    expect(page.locator(f'figure[data-id="{second}"] video')).to_be_visible()
    expect(watched).to_have_js_property("paused", False)
    expect(watched).to_be_focused()
    for job in (first, second):
        server.http.delete(f"/v1/videos/{job}")


def test_it_says_that_the_server_is_away_and_makes_nothing_twice(browser: Browser, server: Server) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.route("**/v1/**", lambda route: route.fulfill(status=502, body="<html>"))
    page.goto(server.url)
    news = page.locator("#news")
    expect(news).to_contain_text("does not answer (502): trying again")
    page.unroute("**/v1/**")
    expect(news).to_contain_text("is back")
    expect(page.locator("#plan")).to_contain_text("GB of memory")

    def lose(route: Route) -> None:
        route.fetch()
        route.abort()

    def made() -> int:
        return len(server.http.get("/v1/videos?limit=100").json()["data"])

    before = made()
    page.get_by_label("Versions").select_option("4")
    settings(page, steps=1)
    page.route("**/v1/videos", lose, times=1)
    page.get_by_role("button", name="Make it").click()
    expect(page.get_by_role("alert").first).to_contain_text("is back. Press “Make it” again")
    page.get_by_role("button", name="Make it").click()
    expect(news).to_contain_text("4 videos are in the queue")
    assert made() == before + 4
    context.close()


def test_on_a_phone_it_shows_what_it_does(browser: Browser, server: Server) -> None:
    server.wait(server.create(prompt="a red star", num_frames=25, num_inference_steps=1), "completed")
    context = browser.new_context(viewport={"width": 360, "height": 700}, is_mobile=True, has_touch=True)
    page = context.new_page()
    page.goto(server.url)
    page.get_by_label("What should the video show?").fill("a red fox")
    page.get_by_role("button", name="Make it").tap()
    expect(page.get_by_role("alert").first).to_have_text("Seedling does not know: fox.")
    expect(page.get_by_text("colours red, orange")).to_be_hidden()
    page.get_by_text("What it can do").tap()
    expect(page.get_by_text("colours red, orange")).to_be_visible()

    page.get_by_label("What should the video show?").fill("a red star spins")
    settings(page, steps=200)
    page.get_by_role("button", name="Make it").tap()
    expect(page.locator("#queue li.live .screen")).to_be_in_viewport(ratio=1)
    page.get_by_role("button", name="Cancel: ").tap()
    expect(page.locator("#unmade li")).to_contain_text("cancelled")
    stopped = page.locator("#unmade li").get_attribute("data-id")

    video = page.locator("video").first
    expect(video).not_to_have_attribute("controls", "")
    play = page.get_by_role("button", name="Play, then").first
    play.tap()
    expect(video).to_have_js_property("paused", False)
    expect(video).not_to_have_attribute("controls", "")
    play.tap()
    expect(video).to_have_attribute("controls", "")
    context.close()
    server.http.delete(f"/v1/videos/{stopped}")


def test_it_keeps_all_jobs_in_sight_however_many_there_are(page: Page, server: Server) -> None:
    queue = Queue(server.data)
    first = server.create(prompt="a red star", num_inference_steps=1000, num_frames=121)
    server.wait(first, "in_progress")
    running = queue.get(first)
    assert running is not None
    request = running.request
    others = [queue.add(request).id for _ in range(66)]
    rows = page.locator("#queue li")

    def row(job: str) -> Locator:
        return page.locator(f'#queue li[data-id="{job}"]')

    # The one that runs is the oldest, behind the first page of the list; another device takes one more.
    second = queue.claim("another worker")
    assert second is not None
    assert second.id == others[0]
    seen = io.BytesIO()
    Image.new("RGB", (16, 9), "green").save(seen, "WEBP")
    queue.report(second, "denoise", 3, 10, seen.getvalue())
    page.reload()
    for job, words in ((first, "of 4000"), (second.id, "step 3 of 10")):  # four windows of 1000 steps
        expect(row(job)).to_contain_text(words)
        expect(row(job).get_by_alt_text("How it looks so far")).to_be_visible()
    expect(row(others[2])).to_contain_text("number 2 in your queue")
    page.get_by_role("button", name="more that wait").click()
    expect(rows).to_have_count(67)
    expect(rows.last).to_contain_text("number 65 in your queue")

    # All that happens behind the first page is seen, too.
    queue.report(second, "denoise", 4, 10)
    expect(row(second.id)).to_contain_text("step 4 of 10")
    row(others[-1]).get_by_role("button").click()
    queue.cancel(second.id)
    queue.delete(others[30])
    for job in (second.id, others[-1]):
        expect(page.locator(f'#unmade li[data-id="{job}"]')).to_contain_text("cancelled")
    expect(rows).to_have_count(64)

    # What ended is a page at a time, and a new one pushes none out of sight.
    for job in others:
        queue.cancel(job)
    queue.cancel(first)
    page.reload()
    page.get_by_role("button", name="Show 56 more that were not made").click()
    ends = page.locator("#unmade li")
    expect(ends).to_have_count(60)
    page.get_by_role("button", name="Show older ones").click()
    expect(ends).to_have_count(66)
    queue.cancel(queue.add(request).id)
    look(page)
    expect(ends).to_have_count(67)
    for job in queue.page(owner="", limit=67):
        queue.delete(job.id)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_it_can_be_read_and_reached(browser: Browser, server: Server, scheme: Any, width: int) -> None:
    server.wait(server.create(prompt="a red star", num_frames=1, num_inference_steps=1), "completed")
    busy = server.create(prompt="a red star", num_inference_steps=1000, num_frames=121)
    # The page's own policy would keep the examiner's script out.
    context = browser.new_context(
        bypass_csp=True,
        color_scheme=scheme,
        viewport={"width": width, "height": 800},
        is_mobile=width < 400,
        has_touch=width < 400,
    )
    page = context.new_page()
    page.goto(server.url)
    expect(page.locator("#queue li.live")).to_be_visible()
    expect(page.locator("video").first).to_be_visible()
    found = Axe().run(page).response["violations"]
    assert [(one["impact"], one["id"], one["nodes"][0]["target"]) for one in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()
    server.http.post(f"/v1/videos/{busy}/cancel")
