"""The output of a job, as it comes, over a connection that may break."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import aiohttp

from jobs.remote.runs import OVER
from jobs.remote.tunnel import Unreachable
from n2n.errors import JobFailed

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

    from jobs.remote.connect import Connection

__all__ = ["Output", "OutputGone", "follow"]

SECONDS_OF_SILENCE = 1.0  # after which the job is asked for, and so the connection tried
SECONDS_BETWEEN = 0.3


class OutputGone(JobFailed):
    """Nobody reads what is passed on."""


class Output:
    """Passes on the text of a log, without what Ray writes before the program's own.

    entrypoint: as Ray repeats it. seen: characters of the log so far.
    """

    def __init__(self, job: "JobDetails", write: Callable[[str], None]) -> None:
        self._head = f"Running entrypoint for job {job.submission_id}: {job.entrypoint}\n"
        self._write = write
        self._held: str | None = ""
        self.seen = 0

    def take(self, text: str) -> None:
        self.seen += len(text)
        if self._held is None:
            self._pass_on(text)
            return
        self._held += text
        _, head, rest = self._held.partition(self._head)
        if head:
            self._held = None
            self._pass_on(rest)

    def skip(self, text: str, tail: int) -> None:
        """Take the log so far, of which only so many lines are passed on, the last."""
        write, kept = self._write, list[str]()
        self._write = kept.append
        self.take(text)
        self._write = write
        lines = "".join(kept).splitlines(keepends=True)
        self._pass_on("".join(lines[max(0, len(lines) - tail) :]))

    def close(self) -> None:
        """Pass on what was held back: the program has never begun."""
        self._pass_on(self._held or "")
        self._held = None

    def _pass_on(self, text: str) -> None:
        try:
            if text:
                self._write(text)
        except OSError as error:
            raise OutputGone("standard output was closed; the job goes on") from error


def follow(
    connection: "Connection",
    submission_id: str,
    output: Output,
    waiting: Callable[[], None],
) -> "JobDetails":
    """Pass on the job's output until it is over; what is known of it then.

    The connection is made again when it breaks, and nothing is passed on twice. waiting: is called
    while the job has not begun, again and again. Raises Unreachable when the cluster does not come
    back.
    """
    while True:
        try:
            job = connection.client.get_job_info(submission_id)
            if job.status.value != "PENDING":
                asyncio.run(_pass_on(connection, submission_id, output))
            job = connection.client.get_job_info(submission_id)
            if job.status.value in OVER:
                output.take(connection.client.get_job_logs(submission_id)[output.seen :])
                output.close()
                return job
            if job.status.value == "PENDING":
                waiting()
        except JobFailed:
            raise
        except (Unreachable, aiohttp.ClientError, RuntimeError, OSError):
            connection.restore()
        time.sleep(SECONDS_BETWEEN)


async def _pass_on(connection: "Connection", submission_id: str, output: Output) -> None:
    """What the job writes, until it is over or the connection breaks."""
    skip = output.seen
    async for text in _alive(connection, submission_id):
        output.take(text[skip:])
        skip = max(0, skip - len(text))


async def _alive(connection: "Connection", submission_id: str) -> AsyncIterator[str]:
    """The log from its beginning, until the job is over.

    A connection that is broken does not tell, and Ray keeps one open for seconds after the job's
    end, so in silence the job itself is asked for. Raises Unreachable.
    """
    texts = connection.client.tail_job_logs(submission_id)
    while True:
        coming = asyncio.ensure_future(anext(texts))
        try:
            while not (await asyncio.wait([coming], timeout=SECONDS_OF_SILENCE))[0]:
                job = await asyncio.to_thread(connection.client.get_job_info, submission_id)
                if job.status.value in OVER:
                    return
            yield coming.result()
        except StopAsyncIteration:
            return
        finally:
            if not coming.done():
                coming.cancel()
