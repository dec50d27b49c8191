"""LlamaIndex, unchanged: a whole answer, a stream, and a tool that the model calls.

`OpenAILike` rather than `OpenAI`: that one takes only the names of OpenAI's own models.
"""

import os

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

llm = OpenAILike(
    model="auto",
    api_base=os.environ["OPENAI_BASE_URL"],
    api_key=os.environ["OPENAI_API_KEY"],
    is_chat_model=True,
    is_function_calling_model=True,
)
question = ChatMessage(role="user", content="What is the weather in Paris?")

print("answer:", llm.chat([question]).message.content)

print("stream: ", end="")
for chunk in llm.stream_chat([question]):
    print(chunk.delta or "", end="", flush=True)
print()


def weather(city: str) -> str:
    """Tell the weather in a city."""
    return "sunny"


tools = [FunctionTool.from_defaults(weather)]
wants = llm.chat_with_tools(tools, chat_history=[question])
call = llm.get_tool_calls_from_response(wants)[0]
print("tool:", call.tool_name, call.tool_kwargs)
result = ChatMessage(
    role="tool", content=weather(**call.tool_kwargs), additional_kwargs={"tool_call_id": call.tool_id}
)
told = llm.chat_with_tools(tools, chat_history=[question, wants.message, result])
print("after the tool:", told.message.content)
