"""What handlers say: in the worker's log, in its format, and never at a request's cost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.support.lab import code_of, send

if TYPE_CHECKING:
    from tests.support.lab import Lab


def test_whatever_a_handler_says_is_a_line_of_the_log_and_fails_no_request(lab: Lab) -> None:
    worker = lab.worker(handler="tests.support.handlers.talkative:handle")
    (request_id,) = send(lab, 1)
    (reply,) = lab.take("session.replies", 1, 30)
    assert code_of(reply) is None
    worker.wait_for("request finished")
    worker.terminate()
    assert worker.wait() == 0
    lines = [json.loads(line) for line in worker.output]  # each of them is JSON
    said = {str(line["event"]): line for line in lines}
    assert said["recorded 1"]["logger"] == "shop"
    assert sum(line["event"] == "printed" for line in lines) == 2
    assert said["printed in a thread"]["logger"] == "stderr"
    assert said["begun"]["logger"] == "stdout"
    assert any("warned" in event for event in said)
    (spoken,) = (line for line in lines if line.get("request_id") == request_id and "method_name" in line)
    assert "Unspeakable" in spoken["method_name"]
