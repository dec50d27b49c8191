// OpenAI's client for Node, unchanged: a whole answer, a stream, and a tool that the model calls.
import OpenAI from "openai";

const client = new OpenAI(); // reads OPENAI_BASE_URL and OPENAI_API_KEY
const question = [{ role: "user", content: "What is the weather in Paris?" }];

const { data, response } = await client.chat.completions
  .create({ model: "auto", messages: question })
  .withResponse();
console.log("answer:", data.choices[0].message.content);
console.log("model:", response.headers.get("x-modelfleet-model"));

const stream = await client.chat.completions.create({
  model: "auto",
  messages: question,
  stream: true,
  stream_options: { include_usage: true },
});
process.stdout.write("stream: ");
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
  if (chunk.usage) {
    console.log(`\nusage: ${chunk.usage.prompt_tokens} in, ${chunk.usage.completion_tokens} out`);
  }
}

const weather = {
  type: "function",
  function: {
    name: "weather",
    description: "Tells the weather in a city.",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};
const wants = (await client.chat.completions.create({ model: "auto", messages: question, tools: [weather] }))
  .choices[0].message;
const [call] = wants.tool_calls;
console.log("tool:", call.function.name, JSON.parse(call.function.arguments));
const result = { role: "tool", tool_call_id: call.id, content: "sunny" };
const told = await client.chat.completions.create({
  model: "auto",
  messages: [...question, wants, result],
  tools: [weather],
});
console.log("after the tool:", told.choices[0].message.content);
