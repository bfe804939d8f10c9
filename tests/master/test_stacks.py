"""What is told of the stacks that faulthandler has written."""

from __future__ import annotations

from cluster_service.master.stacks import readable

MAIN = ['  File "/srv/app.py", line 9 in wait', '  File "/srv/app.py", line 2 in <module>']
WOKEN = ['  File "/srv/app.py", line 11 in work', '  File "/srv/app.py", line 2 in <module>']
POOL = ['  File "/srv/pool.py", line 5 in answer', '  File "/lib/threading.py", line 7 in _bootstrap']
OURS = ['  File "/lib/cluster_service/worker/channel.py", line 5 in _read']


def test_the_main_thread_comes_first_and_once_as_it_was_at_first() -> None:
    written = ["Stack (most recent call first):", *MAIN, "", "Thread 0x1 (most recent call first):", *POOL, ""]
    written += ["Current thread 0x2 (most recent call first):", *WOKEN]
    assert readable(written) == [
        "Main thread (most recent call first):",
        *MAIN,
        "Thread 0x1 (most recent call first):",
        *POOL,
    ]


def test_another_thread_that_took_the_signal_is_told_too() -> None:
    written = ["Stack (most recent call first):", *MAIN, "Current thread 0x1 (most recent call first):", *POOL]
    assert readable(written)[3:] == ["Current thread 0x1 (most recent call first):", *POOL]


def test_threads_that_do_the_same_are_told_at_once_and_ours_not_at_all() -> None:
    written = ["Stack (most recent call first):", *MAIN]
    for number in range(3):
        written += [f"Thread 0x{number} (most recent call first):", *POOL]
    written += ["Thread 0x9 (most recent call first):", *OURS, "..."]
    assert readable(written)[3:] == ["Thread 0x0 (most recent call first): and 2 more like it", *POOL, "..."]


def test_of_nothing_nothing_is_told() -> None:
    assert readable([]) == []
