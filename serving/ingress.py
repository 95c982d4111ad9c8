# mypy: disable-error-code="import-not-found,misc"
"""The HTTP ingress of a Ray Serve application. Imported by Ray's workers only."""

from __future__ import annotations

from typing import Any

from ray.llm._internal.serve.core.ingress.ingress import OpenAiIngress


class ReadyIngress(OpenAiIngress):
    """Ray's ingress, which comes into being only when its engine answers.

    Ray's own lists a model on `/v1/models` half a minute before the engine has loaded it, so nobody could tell from
    outside when a first request would succeed.
    """

    async def __init__(self, llm_deployments: dict[str, Any], *arguments: Any, **options: Any) -> None:
        super().__init__(llm_deployments, *arguments, **options)
        for deployment in llm_deployments.values():
            await deployment.llm_config.remote()
