"""The thread that owns the engine: takes jobs and cancellations, steps, and hands news on.

Everything that touches pages happens in this one thread, so there is nothing to lock but the box
of what is new. A job that is cancelled has given its pages back before the next step.

Shapes: none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from paragone.language._serve_choice import Failure, Job, Update
from paragone.language._serve_lane import Lane

__all__ = ["Runner"]


class Runner:
    """Runs lanes in a thread of its own.

    Args:
        lanes: Lane of each model.
        limit: Most texts that may be asked for at a time; more are refused.
        deliver: Called with news, in the runner's thread.
    """

    def __init__(
        self, lanes: Mapping[str, Lane], limit: int, deliver: Callable[[list[Update]], None]
    ) -> None:
        self.lanes, self.limit, self._deliver = dict(lanes), limit, deliver
        self._changed = threading.Condition()
        self._new: list[tuple[Lane, Job]] = []
        self._cancelled: list[tuple[Lane, Job]] = []
        self._open: dict[Job, tuple[Lane, int]] = {}
        self._deadline: float | None = None
        self._thread = threading.Thread(target=self._run, name="paragone-engine", daemon=True)
        self.refused = 0

    @property
    def alive(self) -> bool:
        """Whether jobs are taken."""
        return self._thread.is_alive() and self._deadline is None

    @property
    def texts(self) -> int:
        """Texts that are being written or wait."""
        with self._changed:
            return sum(count for _, count in self._open.values())

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def submit(self, name: str, job: Job) -> None:
        """Takes a job.

        Args:
            name: Name of the model.
            job: The job.

        Raises:
            Failure: Too much is waiting, or the runner has stopped.
        """
        with self._changed:
            if not self.alive:
                raise Failure("the server is stopping", 503, "server_error", code="stopping")
            if self.texts + len(job.choices) > self.limit:
                self.refused += 1
                raise Failure(
                    f"{self.texts} texts are being written or wait, {len(job.choices)} more would "
                    f"be above the limit of {self.limit}; try again in a moment",
                    429, "rate_limit_error", code="queue_full",
                )  # fmt: skip
            lane = self.lanes[name]
            self._open[job] = lane, len(job.choices)
            self._new.append((lane, job))
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Forgets a job, finished or not; its pages are free before the next step."""
        with self._changed:
            found = self._open.pop(job, None)
            if found is not None:
                self._cancelled.append((found[0], job))
                self._changed.notify()

    def stop(self, grace: float = 0.0) -> None:
        """Takes nothing more, finishes what can be finished in time, and fails the rest.

        Args:
            grace: Seconds to go on.
        """
        with self._changed:
            deadline = time.monotonic() + grace
            self._deadline = min(self._deadline or deadline, deadline)
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def hurry(self) -> None:
        """Makes an end that was asked for come at once."""
        with self._changed:
            self._deadline = time.monotonic()
            self._changed.notify()

    def _run(self) -> None:
        try:
            while self._take_orders():
                for lane in self.lanes.values():
                    if lane.busy:
                        self._hand_on(lane.step())
        finally:
            with self._changed:
                self._deadline = self._deadline or time.monotonic()
                left, self._open = self._open, {}
            failure = Failure("the server has stopped", 503, "server_error", code="stopping")
            news = [
                choice.update(failure=failure)
                for job in left for choice in job.choices if not choice.done
            ]  # fmt: skip
            self._deliver(news)

    def _take_orders(self) -> bool:
        """Waits for something to do; False when it is time to end."""
        with self._changed:
            while not (self._new or self._cancelled or self._deadline or self._busy()):
                self._changed.wait()
            new, self._new = self._new, []
            cancelled, self._cancelled = self._cancelled, []
            for lane, job in new:
                lane.submit(job)
            for lane, job in cancelled:
                lane.cancel(job)
            if self._deadline is None:
                return True
            return self._busy() and time.monotonic() < self._deadline

    def _busy(self) -> bool:
        return any(lane.busy for lane in self.lanes.values())

    def _hand_on(self, news: list[Update]) -> None:
        if not news:
            return
        with self._changed:
            news = [update for update in news if update.job in self._open]
            for update in news:
                if update.finish is None and update.failure is None:
                    continue
                lane, count = self._open[update.job]
                if count > 1:
                    self._open[update.job] = lane, count - 1
                else:
                    del self._open[update.job]
        self._deliver(news)
