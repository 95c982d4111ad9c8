"""Which fault, if any, a request meets."""

import re
from collections import OrderedDict

from serving.scripted.scenario import Fault, FaultBase, Scenario

REMEMBERED_MAX = 65_536
"""Requests whose attempts are counted; the oldest are forgotten beyond that."""

_ATTEMPT = re.compile(r"(.+)-\d{1,4}")


def request_of(attempt_id: str) -> str:
    """The request that an attempt ``<request_id>-<attempt>`` belongs to; an id of another form is its own request."""
    match = _ATTEMPT.fullmatch(attempt_id)
    return match.group(1) if match else attempt_id


class FaultBook:
    """Counts the requests of one model, and the attempts of each request, to know which faults still apply."""

    def __init__(self, scenario: Scenario) -> None:
        self._faults = scenario.faults
        self._requests = 0
        self._attempts: OrderedDict[str, int] = OrderedDict()

    def next(self, attempt_id: str) -> Fault | None:
        """The fault that this attempt meets; every call counts one request and one attempt."""
        if not self._faults:
            return None
        self._requests += 1
        request = request_of(attempt_id)
        attempt = self._attempts.pop(request, 0) + 1
        self._attempts[request] = attempt
        if len(self._attempts) > REMEMBERED_MAX:
            self._attempts.popitem(last=False)
        return next((fault for fault in self._faults if self._applies(fault, attempt)), None)

    def _applies(self, fault: FaultBase, attempt: int) -> bool:
        within_attempts = fault.first_attempts is None or attempt <= fault.first_attempts
        within_requests = fault.first_requests is None or self._requests <= fault.first_requests
        return within_attempts and within_requests
