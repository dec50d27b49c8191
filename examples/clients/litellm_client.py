"""LiteLLM as a client, unchanged: a whole answer, a stream, and a tool that the model calls."""

import json
import os

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else its import asks the internet for prices

import litellm

model = "openai/auto"  # OpenAI's API, at OPENAI_BASE_URL with OPENAI_API_KEY
question = [{"role": "user", "content": "What is the weather in Paris?"}]

answer = litellm.completion(model=model, messages=question)
print("answer:", answer.choices[0].message.content)

print("stream: ", end="")
for chunk in litellm.completion(
    model=model, messages=question, stream=True, stream_options={"include_usage": True}
):
    for choice in chunk.choices:
        print(choice.delta.content or "", end="", flush=True)
    if usage := getattr(chunk, "usage", None):
        print("\nusage:", usage.prompt_tokens, "in,", usage.completion_tokens, "out")

weather = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
wants = litellm.completion(model=model, messages=question, tools=[weather]).choices[0].message
call = wants.tool_calls[0]
print("tool:", call.function.name, json.loads(call.function.arguments))
result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
told = litellm.completion(model=model, messages=[*question, wants.model_dump(), result], tools=[weather])
print("after the tool:", told.choices[0].message.content)
