"""OpenAI's Python client, unchanged: a whole answer, a stream, and a tool that the model calls."""

import json

from openai import OpenAI

client = OpenAI()  # reads OPENAI_BASE_URL and OPENAI_API_KEY
question = [{"role": "user", "content": "What is the weather in Paris?"}]

answer = client.chat.completions.with_raw_response.create(model="auto", messages=question)
print("answer:", answer.parse().choices[0].message.content)
print("model:", answer.headers["x-modelfleet-model"], "because:", answer.headers["x-modelfleet-reason"])

stream = client.chat.completions.create(
    model="auto", messages=question, stream=True, stream_options={"include_usage": True}
)
print("stream: ", end="")
for chunk in stream:
    for choice in chunk.choices:
        print(choice.delta.content or "", end="", flush=True)
    if chunk.usage:
        print("\nusage:", chunk.usage.prompt_tokens, "in,", chunk.usage.completion_tokens, "out")

weather = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
wants = client.chat.completions.create(model="auto", messages=question, tools=[weather]).choices[0].message
call = wants.tool_calls[0]
print("tool:", call.function.name, json.loads(call.function.arguments))
result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
told = client.chat.completions.create(model="auto", messages=[*question, wants, result], tools=[weather])
print("after the tool:", told.choices[0].message.content)
