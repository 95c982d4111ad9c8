"""The engine's own record of what it served: written beside the engine, read by whoever checks the books.

Only `plugin` knows vLLM. Everything else runs without ray, vllm and torch: the scripted engine writes and serves the
same records, and the reader (`python -m serving.witness`) must live where no engine lives any more.
"""
