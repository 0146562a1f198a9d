"""Who waits for other plans, and when they are woken."""

from __future__ import annotations

import asyncio

from skeleton_service.live.book import Book


def test_a_host_has_the_plans_of_its_jobs_in_their_order() -> None:
    book = Book({"h": [("b", 1)]})
    book.change("a", {"h": 7, "g": 7})
    assert book.plans("h") == [("a", 7), ("b", 1)]
    assert book.plans("g") == [("a", 7)]
    book.change("a", {"g": 8})
    assert (book.plans("h"), book.plans("g")) == ([("b", 1)], [("a", 8)])
    book.change("a", {})
    assert book.plans("g") == ()


def test_the_tag_is_of_the_plans_whoever_says_so() -> None:
    book, later = Book({}), Book({"h": [("a", 1), ("b", 2)]})
    nothing = book.etag("h")
    book.change("b", {"h": 2})
    book.change("a", {"h": 1})
    assert book.etag("h") == later.etag("h") != nothing
    book.change("a", {})
    book.change("b", {})
    assert book.etag("h") == nothing
    assert Book({"h": [("ab", 1)]}).etag("h") != Book({"h": [("a", 1)]}).etag("h")


def test_who_has_other_plans_does_not_wait() -> None:
    book = Book({"h": [("a", 1)]})
    assert asyncio.run(book.other_than("h", '"something else"', 60))
    assert not asyncio.run(book.other_than("h", book.etag("h"), 0))


def test_all_who_wait_for_a_host_are_woken_and_no_others() -> None:
    async def run() -> None:
        book = Book({"h": [("a", 1)], "g": [("a", 1)]})
        mine = [asyncio.create_task(book.other_than("h", book.etag("h"), 60)) for _ in range(3)]
        other = asyncio.create_task(book.other_than("g", book.etag("g"), 60))
        await asyncio.sleep(0)
        assert book.waiting == 4
        book.change("a", {"h": 1, "g": 1})
        await asyncio.sleep(0.01)
        assert book.waiting == 4, "nothing is another"
        book.change("a", {"h": 2, "g": 1})
        assert await asyncio.gather(*mine) == [True] * 3
        assert not other.done()
        book.close()
        assert not await other
        assert not await book.other_than("g", book.etag("g"), 60), "nobody waits for a service that ends"
        assert book.waiting == 0

    asyncio.run(run())


def test_who_gives_up_leaves_nothing_behind() -> None:
    async def run() -> None:
        book = Book({})
        assert not await book.other_than("h", book.etag("h"), 0.01)
        task = asyncio.create_task(book.other_than("h", book.etag("h"), 60))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert book.waiting == 0

    asyncio.run(run())


def test_plans_that_come_and_go_while_one_waits_are_nothing_new() -> None:
    async def run() -> None:
        book = Book({})
        waiting = asyncio.create_task(book.other_than("h", book.etag("h"), 60))
        await asyncio.sleep(0)
        book.change("a", {"h": 1})
        book.change("a", {})
        assert not await waiting

    asyncio.run(run())
