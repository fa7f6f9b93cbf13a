"""Ray's job API of one cluster, asked with a time limit; whatever fails is one line."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import requests
from packaging.requirements import Requirement
from packaging.version import Version
from ray.job_submission import JobDetails, JobSubmissionClient

from jobs.remote.token import Token
from jobs.remote.tunnel import Unreachable
from n2n.errors import InvalidValue, JobFailed

__all__ = ["Client", "Taken", "require_token"]

SECONDS_TO_CONNECT, SECONDS_TO_ANSWER = 5, 20
ELSEWHERE = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")  # would divert Ray's client
TALKATIVE = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
ASK_FOR_TOKEN = (
    "export RAY_AUTH_TOKEN_PATH=FILE with the cluster's token, or put it into ~/.ray/auth_token "
    "(chmod 600)"
)


class Taken(Exception):
    """The cluster has a job of that submission id already."""


class Client(JobSubmissionClient):
    """Ray's own client for submission, jobs and logs; the rest is asked through `ask`.

    url: of the job API, http://127.0.0.1:PORT for a tunnel. name: of the cluster, in messages.
    Proxies and .netrc of the environment are not used: they are not for the token's eyes. Raises
    Unreachable, and InvalidValue for a wrong token or a Ray that n2n does not run on.
    """

    def __init__(self, url: str, name: str, token: Token | None) -> None:
        self.name, self._token = name, token
        for module in TALKATIVE:
            logging.getLogger(module).setLevel(logging.WARNING)
        self._http = requests.Session()
        self._http.trust_env = False
        self._own = {"Authorization": f"Bearer {token.value}"} if token else {}
        with _not_diverted():
            # A header of this name keeps Ray from looking for a token of its own.
            super().__init__(url, headers={"Authorization": "none"})
        self._headers = self._own
        require_supported(str(self._server_ray_version), name)

    def ask(self, path: str, **query: str) -> Any:
        """What the dashboard answers, from JSON."""
        return read_json(self._do_request("GET", path, params=query), self.name)

    def resources(self) -> list[dict[str, float]]:
        """What each living node has: CPU, GPU, memory in bytes, …"""
        nodes = self.ask("/api/v0/nodes", detail="true", limit="10000")["data"]["result"]["result"]
        return [node["resources_total"] for node in nodes if node["state"] == "ALIVE"]

    def jobs(self) -> list[JobDetails]:
        """All jobs that were submitted, also by others."""
        return [found for found in self.list_jobs() if found.submission_id]

    def submit(self, submission_id: str, entrypoint: str, **settings: Any) -> None:
        """Start a job. Raises Taken if there is one of that id."""
        self.submit_job(submission_id=submission_id, entrypoint=entrypoint, **settings)

    def _do_request(
        self,
        method: str,
        endpoint: str,
        *,
        data: bytes | None = None,
        json_data: dict[str, Any] | None = None,
        **settings: Any,
    ) -> requests.Response:
        answer = request(
            self._http,
            self.name,
            method,
            self._address + endpoint,
            data=data,
            json=json_data,
            headers=self._own,
            **settings,
        )
        if answer.status_code in (401, 403):
            source = f"that of {self._token.source}" if self._token else "none"
            raise InvalidValue(
                f"{self.name}: the cluster's token expected, it refuses {source}; {ASK_FOR_TOKEN}"
            )
        if answer.status_code == 413:
            raise InvalidValue(
                f"{self.name}: the cluster takes no package of this size; send less with --upload, "
                "or use a shared folder or s3://"
            )
        return answer

    def _raise_error(self, answer: requests.Response) -> None:
        """Ray's client calls it for any other answer than 200."""
        text = answer.text
        if "already" in text and "submission_id" in text:
            raise Taken
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if "No space left on device" in text:
            raise JobFailed(
                f"{self.name}: the disk of the head is full; make space there (often in /tmp/ray), "
                "then run the same command again"
            )
        if "No available agent" in text:
            raise JobFailed(
                f"{self.name}: the cluster takes no jobs, its agent is not there; look into "
                "dashboard_agent.log on the head (often another Ray there has its port)"
            )
        found = lines[-1].rstrip(".") if lines else answer.reason
        raise JobFailed(f"{self.name}: the cluster answers {answer.status_code}: {found}")


def require_token(url: str, name: str, *, insecure: bool) -> bool:
    """Whether the cluster asks for a token. InvalidValue for one that does not, unless `insecure`.

    Nothing secret is sent. Raises Unreachable.
    """
    with requests.Session() as http:
        http.trust_env = False
        answer = request(http, name, "GET", f"{url}/api/version")
    if answer.status_code in (401, 403):
        return True
    read_json(answer, name)
    if not insecure:
        raise InvalidValue(
            f"{name}: a cluster that asks for a token expected, found one that runs the programs "
            "of whoever reaches it; start Ray with RAY_AUTH_MODE=token, as cluster/onprem.yaml "
            "does (or --insecure, if nobody else can reach it)"
        )
    return False


def request(
    http: requests.Session, name: str, method: str, url: str, **settings: Any
) -> requests.Response:
    """An answer, whatever its status. Raises Unreachable."""
    limits = (SECONDS_TO_CONNECT, SECONDS_TO_ANSWER)
    try:
        return http.request(method, url, timeout=limits, allow_redirects=False, **settings)
    except requests.Timeout:
        found = f"none in {SECONDS_TO_ANSWER} s"
    except requests.RequestException as error:
        found = "refused" if "refused" in str(error) else "the connection ended"
        if isinstance(error, requests.exceptions.SSLError):
            found = "a certificate that is not trusted"
    raise Unreachable(
        f"{name}: an answer of Ray's dashboard expected, found: {found}; is Ray running there? "
        "start it: ray up, or add --up"
    )


def read_json(answer: requests.Response, name: str) -> Any:
    try:
        if answer.status_code == 200:
            return answer.json()
    except json.JSONDecodeError:
        pass
    raise InvalidValue(
        f"{name}: Ray's dashboard expected, found something else ({answer.status_code}, "
        f"{answer.headers.get('Content-Type', 'no type')}); correct the address or port"
    )


def require_supported(found: str, name: str) -> None:
    """InvalidValue for a Ray on the cluster that this n2n does not run on."""
    needed = next(
        requirement.specifier
        for requirement in map(Requirement, metadata.requires("n2n") or [])
        if requirement.name == "ray" and requirement.marker is None
    )
    if Version(found) not in needed:
        raise InvalidValue(
            f"{name}: Ray {needed} expected on the cluster, found {found}; install such a Ray "
            f"there, such as this machine's {metadata.version('ray')}"
        )


@contextmanager
def _not_diverted() -> Iterator[None]:
    """Without the variables that lead Ray's client to another cluster than the one it is given."""
    before = {name: os.environ.pop(name) for name in ELSEWHERE if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)
