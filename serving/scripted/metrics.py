"""What runs and waits, under the names of vLLM's own metrics, so that one test can watch either engine."""

from collections.abc import Iterable

from serving.scripted.model import Model
from serving.scripted.record import Record


def render_metrics(models: Iterable[Model], record: Record) -> str:
    """Prometheus text format. Running and waiting are per model, in choices and requests; the rest is since start."""
    lines = ["# TYPE vllm:num_requests_running gauge", "# TYPE vllm:num_requests_waiting gauge"]
    for model in models:
        lines.append(f'vllm:num_requests_running{{model_name="{model.name}"}} {model.slots.busy}')
        lines.append(f'vllm:num_requests_waiting{{model_name="{model.name}"}} {model.slots.waiting}')
    totals = {
        "vllm:prompt_tokens_total": record.prompt_tokens,
        "vllm:generation_tokens_total": record.completion_tokens,
        'vllm:request_success_total{finished_reason="finished"}': record.finished,
        'vllm:request_success_total{finished_reason="abort"}': record.aborted,
    }
    lines += [f"{name} {value}" for name, value in totals.items()]
    return "\n".join(lines) + "\n"
