"""What the user reads when the stack serves: how to call it and how to stop it."""

import json
import os

from gateway.up.stack import Running


def greeting(running: Running) -> str:
    """Base URL, key, a curl line to paste, the same with the OpenAI SDK, and how to stop."""
    body = {
        "model": running.access.model,
        "stream": True,
        "messages": [{"role": "user", "content": "What is a checkpoint?"}],
    }
    return f"""
Sekisho serves {running.access.model} (engine: {running.engine})

  base URL  {running.base_url}
  API key   {running.access.api_key}
  licence   {running.access.licence_path}  (.venv/bin/sekisho licence verify FILE)
  admin     {running.admin_url}  (key: admin_key in up.json)

  curl -N {running.base_url}/chat/completions -H 'Authorization: Bearer {running.access.api_key}' \\
    -H 'Content-Type: application/json' -d '{json.dumps(body)}'

  from openai import OpenAI
  client = OpenAI(base_url="{running.base_url}", api_key="{running.access.api_key}")
  answer = client.chat.completions.create(
      model="{running.access.model}", messages=[{{"role": "user", "content": "What is a checkpoint?"}}]
  )
  print(answer.choices[0].message.content)

Stop: Ctrl-C here, or `kill {os.getpid()}` from elsewhere.
"""
