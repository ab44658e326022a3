"""One form of a reranking, whichever engine made it: Jina's and Cohere's. Pure.

vLLM always sends the documents back, llama.cpp never does; here they come when `return_documents` asks for them.
"""

from __future__ import annotations

from typing import Any


def in_one_form(answer: dict[str, Any], body: dict[str, Any]) -> dict[str, Any] | None:
    """The answer with its results best first, at most `top_n` of them, with documents where they were asked for. None: it is no such
    answer."""
    documents, results = body["documents"], answer.get("results")
    if not isinstance(results, list):
        return None
    found: list[tuple[float, dict[str, Any]]] = []
    for result in results:
        index = result.get("index") if isinstance(result, dict) else None
        score = result.get("relevance_score") if isinstance(result, dict) else None
        if type(index) is not int or not 0 <= index < len(documents) or isinstance(score, bool) or not isinstance(score, int | float):
            return None
        more = {"document": {"text": documents[index]}} if body.get("return_documents") else {}
        found.append((score, {"index": index, "relevance_score": score, **more}))
    found.sort(key=lambda one: -one[0])
    return answer | {"results": [one for _, one in found[: body.get("top_n") or len(found)]]}
