"""Metrics of a simulated server under vLLM's names.

In: the slots and each finished request. Out: the text of `/metrics`. Next: whoever scrapes it.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from modelfleet_lab.model_server.slots import Slots

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    def __init__(self, model: str, slots: Slots) -> None:
        self._registry = CollectorRegistry()
        labels = ["model_name"]

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, labels, registry=self._registry)

        def counter(name: str, text: str, extra: tuple[str, ...] = ()) -> Counter:
            return Counter(name, text, [*labels, *extra], registry=self._registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(name, text, labels, registry=self._registry, buckets=BUCKETS)

        gauge("vllm:num_requests_running", "Requests that run").labels(model).set_function(
            lambda: slots.running
        )
        gauge("vllm:num_requests_waiting", "Requests that wait").labels(model).set_function(
            lambda: slots.waiting
        )
        gauge("vllm:kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1").labels(model).set_function(
            lambda: slots.running / slots.concurrency
        )
        self._prompt = counter("vllm:prompt_tokens", "Input tokens processed").labels(model)
        self._generation = counter("vllm:generation_tokens", "Output tokens generated").labels(model)
        self._success = counter("vllm:request_success", "Requests answered", ("finished_reason",))
        self._first = histogram("vllm:time_to_first_token_seconds", "Seconds to the first token").labels(
            model
        )
        self._whole = histogram("vllm:e2e_request_latency_seconds", "Seconds of a request").labels(model)
        self._model = model

    def billed(self, input_tokens: int, output_tokens: int) -> None:
        self._prompt.inc(input_tokens)
        self._generation.inc(output_tokens)

    def first_token(self, seconds: float) -> None:
        self._first.observe(seconds)

    def answered(self, finish: str, seconds: float) -> None:
        self._success.labels(self._model, finish).inc()
        self._whole.observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self._registry)
