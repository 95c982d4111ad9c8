"""The constant upstream: nginx on a port of its own that answers every chat with one fixed answer."""

import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from loadtests.processes import Unmeasurable, answers, free_port, running

MODEL = "bench-constant"
PROMPT_TOKENS, COMPLETION_TOKENS = 58, 64
_TEXT = (
    "A checkpoint lets through those who may pass and keeps an honest count of them. Travellers showed their papers, "
    "the guard looked at each, and a clerk wrote the day, the name and the load into the book before the gate opened."
)
# Field for field what vLLM 0.29 sends for a short answer.
ANSWER = {
    "id": "chatcmpl-0192f0c1a2b37c4d8e5f60718293a4b5",
    "object": "chat.completion",
    "created": 1767225600,
    "model": MODEL,
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant", "content": _TEXT, "refusal": None, "annotations": None, "audio": None,
                "function_call": None, "tool_calls": [], "reasoning": None,
            },
            "logprobs": None, "finish_reason": "stop", "stop_reason": None, "token_ids": None,
        }
    ],
    "service_tier": None,
    "system_fingerprint": None,
    "usage": {
        "prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS + COMPLETION_TOKENS,
        "completion_tokens": COMPLETION_TOKENS, "prompt_tokens_details": {"cached_tokens": 0},
    },
    "prompt_logprobs": None, "prompt_token_ids": None, "kv_transfer_params": None,
}  # fmt: skip

_CONFIGURATION = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000;
  keepalive_timeout 300s;
  default_type application/json;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /v1/chat/completions {{ return 200 '{answer}'; }}
    location = /health {{ return 200 'ok'; }}
  }}
}}
"""


@contextlib.contextmanager
def constant_upstream(folder: Path) -> Iterator[str]:
    """nginx on a free port of the loopback address; gives its base URL, which ends in `/v1`."""
    program = _nginx()
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(
        _CONFIGURATION.format(folder=folder, port=port, answer=json.dumps(ANSWER)), encoding="utf-8"
    )
    argv = [program, "-p", str(folder), "-c", str(configuration), "-e", str(folder / "nginx-error.log")]
    root = f"http://127.0.0.1:{port}"
    with running(argv, ready=lambda: answers(f"{root}/health"), log=folder / "nginx.log"):
        yield f"{root}/v1"


def nginx_version() -> str:
    """For the report."""
    done = subprocess.run([_nginx(), "-v"], capture_output=True, text=True, check=True)
    found = re.search(r"nginx/(\S+)", done.stderr)
    return found.group(1) if found else "unknown"


def _nginx() -> str:
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        raise Unmeasurable("nginx is not installed; on Debian: apt-get install nginx-light wrk")
    return program
