"""A process of `collecting`: leads exercises in its own browser, one line in and one line out."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, TextIO

from paragone._core.errors import MissingPackageError
from paragone.multimodal.agent.contract import OperatorError
from paragone.multimodal.agent.demonstrations import DemonstrationWriter, demonstrate
from paragone.multimodal.agent.open_tasks import open_tasks

__all__ = ["main"]


def _answer(job: dict[str, Any], browser: Any, writer: DemonstrationWriter, told: Any) -> Any:
    try:
        samples, reward = demonstrate(
            open_tasks(job["task"])[0], browser, job["seed"],
            screenshots=told["screenshots"], noise=told["noise"],
        )  # fmt: skip
    except OperatorError as error:
        browser.restart()
        return {"error": str(error)}
    slipped = reward != 1 and bool(samples and samples[-1].rejected)
    return {
        "reward": reward, "slipped": slipped, "lines": [writer.line(one) for one in samples],
    }  # fmt: skip


def main(orders: TextIO, answers: TextIO) -> None:
    """Reads the settings, then one exercise a line, and answers each with its samples."""
    from paragone.multimodal.agent.browser import Browser

    told = json.loads(orders.readline())
    ratio = told["device_pixel_ratio"]
    with (
        DemonstrationWriter(told["folder"]) as writer,
        Browser(width=told["width"], height=told["height"], device_pixel_ratio=ratio) as browser,
    ):
        answers.write('{"ready": true}\n')
        answers.flush()
        for line in orders:
            answers.write(json.dumps(_answer(json.loads(line), browser, writer, told)) + "\n")
            answers.flush()


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        try:
            main(sys.stdin, out)
        except (OperatorError, MissingPackageError) as error:
            out.write(json.dumps({"fatal": str(error)}) + "\n")
            raise SystemExit(1) from error
