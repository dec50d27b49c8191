package main

import (
	"fmt"
	"strings"
)

// What the mock says. Chunks differ, since a gateway may take many equal ones for a model that loops.
var (
	whole  = []byte(fmt.Sprintf(`{%s,"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"%s"},"logprobs":null,"finish_reason":"stop"}],%s}`, head, strings.Repeat(" word", 100), counted))
	chunks = makeChunks()
	stop   = []byte(fmt.Sprintf(`data: {%s,"object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}`+"\n\n", head))
	usage  = []byte(fmt.Sprintf(`data: {%s,"object":"chat.completion.chunk","choices":[],%s}`+"\n\n", head, counted))
)

const (
	head    = `"id":"chatcmpl-0123456789","created":1700000000,"model":"auto","system_fingerprint":"fp"`
	counted = `"usage":{"prompt_tokens":500,"completion_tokens":100,"total_tokens":600}`
)

func makeChunks() [][]byte {
	made := make([][]byte, 4096)
	for i := range made {
		delta := fmt.Sprintf(`{"content":" word%d"}`, i)
		if i == 0 {
			delta = `{"role":"assistant","content":"word"}`
		}
		made[i] = []byte(fmt.Sprintf(`data: {%s,"object":"chat.completion.chunk","choices":[{"index":0,"delta":%s,"logprobs":null,"finish_reason":null}]}`+"\n\n", head, delta))
	}
	return made
}
