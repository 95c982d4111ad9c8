# mypy: disable-error-code="import-not-found,misc"
"""Tells Ray Serve LLM that there is nothing to download. Imported by Ray's workers only."""

from __future__ import annotations

from ray.llm._internal.common.callbacks.base import CallbackBase


class LocalWeights(CallbackBase):
    """Our weights lie in a folder; Ray's download task would only load a further 600 MB process to find that out."""

    async def on_before_node_init(self) -> None:
        """Called by the replica before it would start the download."""
        self.ctx.run_init_node = False
