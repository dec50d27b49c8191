package main

import (
	"fmt"
	"strings"
)

// What the mock says. Chunks differ, since a gateway may take many equal ones for a model that loops.
var (
	whole  = []byte(fmt.Sprintf(`{%s,"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"%s"},"logprobs":null,"finish_reason":"stop"}],%s}`, head, strings.Repeat(" word", words), counted(words)))
	chunks = makeChunks()
	stop   = []byte(fmt.Sprintf(`data: {%s,"object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}`+"\n\n", head))
)

const (
	head  = `"id":"chatcmpl-0123456789","created":1700000000,"model":"auto","system_fingerprint":"fp"`
	words = 100 // of an answer in one piece
	input = 500
)

func counted(tokens int) string {
	return fmt.Sprintf(`"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}`, input, tokens, input+tokens)
}

// usage is the last event of a stream of so many chunks. A gateway may compare what answers of one size take,
// so a long stream must not pass for an answer that came at once.
func usage(chunks int) []byte {
	return []byte(fmt.Sprintf(`data: {%s,"object":"chat.completion.chunk","choices":[],%s}`+"\n\n", head, counted(chunks)))
}

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
