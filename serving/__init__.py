"""Serving: how a model runs. Knows nothing about tenants, licences or money.

This package must stay importable without ray, vllm and torch: ``serving.scripted`` and
``serving.catalogue`` run in the gateway's environment, which has none of them.
"""
