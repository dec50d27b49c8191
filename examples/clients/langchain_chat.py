"""LangChain's ChatOpenAI, unchanged: a whole answer, a stream, and a tool that the model calls."""

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

model = ChatOpenAI(model="auto", stream_usage=True)  # reads OPENAI_BASE_URL and OPENAI_API_KEY
question = HumanMessage("What is the weather in Paris?")

print("answer:", model.invoke([question]).content)

print("stream: ", end="")
usage = None
for chunk in model.stream([question]):
    print(chunk.content, end="", flush=True)
    usage = chunk.usage_metadata or usage
print("\nusage:", usage["input_tokens"], "in,", usage["output_tokens"], "out")


@tool
def weather(city: str) -> str:
    """Tell the weather in a city."""
    return "sunny"


able = model.bind_tools([weather])
wants = able.invoke([question])
call = wants.tool_calls[0]
print("tool:", call["name"], call["args"])
result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
print("after the tool:", able.invoke([question, wants, result]).content)
