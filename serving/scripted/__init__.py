"""The scripted engine: an OpenAI-dialect server that answers from a scenario file instead of a model.

It speaks the dialect of vLLM 0.29 (field for field, odd extras included), counts tokens by its own documented rule,
keeps a record of what it served, and misbehaves on demand. It imports neither ray, vllm nor torch.
Start it with ``python -m serving.scripted``; the scenario format is described in ``README.md``.
"""
