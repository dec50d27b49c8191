"""The typed client over gRPC: a whole answer, a stream, a tool, a routed call and feedback."""

import json
import urllib.request

import modelfleet_client as mf

question = [mf.Message("user", "What is the weather in Paris?")]
weather = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}

with mf.Client(timeout=60) as client:  # reads MODELFLEET_ADDRESS
    answer = client.complete(question)
    print("answer:", answer.text)
    print("model:", answer.model, "because:", answer.decision.reason, f"cost: {answer.cost_usd:.9f} USD")

    print("stream: ", end="")
    with client.stream(question) as stream:
        for text in stream:
            print(text, end="", flush=True)
    print("\nusage:", stream.usage.input_tokens, "in,", stream.usage.output_tokens, "out")

    wants = client.complete(question, tools=[weather])
    call = wants.tool_calls[0]
    print("tool:", call.name, json.loads(call.arguments))
    asked = mf.Message("assistant", tool_calls=wants.tool_calls)
    result = mf.Message("tool", "sunny", tool_call_id=call.id)
    told = client.complete([*question, asked, result], tools=[weather])
    print("after the tool:", told.text)

    decision = client.route(question)
    with client.settling(decision) as routed:  # the application calls the model itself
        body = {
            "model": decision.served_name,
            "max_tokens": decision.max_output_tokens,
            "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        }
        request = urllib.request.Request(
            f"{decision.endpoint}/v1/chat/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request) as response:
            used = json.load(response)["usage"]
        routed.used(used["prompt_tokens"], used["completion_tokens"])
    print("routed to:", decision.model, "settled at:", routed.settled.cost_nano_usd, "nano-USD")

    print("feedback:", client.feedback(answer.decision.id, label="good").score)
    best = client.explain(answer.decision.id).candidates[0]
    print("best candidate:", best.model, f"quality {best.quality:.2f}")

    try:
        client.complete(question, model="no-such-model")
    except mf.NotFound as error:
        print("refused:", error.reason, error.field)
